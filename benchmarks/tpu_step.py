"""Counts the bytes and FLOPs of a training step on a TPU v5e, as the compiler reports them, without a TPU: networks and single units.

    python benchmarks/tpu_step.py networks tiny large             # with and without teachers, bfloat16 and float32: 2 to 6 minutes each
    python benchmarks/tpu_step.py networks tiny --only=labels-bfloat16 --default    # compiled as `train` compiles
    python benchmarks/tpu_step.py networks tiny --only=labels-bfloat16 --share=128  # images a chip; default 64
    python benchmarks/tpu_step.py lever "what was changed"        # the units, and BNext-T from labels in bfloat16

Topology v5e:2x2. Compiled at effort -1 except with --default. Bytes are comparable only at equal effort and with the same version of
libtpu. Bytes are those that cost_analysis counts. They include padding to whole tiles (8 x 128) and, with --default, copies on the
chip. Figures named "hbm" count only bytes that cross HBM's bus (bnext_jax/tpu/traffic.py). The script writes results/tpu_step.json
after each compilation.
"""

import dataclasses
import importlib
import logging
import pathlib
import sys
from importlib import metadata

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import record
from bnext_jax.commands.plan import QUICK, USERS, with_share
from bnext_jax.host import process
from bnext_jax.nn.bnext_units import BasicBlock, BinaryFeedForward, ElmAttention
from bnext_jax.nn.network import flatten, unflatten
from bnext_jax.tpu import abstract, aot

TOPOLOGY, SHARE = "v5e:2x2", 64
FORMS = ("labels-bfloat16", "distilled-bfloat16", "labels-float32", "distilled-float32")

# name: (function that makes the unit, shape of its input map [H, W, C])
UNITS = {
    "1x1 feed-forward, 28x28x256": (lambda rngs: BinaryFeedForward(256, 1, rngs=rngs), (28, 28, 256)),
    "3x3 feed-forward, 28x28x256": (lambda rngs: BinaryFeedForward(256, 3, rngs=rngs), (28, 28, 256)),
    "ELM attention, 28x28x256": (lambda rngs: ElmAttention(256, rngs=rngs), (28, 28, 256)),
    "ELM attention, stride 2, 56x56x128": (lambda rngs: ElmAttention(128, 2, rngs=rngs), (56, 56, 128)),
    "block that widens, stride 2, 56x56x128": (lambda rngs: BasicBlock(128, 256, 2, elm_attention=False, rngs=rngs), (56, 56, 128)),
    "block that widens, stride 1, 112x112x32": (lambda rngs: BasicBlock(32, 64, 1, elm_attention=False, rngs=rngs), (112, 112, 32)),
}


def kept():
    """Reads the parts of results/tpu_step.json that earlier calls wrote."""
    found = record.kept("tpu_step")
    return {"networks": found.get("networks", {}), "levers": found.get("levers", [])}


def write(parts):
    """Writes results/tpu_step.json."""
    settings = {"topology": TOPOLOGY, "libtpu": metadata.version("libtpu")}
    record.write("tpu_step", {**settings, **parts})


def network(size, form, effort, share=SHARE):
    """Compiles the step of a published recipe with `share` images a chip; returns bytes and FLOPs an image, memory, compile seconds."""
    teaching, precision = form.split("-")
    config = importlib.import_module(f"configs.imagenet_bnext_{size}").get_config(teaching).check()
    where = aot.topology(TOPOLOGY)
    config = with_share(dataclasses.replace(config, precision=precision, eval_batch_size=share * len(where.devices)), where, share)
    made = abstract.abstract_programs(config, where, abstract.facts(config.data))
    found = aot.compiled(f"BNext {size}, {form}, effort {effort:g}", *made.train, where, effort, made.parameters)
    if not found["fits"]:
        return {"fits": False, "told": found["told"], "compile_seconds": found["compile_seconds"]}
    return {
        "megabytes_per_image": round(found["bytes_accessed"] / share / 1e6, 1),
        "hbm_megabytes_per_image": round(found["hbm_bytes"] / share / 1e6, 1),
        "gigaflops_per_image": round(found["flops"] / share / 1e9, 2),
        "temporaries_gib": round(found["temporaries"] / 2**30, 3),
        "peak_gib": round(found["peak"] / 2**30, 3),
        "compile_seconds": found["compile_seconds"],
    }


def unit(name):
    """Counts the bytes that the forward and backward pass of one unit move in bfloat16.

    Args:
      name: a key of UNITS.
    Returns:
      {"megabytes_per_image", "maps": the bytes divided by the bytes of the input map}.
    """
    make, shape = UNITS[name]
    where = aot.topology(TOPOLOGY)
    place = jax.sharding.SingleDeviceSharding(where.devices[0])
    module = nnx.view(nnx.eval_shape(lambda: make(nnx.Rngs(0))), use_running_average=False, batch_norm_group=SHARE)
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    params, rest = flatten(params), flatten(rest)

    def forward(params, rest, x):
        module = nnx.merge(graphdef, unflatten({**params, **rest}))
        return module(x, jnp.float32(0.5)), flatten(nnx.state(module, nnx.BatchStat))

    def both(params, rest, x, cotangent):
        out, back, stats = jax.vjp(lambda params, x: forward(params, rest, x), params, x, has_aux=True)
        return out, back(cotangent), stats

    x = jax.ShapeDtypeStruct((SHARE, *shape), jnp.bfloat16)
    out, _ = jax.eval_shape(forward, params, rest, x)
    arguments = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), (params, rest, x, out))
    found = aot.compiled(name, jax.jit(both), arguments, where, QUICK)
    return {
        "megabytes_per_image": round(found["bytes_accessed"] / SHARE / 1e6, 2),
        "maps": round(found["bytes_accessed"] / (2 * x.size), 1),
    }


def networks(words):
    """Compiles the networks on the command line and writes the results after each."""
    effort = USERS if "--default" in words else QUICK
    only = [word.removeprefix("--only=") for word in words if word.startswith("--only=")]
    share = int(next((word.removeprefix("--share=") for word in words if word.startswith("--share=")), SHARE))
    for size in [word for word in words if not word.startswith("--")]:
        for form in only or FORMS:
            found = network(size, form, effort, share)
            parts = kept()
            parts["networks"].setdefault(f"bnext_{size}", {}).setdefault(f"effort {effort:g}, {share} images a chip", {})[form] = found
            write(parts)


def lever(what):
    """Compiles every unit, and BNext-T from labels in bfloat16; appends the results under the name of the change."""
    parts = kept()
    parts["levers"].append({"changed": what, "commit": process.revision(), "units": {}})
    entry = parts["levers"][-1]
    for name in UNITS:
        entry["units"][name] = unit(name)
        write(parts)
    entry["bnext_tiny"] = network("tiny", "labels-bfloat16", QUICK)
    write(parts)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    process.without_tpu()
    command, *words = sys.argv[1:]
    {"networks": networks, "lever": lambda words: lever(*words)}[command](words)

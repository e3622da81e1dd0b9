"""Measures a network on one GPU: our training step, our evaluation forward, and the same network in PyTorch on the same card.

    python benchmarks/gpu.py                                  # BNext-T, batches of 64 and 256; needs the extras cuda and convert
    python benchmarks/gpu.py --cpu --model=bnext --widths=8,8,16 --pixels=64 --batches=2 --turns=1   # a trial without a GPU
    python benchmarks/input_pipeline.py                       # how many images a second this host decodes

Random images and weights, labels alone. In the evaluation all weights are exact signs; PyTorch computes them once, before the clock runs.
Each precision and batch has a process of its own, in which the programs run in turn, so that a busy moment of the machine hits all alike.
A rate is the median of turns; a turn is several calls, waited for at its end, after one call that does not count.

- Arithmetic: float32 evaluation multiplies in full float32, here and in PyTorch. JAX's default in a float32 training step is TF32.
- Peak memory: what a program adds to the memory in use before it, with its weights and the trials of its compiler. JAX never forgets a
  peak, so the training step comes last. The programs share the card: one may lack the memory that others keep.
- FLOPs: XLA's cost analysis of the program before it is compiled. PyTorch's are those of our evaluation.
- What could not run is in "missing", with the reason, such as "out of memory". The figures go to results/gpu.json; --cpu prints them.
"""

import argparse
import concurrent.futures
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from bnext_jax.host.process import without_tpu

if __name__ == "__main__":  # JAX reads these when it starts; the processes of the cases inherit them
    without_tpu()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else JAX takes three quarters of the card at once
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
    os.environ["JAX_PLATFORMS"] = "cpu" if "--cpu" in sys.argv else ""  # "": a GPU if there is one, and the CPU, which counts FLOPs

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxlib import _jax

from benchmarks import record, steps
from bnext_jax.bench import contenders
from bnext_jax.errors import UserError, one_line
from bnext_jax.models.table import create_model, model_config
from bnext_jax.nn.network import split
from bnext_jax.training import mesh

# TFLOP/s of NVIDIA's data sheets, without sparsity, by the exact name of the card: its sisters have other peaks
A100S = ("-SXM4-40GB", "-SXM4-80GB", "-PCIE-40GB", " 80GB PCIe")
PEAKS = {
    "NVIDIA H100 80GB HBM3": {"bfloat16": 989, "tf32": 495, "float32": 67},  # the H100 SXM
    **{f"NVIDIA A100{form}": {"bfloat16": 312, "tf32": 156, "float32": 19.5} for form in A100S},
    "NVIDIA L4": {"bfloat16": 121, "tf32": 60, "float32": 30.3},
}
OURS = TRAINING, EVALUATION = "bnext_jax, training step", "bnext_jax, evaluation"
COMPILED = "PyTorch, compiled"
TORCH = {"PyTorch": {}, "PyTorch, channels_last": {"last": True}, COMPILED: {"compiled": True}}


def flops(lowered):
    """FLOPs of a lowered program. The CPU's client counts them: that of GPUs cannot, and a compiled program hides those in cuDNN."""
    return _jax.hlo_module_cost_analysis(jax.devices("cpu")[0].client, lowered.compiler_ir("hlo").as_hlo_module())["flops"]


def training(options, precision, batch):
    """Our training step: (a function that runs it, its FLOPs)."""
    card = mesh.make_shardings("", jax.devices()[:1])
    step, given, _ = steps.built(card, options.model, batch, options.pixels, dtype=precision, **options.arguments)
    lowered = step.lower(*given)
    return steps.Stepping(lowered.compile(), given), flops(lowered)


def evaluation(model, images):
    """Our evaluation forward: (a function that runs it, its FLOPs)."""
    structure, params, rest = split(model, training=False)
    given = {**params, **rest}, images
    with jax.default_matmul_precision("highest"):  # as `evaluate`
        lowered = jax.jit(lambda *given: structure(*given)[0]).lower(*given)
    compiled = lowered.compile()
    return lambda: compiled(*given), flops(lowered)


def in_torch(model, images, precision, *, last=False, compiled=False):
    """The evaluation forward in PyTorch, on the GPU, or on the CPU where JAX runs there: (a function that runs it, None)."""
    import torch

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()  # fails, and is noted, where PyTorch finds no GPU
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = False, True  # matrix products use no TF32 by default
    kind, dtype = torch.channels_last if last else torch.contiguous_format, getattr(torch, precision)
    net = contenders.torch_network(model).to(device, dtype).to(memory_format=kind).fixed()  # fixed again: the signs of these weights
    given = torch.from_numpy(images.transpose(0, 3, 1, 2)).to(device, dtype).contiguous(memory_format=kind)
    call = torch.compile(net) if compiled else net
    return torch.inference_mode()(lambda: call(given)), None


def wait(results):
    """Waits until a list of results is there, of JAX or of PyTorch."""
    jax.block_until_ready(results)
    if getattr(results[-1], "is_cuda", False):
        sys.modules["torch"].cuda.synchronize()


def memory(name):
    """(bytes in use, peak bytes) that a program's library counts on the GPU; the peak is None where it tells nothing."""
    if name in OURS:
        told = jax.devices()[0].memory_stats() or {}
        return told.get("bytes_in_use", 0), told.get("peak_bytes_in_use")
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    on_gpu = cuda and cuda.is_available() and jax.default_backend() == "gpu"
    return (cuda.memory_allocated(), cuda.max_memory_allocated()) if on_gpu else (0, None)


def case(options, precision, batch):
    """Measures all programs in one precision with one batch: {"programs": {name: figures}, "missing": {name: reason}}."""
    images = np.random.default_rng(0).standard_normal((batch, options.pixels, options.pixels, 3), np.float32)
    model = create_model(options.model, rngs=nnx.Rngs(0), **options.arguments)
    if model.takes_temperature:
        model.temperature[...] = jnp.zeros(())
    makers = {EVALUATION: lambda: evaluation(model, jnp.asarray(images, precision))}
    makers |= {name: lambda form=form: in_torch(model, images, precision, **form) for name, form in TORCH.items()}
    makers[TRAINING] = lambda: training(options, precision, batch)
    missing = {COMPILED: "left out by --no_compile"} if options.no_compile else {}
    runs, counts, peaks, seconds = {}, {}, {}, {}
    for name in (1 + options.turns) * list(makers):  # the first turn compiles
        if name in missing:
            continue
        try:
            if name not in runs:
                before = 0 if name == EVALUATION else memory(name)[0]  # 0: the model's weights are its own
                run, count = makers[name]()
                wait([run()])
                _, peak = memory(name)
                runs[name], counts[name], seconds[name] = run, count and count / batch, []
                peaks[name] = peak and peak - before
                continue
            wait([runs[name]()])
            start = time.perf_counter()
            wait([runs[name]() for _ in range(options.calls)])
            seconds[name].append((time.perf_counter() - start) / options.calls)
        except Exception as error:
            if name in OURS and not isinstance(error, jax.errors.JaxRuntimeError):
                raise
            full = "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
            missing[name] = "out of memory" if full else one_line(f"{type(error).__name__}: {error}")
            runs.pop(name, None)  # gives its memory back
    card, found = PEAKS.get(jax.devices()[0].device_kind), {}
    for name in runs:
        rate, each = batch / statistics.median(seconds[name]), counts[name] or counts.get(EVALUATION)
        arithmetic = "tf32" if (name, precision) == (TRAINING, "float32") and jax.default_backend() == "gpu" else precision
        share = round(rate * each / (card[arithmetic] * 1e12), 4) if card and each else None
        found[name] = {"images_per_second": round(rate, 1), "peak_bytes": peaks[name], "flops_per_image": each}
        found[name] |= {"arithmetic": arithmetic, "share_of_peak": share}
    return {"programs": found, "missing": missing}


def alone(*arguments):
    """`case` in a fresh process, which finds an empty card."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(case, *arguments).result()


def main(words):
    """Measures all cases. Returns the exit code."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", default="bnext_tiny")
    for name, several in {"widths": None, "batches": (64, 256)}.items():
        parser.add_argument(f"--{name}", type=lambda text: tuple(map(int, text.split(","))), default=several)
    for name, one in {"pixels": 224, "turns": 9, "calls": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=one)
    parser.add_argument("--no_compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--cpu", action="store_true", help="a trial on the CPU, which writes nothing")
    options = parser.parse_args(words)
    options.arguments = {"widths": options.widths} if options.widths else {}  # of the network
    try:
        if min(*options.batches, options.pixels, options.turns, options.calls) < 1:
            raise UserError("--batches, --pixels, --turns and --calls must be positive")
        model_config(options.model, **options.arguments)
        if not options.cpu and jax.default_backend() != "gpu":
            raise UserError(f"JAX finds no GPU, only {jax.default_backend()}; install the extra cuda on a machine with one, or try --cpu")
    except UserError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2
    cases = {}
    for precision, batch in itertools.product(("bfloat16", "float32"), options.batches):
        print(f"{precision}, batch {batch}", file=sys.stderr)
        cases[f"{precision}, batch {batch}"] = (case if options.cpu else alone)(options, precision, batch)
    card, torch = jax.devices()[0].device_kind, [found.version for found in importlib.metadata.distributions(name="torch")]
    values = {"card": card, "teraflops_of_card": PEAKS.get(card), "torch": torch, "settings": vars(options), "cases": cases}
    print(json.dumps(values, indent=1)) if options.cpu else record.write("gpu", values)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

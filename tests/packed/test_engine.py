"""The engine in C computes the logits of the float network, alone and inside jax.jit, with every kernel of this processor."""

import concurrent.futures
import gc
import os
import pathlib
import platform
import struct
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnext_jax.errors import UserError
from bnext_jax.packed import file
from bnext_jax.packed.engine import Engine
from bnext_jax.packed.network import PackedNetwork, load
from bnext_jax.packed.pack import pack
from tests.helpers.exact_networks import exact_network, logits


def kernels_of_this_processor():
    """The kernels that this processor must have, from what the operating system says about it."""
    if platform.machine() == "aarch64":
        return ["neon", "c"]
    told = pathlib.Path("/proc/cpuinfo").read_text()
    flags = next((set(line.split()) for line in told.splitlines() if line.startswith("flags")), set())
    wide = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vpopcntdq"} <= flags
    return [*(["avx512"] if wide else []), *(["avx2"] if {"avx2", "fma"} <= flags else []), "c"]


KERNELS = kernels_of_this_processor()
NETWORKS = {
    "attention and pairs": ("bnext", 16, {"widths": (16, 32, 64, 64)}),
    "widths that are no multiple of 16": ("bnext", 16, {"widths": (8, 8, 16, 32)}),
    "48 channels": ("bnext", 16, {"widths": (24, 48, 48)}),
    "no attention": ("bnext", 16, {"widths": (16, 32, 64), "elm_attention": False}),
    "no info-recoupling": ("bnext", 16, {"widths": (16, 32, 64), "info_recoupling": False}),
    "quantized edition": ("bnext", 16, {"widths": (16, 32, 64), "gate_bits": 4, "stem_bits": 8, "classifier_bits": 8}),
    "stem of stride 2": ("bnext", 32, {"widths": (16, 16, 32), "stem_stride": 2}),
    "BNext-18 for small images": ("bnext18", 16, {"widths": (16, 32)}),
    "BNext-18 for ImageNet": ("bnext18", 32, {"widths": (16, 24), "stem_stride": 2}),
}


def images(count, side, seed=3):
    return np.random.default_rng(seed).standard_normal((count, side, side, 3), np.float32)


@pytest.fixture
def packed(tmp_path):
    """A function (name of the network, arguments) -> (float network, path of its packed file)."""

    def make(name="bnext", **arguments):
        model, metadata = exact_network(name, **arguments)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.bnext"
        file.write(path, *pack(model, metadata))
        return model, path

    return make


@pytest.mark.parametrize("case", NETWORKS)
def test_every_kernel_computes_the_logits_of_the_float_network(packed, case):
    name, side, arguments = NETWORKS[case]
    model, path = packed(name, **arguments)
    x = images(3, side)
    expected = logits(model, x)
    bound = (5e-3 if "gate_bits" in arguments else 1e-4) * expected.std()
    for kernel in KERNELS:
        found = Engine(path, threads=1, kernel=kernel)(x)
        assert np.abs(found - expected).max() <= bound, kernel


def test_the_fastest_kernel_is_the_default(packed):
    assert Engine(packed(widths=(8, 8))[1]).about.kernel == KERNELS[0]


def test_logits_do_not_depend_on_threads_batches_and_repetition(packed):
    _, path = packed(widths=(16, 32, 64))
    x = images(5, 64)
    once = Engine(path, threads=1)(x)
    for threads in (1, 2, 3, 5):
        engine = Engine(path, threads=threads)
        np.testing.assert_array_equal(engine(x), once)
        np.testing.assert_array_equal(np.concatenate([engine(one[None]) for one in x]), once)


def test_an_image_that_is_not_square(packed):
    model, path = packed(widths=(16, 32, 64))
    x = np.random.default_rng(0).standard_normal((2, 6, 22, 3), np.float32)
    expected = logits(model, x)
    assert np.abs(Engine(path)(x) - expected).max() <= 1e-4 * expected.std()


def test_python_threads_may_share_an_engine(packed):
    _, path = packed(widths=(16, 32, 64))
    engine, batches = Engine(path, threads=2), [images(2, 32, seed) for seed in range(12)]
    expected = [engine(batch) for batch in batches]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            for found, right in zip(pool.map(engine, batches), expected, strict=True):
                np.testing.assert_array_equal(found, right)


def test_inside_jit_it_computes_the_same_bits(packed):
    _, path = packed(widths=(8, 8, 16))
    model, metadata = load(path)
    assert isinstance(model, PackedNetwork) and metadata["packed"] and metadata["model"]["name"] == "bnext"
    x = images(4, 16)
    found = jax.jit(lambda x: model(x * 2))(x)
    np.testing.assert_array_equal(found, model.engine(x * 2))
    np.testing.assert_array_equal(jax.vmap(model)(x[:, None])[:, 0], model.engine(x))
    assert model.total_stride == 2 and model(jnp.zeros((0, 16, 16, 3))).shape == (0, 10)


def test_a_compiled_program_outlives_the_network_of_which_it_was_made(packed):
    _, path = packed(widths=(8, 8))
    engine = Engine(path)
    expected = engine(images(1, 8))
    traced = jax.jit(engine.traced).lower(images(1, 8)).compile()
    del engine
    gc.collect()
    np.testing.assert_array_equal(traced(images(1, 8)), expected)


def test_a_program_from_another_process_needs_the_file_open(packed):
    _, path = packed(widths=(8, 8))
    shape = jax.ShapeDtypeStruct((1, 10), jnp.float32)
    Engine(path).traced(images(1, 8))  # registers the custom call
    program = jax.jit(lambda x: jax.ffi.ffi_call("bnext_packed", shape)(x, key="of another file"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="not open in this process; load its file again"):
        jax.block_until_ready(program(images(1, 8)))


def test_a_forked_child_computes_too(packed):
    _, path = packed(widths=(16, 32))
    engine, x = Engine(path, threads=3), images(1, 32)
    expected = engine(x)
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # JAX warns of any fork; the child does not use JAX
        child = os.fork()
    if child == 0:  # no assertion and no exception may reach pytest from here
        os.write(write, b"same" if (engine(x) == expected).all() else b"different")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 20) == b"same"
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((1, 15, 16, 3), "sides that are multiples of 2"),
        ((1, 16, 16, 4), r"takes \[N, height, width, 3\]"),
        ((16, 16, 3), r"takes \[N, height, width, 3\]"),
    ],
)
def test_images_that_do_not_fit(packed, shape, sentence):
    model, _ = load(packed(widths=(8, 16, 32))[1])
    with pytest.raises(UserError, match=sentence):
        model(jnp.zeros(shape))
    with pytest.raises(UserError, match=r"multiples of 2|takes \[N, height, width, 3\]"):
        model.engine(np.zeros(shape))
    with pytest.raises(UserError, match=r"takes \[height, width, 3\]"):
        model.engine.map(np.zeros((16, 16)), 1)


def damaged(path, change):
    """Writes a copy of a packed file with a changed program. change: function of the list of words."""
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    count = struct.unpack_from("<I", content, start + 14 * 4)[0]
    words = list(struct.unpack_from(f"<{count}I", content, start))
    change(words)
    struct.pack_into(f"<{count}I", content, start, *words)
    other = path.with_name("damaged.bnext")
    other.write_bytes(content)
    return other


def operation(words, number):
    """The place of an operation's first word."""
    return 16 + 4 * words[2] + 32 * number


DAMAGES = {
    "another version": (lambda w: w.__setitem__(1, 2), "a program of version 2; this engine runs version 1"),
    "another magic number": (lambda w: w.__setitem__(0, 7), "holds no program for this engine"),
    "too many tensors": (lambda w: w.__setitem__(2, w[2] + 1), "the program has a wrong length"),
    "a tensor outside": (lambda w: w.__setitem__(16 + 3, 5), "tensor 0 lies outside the file"),
    "a wrong size": (lambda w: w.__setitem__(operation(w, 1) + 1, 24), "gives 24 for the inputs of a unit"),
    "an unknown operation": (lambda w: w.__setitem__(operation(w, 1), 9), "operation 1 is of kind 9, which this engine does not know"),
    "a tensor twice": (lambda w: w.__setitem__(operation(w, 1) + 9, w[operation(w, 1) + 10]), "is used twice"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_program_is_refused_with_a_sentence(packed, damage):
    change, sentence = DAMAGES[damage]
    with pytest.raises(UserError, match=sentence) as error:
        Engine(damaged(packed(widths=(8, 8))[1], change))
    assert "damaged.bnext: " in str(error.value)


def test_kernels_of_other_processors_are_refused(packed):
    with pytest.raises(UserError, match='this processor cannot run the kernels "sve"'):
        Engine(packed(widths=(8, 8))[1], kernel="sve")


def test_seconds_name_the_parts_of_the_work(packed):
    engine = Engine(packed(widths=(8, 16))[1])
    before = engine.seconds()
    engine(images(1, 64))
    after = engine.seconds()
    assert set(after) == {"real", "binary", "elementwise", "gates", "head"}
    assert all(after[part] > before[part] == 0 for part in after)

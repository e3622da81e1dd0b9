"""PokeBNN: arguments, initial values, the phases of a training as functions of the step, and the packed network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.config import DistillConfig, OptimizerConfig, TemperatureConfig
from bnext_jax.errors import UserError
from bnext_jax.io.checkpoint import without_run
from bnext_jax.io.save import described
from bnext_jax.models.pokebnn import Bottleneck
from bnext_jax.models.table import abstract_model, model_config
from bnext_jax.nn.network import split
from bnext_jax.packed import file
from bnext_jax.packed.network import load
from bnext_jax.packed.pack import pack
from bnext_jax.training import mesh, optimizers
from bnext_jax.training.step import StepSpec, compile_step, initial_state, make_step
from tests.helpers import poke
from tests.helpers.exact_networks import logits


@pytest.mark.parametrize("multiplier", [0.125, 0.25, 0.5, 0.75, 1, 1.25, 2])
def test_multipliers_whose_widths_divide_make_networks(multiplier):
    assert model_config("pokebnn", multiplier=multiplier).features == tuple(64 * multiplier * 2**i for i in range(4))


REFUSED = {
    "1.4": ({"multiplier": 1.4}, r"multiplier 1.4 gives widths that do not divide: a shortcut cannot repeat 64 channels into 356, 356"
            r" channels into 716; use 0.25 or 0.5 or 0.75 or 1 or 2$"),
    "widths": ({"widths": (64, 96), "depths": (1, 1)}, "cannot repeat 256 channels into 384; use other widths"),
    "narrow": ({"multiplier": 0.1}, "multiplier 0.1 with widths .* each product must be 8 or more"),
    "nan": ({"multiplier": float("nan")}, "multiplier nan"),
    "depths": ({"depths": (1, 0)}, r"depths \(1, 0\) are not a PokeBNN"),
    "number of widths": ({"depths": (1,), "widths": (64, 128)}, "give one width a stage"),
    "no width": ({"depths": (1,) * 5}, "give one width a stage"),
    "equal widths": ({"depths": (1, 1), "widths": (64, 64)}, r"multiplier 1.0 gives \(64, 64\): two stages in a row have the same width"),
    "stem": ({"stem_stride": 3}, "stem_stride is 3; a PokeBNN's is 1, 2 or 4, or None"),
    "step": ({"bounds_from_step": -1}, "bounds_from_step is -1; it is a whole number from 0 to 2147483647"),
    "epoch": ({"quantized_from_epoch": 0.5}, "quantized_from_epoch is 0.5; its type is int"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_that_make_no_network_give_one_sentence(case):
    arguments, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        model_config("pokebnn", **arguments)


def shape(model, *images):
    graphdef, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((*images, 3), jnp.float32)
    return jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x), nnx.as_pure(state), images).shape


@pytest.mark.parametrize(("classes", "pixels", "arguments", "kernel"), [
    (1000, 224, {}, (4, 4, 3, 32)), (10, 30, poke.SMALL, (3, 3, 3, 32)), (10, 30, {**poke.SMALL, "stem_stride": 2}, (2, 2, 3, 32)),
])  # fmt: skip
def test_the_stem_and_the_logits_follow_the_number_of_classes(classes, pixels, arguments, kernel):
    model = abstract_model("pokebnn", classes, **arguments)
    assert model.stem.kernel.shape == kernel and shape(model, 2, pixels, pixels) == (2, classes)
    assert len(model.blocks) == sum(model.config.depths) and model.classifier.kernel.shape[0] == 4 * model.config.features[-1]


def test_an_image_that_the_stem_does_not_divide_is_refused():
    with pytest.raises(UserError, match="images of 32x30 do not fit this PokeBNN, whose stem has stride 4"):
        shape(abstract_model("pokebnn", 1000, **poke.SMALL), 1, 32, 30)


def test_the_last_norm_of_a_bottlenecks_convolutions_starts_with_the_scale_zero():
    block = Bottleneck(64, 16, 1, rngs=nnx.Rngs(0))
    parts = (block.reduce, block.middle, block.expand)
    assert [float(part.norm1.scale[...].mean()) for part in parts] == [1, 1, 0]
    assert [float(part.norm2.scale[...].mean()) for part in parts] == [1, 1, 1]
    deviation = float(block.middle.conv.kernel[...].std())
    assert abs(deviation - (9 * 16) ** -0.5) < 0.01  # LeCun: the variance is 1 / fan_in


BATCH, GROUP, STEPS, STEPS_PER_EPOCH = 4, 2, 6, 2
BOUNDS_FROM, QUANTIZED_FROM = 3, 2  # a step, an epoch


def images(step):
    found = np.random.default_rng(step).standard_normal((BATCH, 8, 8, 3)).astype(np.float32)
    found[:, 2:5] = 0  # zeros are left out
    return np.abs(found) if step % 2 else found - 1


def extremes(steps):
    """(maximum, minimum, bounds) of the images, which are the stem's input, after so many steps, in float64."""
    ends, bounds = np.zeros((2, 3)), -np.ones(3)
    for step in range(steps):
        groups = images(step).astype(float).reshape(BATCH // GROUP, -1, 3)
        for end, (extreme, nothing) in enumerate(((np.max, -np.inf), (np.min, np.inf))):
            ends[end] += 0.1 * (extreme(np.where(groups == 0, nothing, groups), axis=1).mean(0) - ends[end])
        if step == BOUNDS_FROM:
            bounds = np.abs(ends).max(0)
    return {"maximum": ends[0], "minimum": ends[1], "bounds": bounds}


@pytest.fixture(scope="module")
def trained():
    """(Network, the states after 0, 1, ... steps, function that goes on from a state and a step to the end)."""
    arguments = {"multiplier": 0.25, "depths": (1,), "bounds_from_step": BOUNDS_FROM, "quantized_from_epoch": QUANTIZED_FROM}
    network, params, stats = split(poke.network(bounds=-1, **arguments), training=True, batch_norm_group=GROUP)
    adamw = optimizers.make_optimizer(OptimizerConfig(), network.decay_groups)
    spec = StepSpec(STEPS_PER_EPOCH, 3, (0, 0, 0), (1, 1, 1), jnp.dtype("float32"), jnp.dtype("float32"), DistillConfig(), GROUP,
                    OptimizerConfig(warmup_epochs=0), TemperatureConfig(), 1)  # fmt: skip
    shardings = mesh.make_shardings("")
    start = shardings.put_state(initial_state(network, params, stats, adamw))
    step = compile_step(make_step(network, {}, adamw, spec, shardings), shardings, start)

    def go_on(state, first):
        states = [jax.tree.map(np.array, state)]
        for number in range(first, STEPS):
            labels = np.random.default_rng(100 + number).integers(0, 10, BATCH)
            state, metrics = step(state, shardings.put_batch({"image": images(number), "label": labels}), shardings.put_flag(0), {})
            assert np.isfinite(float(metrics["loss"]))
            states.append(jax.tree.map(np.array, state))
        return states

    return network, go_on(start, 0), lambda state, first: go_on(shardings.put_state(jax.tree.map(jnp.asarray, state)), first)


def test_bounds_and_switches_are_functions_of_the_step(trained):
    network, states, _ = trained
    assert network.switches == {"bounded": ("step", BOUNDS_FROM), "quantized": ("epoch", QUANTIZED_FROM)}
    assert network.binarizers == ("quantized",)
    for done, state in enumerate(states[1:], start=1):
        stats = state["batch_stats"]
        assert bool(stats["bounded"]) == (done > BOUNDS_FROM) and bool(stats["quantized"]) == (done > QUANTIZED_FROM * STEPS_PER_EPOCH)
        for name, expected in extremes(done).items():
            np.testing.assert_allclose(stats[f"stem/quantizer/{name}"], expected, rtol=1e-5)
        every = [array for path, array in stats.items() if path.endswith("/bounds")]
        assert len(every) == 9  # stem, its grouped convolution, two layers of three excitations, classifier
        assert all((array >= 0).all() if done > BOUNDS_FROM else (array == -1).all() for array in every)
    set_once, last = (states[done]["batch_stats"] for done in (BOUNDS_FROM + 1, STEPS))
    for path in (path for path in last if path.endswith("/bounds")):
        assert last[path].tobytes() == set_once[path].tobytes(), path


def test_a_training_that_goes_on_from_a_stored_state_ends_with_the_same_bits(trained):
    _, states, go_on = trained
    for first in (2, 4):  # before the bounds are set; when they are set and weights become quantized
        again = go_on(states[first], first)[-1]
        for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(states[-1]), jax.tree.leaves(again), strict=True):
            assert one.tobytes() == other.tobytes(), path


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """(a network with all switches on and all bounds set, its packed file, tensors, images, logits)."""
    model = poke.network(multiplier=0.25, depths=(1, 1))
    place = tmp_path_factory.mktemp("packed") / "poke.bnext"
    tensors, description = pack(model, without_run(model, described(model)))
    file.write(place, tensors, description)
    photos = np.random.default_rng(5).standard_normal((2, 8, 8, 3)).astype(np.float32)
    return model, place, tensors, photos, logits(model, photos)


@pytest.mark.parametrize("form", ["xla", "float"])
def test_the_packed_network_has_the_same_logits(packed, form):
    _, place, _, photos, expected = packed
    found = logits(load(place, form=form)[0], photos)
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.std())


def test_a_packed_file_holds_bits_codes_and_bounds_but_no_statistics(packed):
    model, place, tensors, _, _ = packed
    assert "program" not in tensors  # the engine in C does not know the network; every form but the engine runs
    assert not [name for name in tensors if name.endswith(("maximum", "minimum", "bounded", "quantized"))]
    middle = "blocks/1/middle"
    assert tensors[f"{middle}/conv/kernel"].shape == (3, 3, 1, 32) and tensors[f"{middle}/conv/kernel"].dtype == np.uint32
    half = np.abs(model.blocks[1].middle.conv.kernel[...]).max((0, 1, 2)) / 2
    np.testing.assert_array_equal(tensors[f"{middle}/conv/kernel_scale"], half)
    gate = tensors[f"{middle}/excitation/reduce/kernel"]
    assert gate.dtype == np.uint8 and gate.shape == (32 * 4 // 2,)  # two codes a byte
    assert tensors["stem/kernel"].dtype == np.uint8 and tensors["stem/kernel_step"].shape == (32,)
    plain, _ = load(place, form="float")
    assert bool(plain.bounded[...]) and bool(plain.quantized[...]) and not plain.stem.quantizer.maximum[...].any()


def test_a_network_whose_weights_are_still_real_is_not_packed():
    model = poke.network(multiplier=0.25, depths=(1,))
    model.quantized[...] = jnp.asarray(False)
    with pytest.raises(UserError, match="binarizes them from epoch 50 on"):
        pack(model, without_run(model, described(model)))

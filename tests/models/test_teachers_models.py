"""EfficientNet, ConvNeXt and ResNet: shapes, numbers of parameters, gradients and wrong arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.io.names.rules import entries
from bnext_jax.io.torch.state_dict import from_state_dict, to_state_dict
from bnext_jax.models.convnext import Block
from bnext_jax.models.efficientnet import scaled_width
from bnext_jax.models.table import abstract_model, create_model
from bnext_jax.nn.batch_norm import BatchNorm

CLASSES = 10
NARROW = {
    "efficientnet": {
        "stem_width": 8,
        "head_width": 16,
        "stages": ((1, 3, 1, 8, 1), (4, 5, 2, 16, 1)),
    },
    "convnext": {"widths": (8, 16), "depths": (1, 1)},
    "resnet": {"widths": (8, 16), "depths": (1, 1), "bottleneck": True},
}
PARAMETERS = {
    "efficientnet_b0": 5_288_548,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b4": 19_341_616,
    "tf_efficientnet_lite0": 4_652_008,
    "convnext_tiny": 28_589_128,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
}
narrow = pytest.mark.parametrize("name", NARROW)


def _abstract(name, **arguments):
    return abstract_model(name, CLASSES, **{**NARROW[name], **arguments})


def _drawn(name, **arguments):
    """Returns a narrow network with values that numpy draws. JAX would compile one program per shape that it draws, 20 s in all."""
    graphdef, state = nnx.split(_abstract(name, **arguments))
    draw = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(state):
        value = draw.uniform(-0.3, 0.3, variable.shape)
        if path[-1] in ("scale", "var", "gamma"):
            value = 1 + value
        variable.set_value(jnp.asarray(0 * value if path[-1] == "batches" else value, variable.dtype))
    return nnx.merge(graphdef, state)


def _images(side, batch=4, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(side).standard_normal((batch, side, side, 3)), dtype)


def _logits(model, images):
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))(state, images)


@pytest.fixture(scope="module", params=NARROW)
def trained(request):
    """Runs one pass in training mode. Gives (name, {path: parameter}, {path: gradient}, {path: new running statistic})."""
    model = nnx.view(_drawn(request.param), use_running_average=False, raise_if_not_found=False)
    graphdef, parameters, rest = nnx.split(model, nnx.Param, ...)

    def loss(parameters, rest, images):
        network = nnx.merge(graphdef, parameters, rest, copy=True)
        logits = network(images)
        return -jax.nn.log_softmax(logits)[jnp.arange(4), jnp.arange(4)].mean(), nnx.state(network, nnx.BatchStat)

    grads, statistics = jax.jit(jax.grad(loss, has_aux=True))(parameters, rest, _images(16))
    flat = (dict(nnx.to_flat_state(state)) for state in (parameters, grads, statistics))
    return request.param, *({path: variable[...] for path, variable in state.items()} for state in flat)


@narrow
@pytest.mark.parametrize("side", [16, 32])
def test_narrow_network_maps_images_to_one_logit_per_class(name, side):
    logits = _logits(_drawn(name), _images(side))
    assert logits.shape == (4, CLASSES) and logits.dtype == jnp.float32
    assert np.isfinite(logits).all() and np.std(logits, 0).min() > 0


@narrow
def test_a_network_may_have_a_single_stage(name):
    one = {
        "efficientnet": {"stages": ((1, 3, 1, 8, 1),)},
        "convnext": {"widths": (8,), "depths": (1,)},
        "resnet": {"widths": (8,), "depths": (1,)},
    }
    assert _logits(_drawn(name, **one[name]), _images(16)).shape == (4, CLASSES)


@narrow
def test_half_precision_images_give_float32_logits_near_those_of_float32_images(name):
    model = _drawn(name)
    exact, half = (_logits(model, _images(16, dtype=dtype)) for dtype in (np.float32, np.float16))
    assert half.dtype == jnp.float32
    assert np.abs(half - exact).max() <= 1e-2 * np.abs(exact).max()


def test_every_parameter_has_a_nonzero_gradient_in_training_mode(trained):
    _, parameters, grads, _ = trained
    assert grads.keys() == parameters.keys()
    assert [path for path, grad in grads.items() if not np.abs(grad).max() > 0] == []


def test_training_counts_one_batch_in_each_batch_norm_and_convnext_has_none(trained):
    name, _, _, statistics = trained
    counts = [int(value) for path, value in statistics.items() if path[-1] == "batches"]
    assert counts == [1] * {"efficientnet": 7, "convnext": 0, "resnet": 9}[name]


@narrow
def test_decay_group_is_weights_exactly_where_pytorch_has_four_dimensions(name):
    model = _drawn(name)
    tensors = to_state_dict(model)
    groups = {e.name: e.variable.get_metadata("decay") for e in entries(model) if isinstance(e.variable, nnx.Param)}
    assert groups == {key: "weights" if tensors[key].ndim == 4 else "rest" for key in groups}


@narrow
def test_a_state_dict_round_trip_changes_nothing(name):
    tensors = to_state_dict(_drawn(name))
    again = to_state_dict(from_state_dict(_abstract(name), tensors))
    assert tensors.keys() == again.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, again[key], err_msg=key)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_is_the_published_one(name):
    shapes = jax.tree.leaves(nnx.state(abstract_model(name), nnx.Param))
    assert sum(leaf.size for leaf in shapes) == PARAMETERS[name]


@pytest.mark.parametrize(("width", "factor", "expected"), [(32, 1.1, 32), (16, 1.1, 16), (40, 1.4, 56), (11, 1.0, 16)])
def test_scaled_width_is_a_multiple_of_eight_and_at_least_nine_tenths(width, factor, expected):
    assert scaled_width(width, factor) == expected


def test_a_fresh_convnext_block_starts_with_its_layer_scale_and_bounded_kernel():
    block = Block(8, 0.5, rngs=nnx.Rngs(0))
    assert set(block.gamma[...].tolist()) == {0.5}
    assert 0.9 / 7 < np.abs(block.depthwise.kernel[...]).max() <= 1 / 7


@pytest.mark.parametrize("shape", [(18, 16), (16, 20), (4, 16)])
def test_convnext_refuses_images_that_it_cannot_patch_and_halve_evenly(shape):
    with pytest.raises(UserError, match="multiples of 8"):
        _abstract("convnext")(jnp.zeros((1, *shape, 3)))


def test_efficientnet_rounds_halves_of_odd_sizes_up():
    model = _abstract("efficientnet")
    graphdef, state = nnx.split(model)
    images = jnp.zeros((4, 17, 15, 3))
    features = jax.eval_shape(lambda state, images: nnx.merge(graphdef, state).features(images), state, images)
    assert features.shape == (4, 5, 4, 16)


@pytest.mark.parametrize(
    ("arguments", "side"), [({"stem_stride": 1}, 9), ({"stem_stride": 2, "stem_pool": False}, 5), ({"stem_stride": 2}, 3)]
)
def test_resnet_rounds_halves_of_odd_sizes_up_behind_each_of_its_stems(arguments, side):
    taps = []
    jax.eval_shape(lambda: _drawn("resnet", **arguments)(jnp.zeros((4, 17, 15, 3)), taps=taps))
    assert [tap.shape[1] for tap in taps] == [{9: 17, 5: 9, 3: 5}[side], side]


def test_resnet_starts_as_in_torchvision():
    model = create_model("resnet", 10, widths=(16, 32), depths=(1, 1), rngs=nnx.Rngs(0))
    kernel = np.asarray(model.stages[1][0].units[0].conv.kernel[...])  # normal, with variance 2 / (outputs x 9)
    assert abs(kernel.std() / np.sqrt(2 / (9 * 32)) - 1) < 0.05 and np.abs(kernel).max() > 3 * kernel.std()
    assert np.abs(model.classifier.kernel[...]).max() <= 32**-0.5 and np.abs(model.classifier.bias[...]).max() <= 32**-0.5
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, BatchNorm):
            assert set(layer.scale[...].tolist()) == {1.0} and set(layer.bias[...].tolist()) == {0.0}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("efficientnet", {"stages": ()}),
        ("efficientnet", {"stages": ((1, 4, 1, 8, 1),)}),
        ("efficientnet", {"stages": ((1, 3, 1, 8),)}),
        ("efficientnet", {"style": "caffe"}),
        ("convnext", {"widths": (8,), "depths": (1, 1)}),
        ("convnext", {"widths": (), "depths": ()}),
        ("convnext", {"widths": (8, 0), "depths": (1, 1)}),
        ("resnet", {"widths": (8,), "depths": (1, 1)}),
        ("resnet", {"depths": (1, 0)}),
        ("resnet", {"widths": (), "depths": ()}),
        ("resnet", {"depths": (1, 101)}),
        ("resnet", {"stem_stride": 4}),
    ],
)
def test_wrong_arguments_raise_user_error(name, arguments):
    with pytest.raises(UserError):
        _abstract(name, **arguments)

"""The binarizers of the eight networks give the values and the gradients of the reference implementations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnext_jax.nn.aqt import AqtQuantizer, weight_bound
from bnext_jax.nn.quantizers import ApproxSign, AqtSign, SteSign
from bnext_jax.nn.weight_quantizers import AqtWeightSign, MagnitudeAwareSign, SteWeightSign, XnorWeightScale
from tests.helpers import golden_files
from tests.helpers.golden_blocks import close

pytestmark = pytest.mark.golden
INF = float("inf")
TOLERANCE = 1e-6
AUTHORS = MagnitudeAwareSign(at_zero=0, scale_gradient=False)
ACTIVATIONS = {
    "bireal": ApproxSign(),
    "reactnet": ApproxSign(),
    "larq_approx_sign": ApproxSign(at_zero=1),
    "bnn_sign_alone": SteSign(clip_value=INF),
    "bnn": SteSign(clip_value=1, inclusive=False),
    "xnor": SteSign(clip_value=1, inclusive=False),
    "larq_ste_sign": SteSign(clip_value=1, at_zero=1),
    "larq_ste_sign_1.3": SteSign(clip_value=1.3, at_zero=1),
    "bitorch": SteSign(clip_value=1, at_zero=1),
    "aqt_binary": AqtSign(bound=3.0),
    "aqt_int8": lambda x: AqtQuantizer(8)(x, jnp.float32(2.5)),
    "aqt_int4": lambda x: AqtQuantizer(4)(x, jnp.float32(2.5)),
    "aqt_uint4": lambda x: AqtQuantizer(4, signed=False)(x, jnp.float32(2.5)),
}
WEIGHTS = {
    "bireal": AUTHORS,
    "reactnet": AUTHORS,
    "larq_magnitude_aware_sign": MagnitudeAwareSign(),
    "bnn": SteWeightSign(clip_value=INF, at_zero=0, bound=1.0),
    "xnor": XnorWeightScale(gradient="straight"),
    "larq_xnor_weight_scale": XnorWeightScale(),
    "larq_ste_sign": SteWeightSign(bound=1.0),
    "larq_ste_sign_1.3": SteWeightSign(clip_value=1.3, bound=1.3),
    "bitorch": SteWeightSign(clip_value=INF),
    "aqt_binary": AqtWeightSign(),
    "aqt_int8": AqtQuantizer(8).weights,
    "aqt_int4": AqtQuantizer(4).weights,
}
(PATH,) = [path for path in golden_files.files("zoo") if path.stem == "binarizers"]


def names(kind):
    with np.load(PATH) as archive:
        return sorted(key.split(":")[1] for key in archive.files if key.startswith(f"{kind}:") and key.endswith(":y"))


@pytest.mark.parametrize("name", names("act"))
def test_golden_activations_and_their_gradients(name):
    arrays, _ = golden_files.read(PATH)
    y, pullback = jax.vjp(ACTIVATIONS[name], jnp.asarray(arrays["x"]))
    close(y, arrays[f"act:{name}:y"], "y", TOLERANCE)
    close(pullback(jnp.asarray(arrays["gx"]))[0], arrays[f"act:{name}:dx"], "dx", TOLERANCE)


@pytest.mark.parametrize("name", names("weight"))
def test_golden_weights_and_their_gradients(name):
    arrays, _ = golden_files.read(PATH)
    latent, cotangent = (jnp.asarray(arrays[key].transpose(2, 3, 1, 0)) for key in ("w", "gw"))
    y, pullback = jax.vjp(WEIGHTS[name], latent)
    close(np.asarray(y).transpose(3, 2, 0, 1), arrays[f"weight:{name}:y"], "y", TOLERANCE)
    close(np.asarray(pullback(cotangent)[0]).transpose(3, 2, 0, 1), arrays[f"weight:{name}:dw"], "dw", TOLERANCE)


def test_every_golden_rule_has_a_quantizer():
    assert set(names("act")) == ACTIVATIONS.keys() and set(names("weight")) == WEIGHTS.keys()
    assert weight_bound(jnp.asarray([[1.0, -3.0], [-2.0, 2.0]])).tolist() == [2, 3]

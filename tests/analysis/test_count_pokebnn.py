"""PokeBNN's 1-, 4- and 8-bit layers are counted as what they are."""

import pytest

from bnext_jax.analysis import count, macs
from bnext_jax.models.table import abstract_model

# multiplier -> parameters, binary weights, multiply-accumulates (binary, stem, squeeze-and-excitation, classifier), degree in percent, ACE
KNOWN = {
    1.0: (26_567_424, 20_676_608, 3_609_460_736, 6_623_232, 3_632_640, 2_048_000, 97.73, 4_222_541_824),
    2.0: (101_738_896, 82_698_240, 14_412_152_832, 6_623_232, 14_528_000, 4_096_000, 99.01, 15_330_631_680),
}
BITS = {"binary": 1, "int4": 4, "int8": 8}


def products(multiplier):
    """{part: multiply-accumulates} at 224x224 pixels with 1000 classes, as products of shapes. The stem reduces the image to 56x56."""
    found = {"stem": 56 * 56 * (4 * 4 * 3 * 32 + 3 * 3 * 64), "binary": 0, "excitation": 0}
    inputs, side = 64, 56
    for number, (base, depth) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)):
        f = int(multiplier * base)
        for block in range(depth):
            before, side = side, side // 2 if number and block == 0 else side
            found["binary"] += before * before * inputs * f + side * side * (9 * f * f + 4 * f * f)
            found["excitation"] += sum(c * (c // 8) + (c // 8) * out for c, out in ((inputs, f), (f, f), (f, 4 * f)))
            inputs = 4 * f
    return {**found, "classifier": inputs * 1000}


def part(name):
    """The part of the network that a layer belongs to."""
    if name.startswith("blocks"):
        return "excitation" if "excitation" in name else "binary"
    return "classifier" if name == "classifier" else "stem"


@pytest.mark.parametrize("multiplier", KNOWN)
def test_pokebnn_is_counted_exactly(multiplier):
    parameters, weights, binary, stem, excitation, classifier, degree, ace = KNOWN[multiplier]
    assert products(multiplier) == {"binary": binary, "stem": stem, "excitation": excitation, "classifier": classifier}
    model = abstract_model("pokebnn", multiplier=multiplier)
    found = count.measure("pokebnn", model, (224, 224), per_layer=True)
    sums = {"binary": binary, "int8": stem + classifier, "int4": excitation, "float": 0}
    assert found["macs"] == found["edition"]["macs"] == sums
    assert (found["parameters"], found["binary_weights"], round(found["degree"], 2)) == (parameters, weights, degree)
    layers = macs.layers(model, 224, 224)
    assert {name: sum(one.macs for one in layers if part(one.name) == name) for name in products(multiplier)} == products(multiplier)
    assert sum(BITS[one.kind] ** 2 * one.macs for one in layers) == ace  # adders: bits of a weight times bits of an input

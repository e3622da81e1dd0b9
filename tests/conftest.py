"""What every test shares: both lowerings of the convolution."""

import pytest

from bnext_jax import convolution


@pytest.fixture(params=["cpu", "accelerator"])
def lowering(request, monkeypatch):
    """Runs a test with the CPU's form of the convolution and with the one that accelerators compile."""
    if request.param == "accelerator":
        monkeypatch.setattr(convolution, "_choose", lambda cpu, default, *operands: default(*operands))
    return request.param

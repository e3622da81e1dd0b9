"""The stages of a training that makes a network binary in steps: its config says what is binary already.

Real-to-Binary (Martinez et al. 2020, arXiv 2003.11535) has three stages, ReActNet (Liu et al. 2020, arXiv 2003.03488) the last two:

    activation="tanh", binary_weights=False     everything is real
    binary_weights=False                        binary activations, real weights
    (the defaults)                              both are binary

All stages have the same variables, so a stage starts from the weights of the one before it (config.init).
"""

import dataclasses
import functools
from typing import Any, ClassVar

from bnext_jax.errors import UserError
from bnext_jax.models.base import NetworkConfig
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.real_rules import RealWeight, Tanh

SIGN, TANH = ACTIVATIONS = ("sign", "tanh")
Maker = functools.partial[BinaryConv]  # makes a convolution from (inputs, features, size, stride, rngs=)


@dataclasses.dataclass(frozen=True)
class StagedConfig(NetworkConfig):
    """The arguments of a network that may be trained in stages. See the module.

    Attributes:
      binary_weights: False = the binary convolutions multiply with their latent weights as they are, without a sign, a scale or a clip.
      activation: of the input of the binary convolutions: "sign", or "tanh" in its place, which needs real weights.
    Raises:
      UserError: another activation, or "tanh" with binary weights.
    """

    binary_weights: bool = True
    activation: str = SIGN

    free: ClassVar[tuple[str, ...]] = ("binary_weights", "activation")

    def check(self) -> None:
        """Raises UserError, see the class."""
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation is {self.activation!r}; one of: {', '.join(ACTIVATIONS)}")
        if self.activation == TANH and self.binary_weights:
            raise UserError("activation 'tanh' makes a real-valued network; say binary_weights=False with it, or leave it out")

    def staged(self, conv: Maker, **real: Any) -> Maker:
        """The convolutions of this stage.

        Args:
          conv: makes the convolutions of the binary network.
          **real: arguments of BinaryConv that are different where the weights are real.
        """
        if not self.binary_weights:
            conv = functools.partial(conv, **{"kernel_quantizer": RealWeight(), **real})
        return functools.partial(conv, input_quantizer=Tanh()) if self.activation == TANH else conv

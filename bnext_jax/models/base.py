"""What all networks share: a config of their own, frozen and hashable."""

import dataclasses

from bnext_jax.errors import UserError

BITS = (4, 8)  # of a low-bit layer


def _tuples(value):
    """Lists, as JSON and command lines give them, as tuples, at every depth."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The arguments of one network, checked when made. Plain values and tuples alone: Flax NNX hashes a module's static attributes."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _tuples(getattr(self, field.name)))
        self.check()

    def check(self):
        """Raises UserError for values that make no network."""

    def resolved(self, num_classes):
        """The same config with every default that depends on the number of classes filled in."""
        del num_classes
        return self

    def edition(self, gate_bits):
        """The config of this network's quantized edition with gates of gate_bits (4 or 8), or None where it has no such edition."""
        del gate_bits
        return None


def check_bits(name, value):
    """Raises UserError unless a field holds bits of a low-bit layer, or None."""
    if value not in (None, *BITS):
        raise UserError(f"{name} is {value}; it is 4 or 8, or None")


def default_stride(num_classes):
    """The stride of BNext's stems by the reference's rule: 2 with 1000 classes, 1 otherwise (SPEC section 1)."""
    return 2 if num_classes == 1000 else 1

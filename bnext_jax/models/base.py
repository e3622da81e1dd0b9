"""The base class of all network configs. A config is frozen and hashable."""

import abc
import dataclasses
import numbers
import types
import typing
from typing import Any, ClassVar, Self

import jax
from flax import nnx

from bnext_jax.errors import UserError

BITS = (4, 8)  # possible bits of a low-bit layer
DEPTH_FIELDS = ("depth", "depths", "blocks")  # fields with the number of blocks of a stage, or of all stages
LARGEST_DEPTH = 100  # more is a mistake, which would take all memory


def _tuples(value: Any) -> Any:
    """Converts lists to tuples at every depth. JSON and command lines give lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value has a field's type: int, float, bool, str, None, a Literal, a tuple of such types, or a union of them."""
    parts = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if typing.get_origin(kind) is typing.Literal:
        return value in parts
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(part, parts[0]) for part in value)
    if kind in (int, float):
        return isinstance(value, numbers.Integral if kind is int else numbers.Real) and not isinstance(value, bool)
    return isinstance(value, kind)


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The arguments of one network. The constructor checks their types, then their values.

    Fields hold only plain values and tuples, because Flax NNX hashes the static attributes of a module.

    Attributes:
      free: names of fields that may have other values in a run than in the trained network that it starts from (config.init). No variable
        depends on them: they say when training changes the network, or what is binary already.
    Raises:
      UserError: a value of another type, more blocks than LARGEST_DEPTH in a stage, or values that do not make a network.
    """

    free: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _tuples(getattr(self, field.name))
            if not _fits(value, field.type):
                raise UserError(
                    f"{field.name} is {value!r}; its type is {field.type.__name__ if isinstance(field.type, type) else field.type}"
                )
            if field.name in DEPTH_FIELDS and any(number > LARGEST_DEPTH for number in (value if isinstance(value, tuple) else (value,))):
                raise UserError(f"{field.name} is {value}; a stage has at most {LARGEST_DEPTH} blocks")
            object.__setattr__(self, field.name, value)
        self.check()

    def check(self) -> None:
        """Raises UserError for values that do not make a network."""

    def resolved(self, num_classes: int) -> Self:
        """Fills in every default that depends on the number of classes. Returns a new config."""
        del num_classes
        return self

    def edition(self, gate_bits: int) -> Self | None:
        """The config of this network's quantized edition, with gates of gate_bits (4 or 8). None if there is no such edition."""
        del gate_bits
        return None


class TableModel(nnx.Module):
    """A network of models.table: images [N,H,W,3], normalized -> logits [N,classes].

    Attributes:
      config: the network's config, resolved.
      classifier: the last layer, nn.layers.Linear.
      takes_temperature: whether the binary weights have a temperature. Such a network keeps a Temperature as `temperature`, and its
        __call__ takes a scalar T as a second argument; None means the network's own.
      has_taps: whether __call__ takes `taps`, a list to which it appends the output of each block, in order; None appends nothing.
    """

    takes_temperature: ClassVar[bool] = False
    has_taps: ClassVar[bool] = False
    config: Any
    classifier: Any

    @property
    def total_stride(self) -> int:
        """The factor by which the network downsamples an image. An image whose sides are multiples of it fits the network."""
        return 1

    @abc.abstractmethod
    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits.

        Args:
          images: [N,H,W,3], normalized. Their type is the type of the computation.
        Returns:
          [N, num_classes] in float32 (float64 for float64 images).
        """


def told_temperature(temperature: float | None) -> dict[str, float]:
    """The entry of a result or of a line of the log: {"temperature": T}, or {} for None, a network that takes no temperature."""
    return {} if temperature is None else {"temperature": temperature}


def check_bits(name: str, value: int | None) -> None:
    """Raises UserError unless `value`, the value of the field `name`, is 4, 8 or None."""
    if value not in (None, *BITS):
        raise UserError(f"{name} is {value}; it is 4 or 8, or None")


def check_stride(stride: int | None) -> None:
    """Raises UserError unless the stride of a stem is 1, 2 or None."""
    if stride not in (None, 1, 2):
        raise UserError(f"stem_stride is {stride}; it is 1 or 2, or None")


def default_stride(num_classes: int) -> int:
    """The default stride of BNext's stems, as in the reference code: 2 with 1000 classes, else 1 (docs/spec.md, section 1)."""
    return 2 if num_classes == 1000 else 1

"""What stands for the objects of a pickle of PyTorch: tensors, their storages, and inert names for everything else.

Nothing that a file names is imported or called; `call` says what PyTorch's own functions would have made.
"""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True, eq=False)
class Inert:
    """Stands for an object that is neither plain data nor a tensor. It does nothing.

    Attributes:
      name: the class or function that would have made the object, with its module.
    Raises:
      ValueError: the name is longer than LONGEST.
    """

    name: str

    def __post_init__(self) -> None:
        if len(self.name) > LONGEST:  # five bytes of a file join two long texts to a new one
            raise ValueError(f"a name of {len(self.name)} characters")


@dataclasses.dataclass(frozen=True, eq=False)
class Named(Inert):
    """Stands for a class or function that the file names. Nothing is imported."""


@dataclasses.dataclass(frozen=True, eq=False)
class Odd(Inert):
    """Stands for a tensor without plain values; the name is its kind, for example "sparse_coo"."""


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """The numbers that a tensor is a view of.

    Attributes:
      key: names the storage in the file.
      dtype: PyTorch's name of the type, without "torch.".
      elements: how many numbers it holds.
      start: where it begins in the storage of this key; only the older format has such views.
      whole: how many numbers the storage of this key holds.
    """

    key: str
    dtype: str
    elements: int
    start: int
    whole: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor: a view of a storage. Nobody has checked yet that the view lies inside.

    Attributes:
      storage: the Storage.
      dtype: PyTorch's name of the type, without "torch.".
      offset: the first number, counted from the start of the storage.
      size: the shape.
      stride: steps between neighbours, for each dimension.
    """

    storage: Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


DTYPES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32", "Short": "int16",
    "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexDouble": "complex128", "ComplexFloat": "complex64", "QInt8": "qint8",
    "QUInt8": "quint8", "QInt32": "qint32", "QUInt4x2": "quint4x2", "QUInt2x4": "quint2x4", "Untyped": "uint8",
}  # fmt: skip
DICTS = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict")
TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
RECONSTRUCT = ("copyreg._reconstructor", "copy_reg._reconstructor")  # its first argument is the class
DIMENSIONS = 32  # the most that any version of numpy has
LONGEST = 1000  # characters of a name
LARGEST = 2**63  # PyTorch's sizes, strides and offsets have 64 bits
SCALARS = (str, int, float, bool, bytes, type(None))


def typed(value: Any, kind: type) -> Any:
    """Returns the value. Raises TypeError if it is of another type."""
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} in place of {kind.__name__}")
    return value


def _whole_numbers(value):
    if len(typed(value, tuple)) > DIMENSIONS:  # a tuple may stand in a file once and be used a million times
        raise ValueError(f"{len(value)} dimensions")
    return tuple(_whole_number(number) for number in value)


def _whole_number(value):
    if not -LARGEST <= typed(value, int) < LARGEST:  # products of longer numbers take minutes
        raise ValueError("a number of more than 64 bits")
    return value


def text_of(key: Any) -> str:
    """The key of a storage, a text or a number, as text. Raises TypeError for another type."""
    return str(key) if type(key) is int else typed(key, str)


def storage(persistent: Any) -> Any:
    """What a persistent id stands for: the Storage; or, of a saved module, the class.

    Raises:
      TypeError: the id has parts of other types than PyTorch writes.
      ValueError: the id has other parts than PyTorch writes.
    """
    kind, *rest = typed(persistent, tuple)
    if kind == "module":  # (class, source file, source)
        return rest[0]
    name, key, _, elements, *views = rest
    part = typed(typed(name, Named).name.rpartition(".")[2], str)
    dtype = DTYPES.get(part.removesuffix("Storage"), part)
    view = views[0] if views else None
    start, size = (0, elements) if view is None else _whole_numbers(view[1:])
    if kind != "storage" or not part.endswith("Storage") or min(_whole_numbers((elements, start, size))) < 0 or start + size > elements:
        raise ValueError("a storage of another kind")
    return Storage(text_of(key), dtype, size, start, elements)


def _tensor(held, offset, size, stride, *more):
    """torch._utils._rebuild_tensor(_v2): more = requires_grad, hooks, and since 2.0 the bits of lazy operations."""
    if len(more) > 2 and more[2]:
        return Odd("lazily negated or conjugated")
    return Tensor(typed(held, Storage), held.dtype, _whole_number(offset), _whole_numbers(size), _whole_numbers(stride))


def _tensor_of_type(held, offset, size, stride, grad, hooks, dtype, *more):
    """torch._utils._rebuild_tensor_v3: a tensor of a type that has no class of storages."""
    found = _tensor(held, offset, size, stride, grad, hooks, *more)
    return dataclasses.replace(found, dtype=typed(dtype, Named).name.removeprefix("torch.")) if type(found) is Tensor else found


def _tensor_of_class(function, cls, arguments, *_):
    """torch._tensor._rebuild_from_type_v2: a tensor with attributes, or of a class of its own."""
    return call(function, typed(arguments, tuple)) if typed(cls, Named).name in TENSORS else Odd(cls.name)


def _of_layout(layout, *_):
    return Odd(layout if type(layout) is str else "sparse")


# What PyTorch's functions would make, for those that files of tensors name
BUILDERS: dict[str, Callable] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_class,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._utils._rebuild_qtensor": lambda held, *_: Odd(f"{typed(held, Storage).dtype} (quantized)"),
    "torch._utils._rebuild_sparse_tensor": _of_layout,
    "torch._utils._rebuild_nested_tensor": lambda *_: Odd("nested"),
    "torch._utils._rebuild_meta_tensor_no_storage": lambda *_: Odd("meta, without numbers"),
    "torch._utils._rebuild_wrapper_subclass": lambda cls, *_: Odd(typed(cls, Named).name),
    "torch.serialization._get_layout": lambda layout: Named(typed(layout, str)).name.removeprefix("torch."),
    "torch.Size": lambda size=(): _whole_numbers(tuple(size)),
}


def call(made_by: Any, arguments: tuple) -> Any:
    """What stands for the result of a call in the file: a dict, a Tensor, or an Inert with the name of what was called.

    Args:
      made_by: the Named or Inert that the file calls.
      arguments: of the call.
    Raises:
      TypeError: the file calls something else, or with arguments of other types than PyTorch writes.
      ValueError: the arguments make no tensor.
    """
    if not isinstance(made_by, Inert):
        raise TypeError(f"a call of {type(made_by).__name__}")
    name = made_by.name
    if type(made_by) is Named and name in BUILDERS:
        return BUILDERS[name](*arguments)
    if type(made_by) is Named and name in DICTS and (not arguments or isinstance(arguments[0], Named | list)):
        pairs = arguments[-1] if arguments and type(arguments[-1]) is list else []  # Python 2 gave the items to the call
        found = {key_of(key): value for key, value in pairs}
        pairs.clear()  # so that no file makes many large dicts of one list
        return found
    if name in RECONSTRUCT and arguments and isinstance(arguments[0], Named):
        name = arguments[0].name
    return Inert(name)


def key_of(value: Any) -> Any:
    """A key of a dict. Other keys than scalars become an Inert: to hash nested tuples could overflow the stack."""
    return value if type(value) in SCALARS else Inert(type(value).__name__)

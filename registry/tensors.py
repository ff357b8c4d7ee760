"""Tensors and numbers as the pickle of a checkpoint describes them: calls that nobody makes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from registry.errors import IntegrityError
from registry.pickles import Call, Global

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from registry.torch_zip import TorchZip

# Storage class of torch → element type.
STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
CLASSES = {dtype: name for name, dtype in STORAGES.items()}
SIZES = {
    "float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2, "int8": 1,
    "uint8": 1, "bool": 1,
}  # fmt: skip
ORDERED_DICT = Global("collections", "OrderedDict")
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
PARAMETER = Global("torch._utils", "_rebuild_parameter")
NUMPY_SCALAR = re.compile(r"numpy\.(core|_core)\.multiarray\.scalar")
NUMPY_ARRAY = re.compile(r"numpy\.(core|_core)\.multiarray\._reconstruct")
NUMPY_TYPE = re.compile(r"[fiu][1248]|b1")


@dataclass(frozen=True)
class Storage:
    """Elements of one type in one member of the zip."""

    key: str
    dtype: str
    length: int  # elements

    @property
    def size(self) -> int:
        """Return the bytes that it takes."""
        return self.length * SIZES[self.dtype]


@dataclass(frozen=True)
class Tensor:
    """A named view of a storage."""

    name: str
    storage: Storage
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """Return the element type, by its name in numpy and torch."""
        return self.storage.dtype

    @property
    def length(self) -> int:
        """Return the number of elements."""
        length = 1
        for extent in self.shape:
            length *= extent
        return length


def plain(node: Any) -> Any:
    """Return a numpy number or array as Python numbers, torch.Size as a tuple, a plain value as it is."""
    if node is None or isinstance(node, bool | int | float | str):
        return node
    try:
        if isinstance(node, Call):
            function = str(node.function)
            if NUMPY_SCALAR.fullmatch(function):
                return _numbers(*node.arguments)[0]
            if NUMPY_ARRAY.fullmatch(function):
                _, shape, dtype, fortran, raw = node.state
                return _numbers(dtype, raw, shape, "F" if fortran else "C")
            if function == "torch.Size":
                return tuple(int(extent) for extent in node.arguments[0])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{shown(node)}: {error}") from error
    raise IntegrityError(f"{shown(node)} is no plain value")


def _numbers(dtype: Call, raw: Any, shape: Any = -1, order: Literal["C", "F"] = "C") -> Any:
    """Return numpy's pickled bytes as nested lists; types that hold Python objects are refused."""
    import numpy as np

    code = dtype.arguments[0]
    if str(dtype.function) != "numpy.dtype" or not NUMPY_TYPE.fullmatch(code):
        raise ValueError(f"type {code!r}")
    byte_order = dtype.state[1] if dtype.state and dtype.state[1] in ("<", ">") else "|"
    if isinstance(raw, Call) and str(raw.function) == "_codecs.encode":  # bytes, before protocol 3
        raw = raw.arguments[0].encode("latin1")
    return np.frombuffer(raw, np.dtype(byte_order + code)).reshape(shape, order=order).tolist()


def tensor_of(archive: TorchZip, name: Any, node: Any) -> Tensor:
    """Read a tensor's call and hold it against the size of its storage."""
    if isinstance(node, Call) and node.function == PARAMETER and node.arguments:
        node = node.arguments[0]
    if not (isinstance(name, str) and isinstance(node, Call) and node.function == REBUILD):
        raise IntegrityError(f"{name}: {shown(node)} is no tensor that mreg knows")
    try:
        outside, offset, shape, stride = node.arguments[:4]
        _, kind, key, _, length = outside.pid
        shape = plain(shape) if isinstance(shape, Call) else shape
        numbers = (length, offset, *shape, *stride)
    except (ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{name}: {error}") from error
    if any(type(number) is not int or number < 0 for number in numbers) or len(shape) != len(stride):
        raise IntegrityError(f"{name}: shape {shape}, stride {stride}, offset {offset}, storage of {length}")
    last = offset + sum((extent - 1) * step for extent, step in zip(shape, stride, strict=True))
    dtype = STORAGES.get(kind.name) if isinstance(kind, Global) and kind.module == "torch" else None
    if dtype is None:
        raise IntegrityError(f"{name}: {shown(kind)} is no storage that mreg knows")
    if 0 not in shape and last >= length:
        raise IntegrityError(f"{name}: reaches element {last} of a storage of {length}")
    storage = Storage(str(key), dtype, length)
    archive.expect(storage.key, storage.size)
    return Tensor(name, storage, offset, tuple(shape), tuple(stride))


def chunks(archive: TorchZip, storage: Storage) -> Iterator[np.ndarray[Any, np.dtype[Any]]]:
    """Yield a storage's values piece by piece."""
    import numpy as np

    for chunk in archive.storage(storage.key, storage.size):
        yield np.frombuffer(chunk, np.dtype(storage.dtype).newbyteorder("<"))


def mapping(node: Any, what: str) -> dict[Any, Any]:
    """Return a dict or OrderedDict."""
    if isinstance(node, dict):
        return node
    if isinstance(node, Call) and node.function == ORDERED_DICT:
        return dict(node.items)
    raise IntegrityError(f"{what} is {shown(node)}, expected a dict")


def shown(node: Any) -> str:
    """Return a short text for a message."""
    return f"{node.function}(…)" if isinstance(node, Call) else f"{type(node).__name__} {str(node)[:80]}"

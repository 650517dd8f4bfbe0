"""Tensors of a torch file as numpy arrays: storages read once, and views of them, checked."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

DTYPES: dict[str, np.dtype] = {
    f"torch.{name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Float": np.float32,
        "Double": np.float64,
        "Half": np.float16,
        "BFloat16": ml_dtypes.bfloat16,
        "Long": np.int64,
        "Int": np.int32,
        "Short": np.int16,
        "Char": np.int8,
        "Byte": np.uint8,
        "Bool": np.bool_,
        "ComplexFloat": np.complex64,
        "ComplexDouble": np.complex128,
    }.items()
}
MOST_AXES = 32


class Storage(NamedTuple):
    """The elements that tensors view, [n]."""

    elements: np.ndarray


class Storages:
    """What the pickle of one file says of its storages and tensors.

    Args:
      read: the bytes of a storage, by its key; raises ValueError if there is none.
      most_bytes: of all that is made, so that no stride of 0 makes a small file huge.
    """

    def __init__(self, read: Callable[[str], bytes], most_bytes: int):
        self._read, self._most, self._made = read, most_bytes, 0
        self._known: dict[str, Storage] = {}

    def storage(self, persistent_id: Any) -> Storage:
        """The storage of ("storage", type, key, device, number of elements)."""
        match persistent_id:
            case ("storage", np.dtype() as dtype, str(key), str(), int(count)):
                if key not in self._known:
                    self._known[key] = _storage(key, self._read(key), dtype, count)
            case _:
                raise ValueError("its pickle has a persistent id that is no storage")
        elements = self._known[key].elements
        if (elements.dtype, elements.size) != (dtype, count):
            raise ValueError(f"its storage {key} is declared twice, as different things")
        return self._known[key]

    def make(self, count: int) -> None:
        """Counts bytes that something in the pickle is about to take."""
        self._made += count
        if self._made > self._most:
            raise ValueError(
                f"its tensors and other values would take more than {self._most} bytes"
            )

    def tensor(self, *arguments: Any) -> np.ndarray:
        """A copy of the view that torch's rebuild functions describe.

        The arguments are storage, offset, size, stride, and what has no effect on the values:
        requires_grad, hooks and empty metadata.
        """
        match arguments:
            case (Storage() as storage, offset, tuple(size), tuple(stride), *rest):
                if len(rest) > 3 or rest[2:] not in ([], [None], [{}]):
                    raise ValueError("its pickle has a tensor with metadata")
                if not _whole((offset, *size, *stride)) or len(size) != len(stride):
                    raise ValueError(f"its pickle has a tensor of {_shape(offset, size, stride)}")
                return self._view(storage.elements, offset, size, stride)
        raise ValueError("its pickle has a tensor without storage, offset, size and stride")

    def parameter(self, *arguments: Any) -> np.ndarray:
        """The tensor of a parameter; what follows it has no effect on the values."""
        match arguments:
            case (np.ndarray() as data, _, _):
                return data
        raise ValueError("its pickle has a parameter that is no tensor")

    def _view(
        self, elements: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> np.ndarray:
        stride = tuple(s if n > 1 else 0 for n, s in zip(size, stride, strict=True))
        steps = [(n - 1) * s for n, s in zip(size, stride, strict=True)]
        last = offset if 0 in size else offset + sum(steps) + 1
        if last > elements.size or len(size) > MOST_AXES:
            raise ValueError(
                f"its pickle has a tensor of {_shape(offset, size, stride)}, which leaves its "
                f"storage of {elements.size} elements or has more than {MOST_AXES} axes"
            )
        self.make(math.prod(size) * elements.itemsize)
        if 0 in size:
            return np.zeros(size, elements.dtype)
        strides = [s * elements.itemsize for s in stride]
        view = np.lib.stride_tricks.as_strided(elements[offset:], size, strides, writeable=False)
        return np.array(view, order="C")


def _storage(key: str, data: bytes, dtype: np.dtype, count: int) -> Storage:
    if len(data) != count * dtype.itemsize:
        raise ValueError(
            f"its storage {key} has {len(data)} bytes, but {count} elements of {dtype} "
            f"are declared, {count * dtype.itemsize} bytes"
        )
    if dtype == np.bool_:  # any other byte than 0 and 1 is no valid bool
        return Storage(np.frombuffer(data, np.uint8) != 0)
    return Storage(np.frombuffer(data, dtype))


def _whole(numbers: tuple[Any, ...]) -> bool:
    return all(type(n) is int and n >= 0 for n in numbers)


def _shape(offset: Any, size: tuple[Any, ...], stride: tuple[Any, ...]) -> str:
    return f"size {str(size):.80}, stride {str(stride):.80} and offset {str(offset):.40}"

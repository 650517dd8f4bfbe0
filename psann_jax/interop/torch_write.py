"""Writes what `torch_file` reads: a zip file that torch.load(path, weights_only=True) opens.

Source: the layout that torch 2 writes (pickle protocol 2, storages aligned to 64 bytes).
"""

import os
from pathlib import Path
import struct
from typing import Any, BinaryIO
import zipfile

import numpy as np

from psann_jax.interop.torch_pickle import MOST_DEPTH
from psann_jax.interop.torch_tensor import DTYPES
from psann_jax.interop.whole_file import whole_file

_STORAGES = {dtype: name.removeprefix("torch.") for name, dtype in DTYPES.items()}
_FOLDER, _ALIGNMENT, _HEADER = "archive", 64, 30  # bytes of an entry's header without its name
_PAD_ID = 0x4246  # of the padding's extra field, as torch's own


def write(path: str | os.PathLike, tree: Any) -> None:
    """Saves dicts, lists, tuples, scalars, bytes and numpy arrays; the file appears whole.

    Raises:
      ValueError: the tree holds something else, or the file cannot be written; names it.
    """
    pickle = _Pickle()
    pickle.add(tree, Path(path).name)
    with whole_file(path) as part, part.open("wb") as file:
        _write_zip(file, pickle)
        file.flush()
        os.fsync(file.fileno())


def _write_zip(file: BinaryIO, pickle: "_Pickle") -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry(file, f"{_FOLDER}/data.pkl"), pickle.content())
        archive.writestr(_entry(file, f"{_FOLDER}/byteorder"), b"little")
        for key, array in enumerate(pickle.arrays):
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            archive.writestr(_entry(file, f"{_FOLDER}/data/{key}"), little.tobytes())
        archive.writestr(_entry(file, f"{_FOLDER}/version"), b"3\n")


def _entry(file: BinaryIO, name: str) -> zipfile.ZipInfo:
    """An entry whose content will begin at a multiple of 64 bytes."""
    entry = zipfile.ZipInfo(name)  # of 1980, so that equal trees give equal files
    start = file.tell() + _HEADER + len(name.encode()) + 4
    padding = -start % _ALIGNMENT
    entry.extra = struct.pack("<HH", _PAD_ID, padding) + b"Z" * padding
    return entry


class _Pickle:
    """A pickle that grows: protocol 2, without a memo."""

    def __init__(self):
        self.arrays: list[np.ndarray] = []
        self._parts = [b"\x80\x02"]

    def content(self) -> bytes:
        return b"".join([*self._parts, b"."])

    def add(self, value: Any, name: str, depth: int = 0) -> None:
        """Adds a value; `name` is its dotted name, for the error."""
        if depth > MOST_DEPTH:
            raise ValueError(f"{name:.80}... is nested deeper than {MOST_DEPTH} levels")
        if isinstance(value, dict):
            self._put(b"}(")
            for key, item in value.items():
                self._scalar(key, f"the key {key!r:.40} of {name}")
                self.add(item, f"{name}.{key}", depth + 1)
            self._put(b"u")
        elif isinstance(value, list | tuple):
            self._put(b"](" if isinstance(value, list) else b"(")
            for place, item in enumerate(value):
                self.add(item, f"{name}.{place}", depth + 1)
            self._put(b"e" if isinstance(value, list) else b"t")
        elif isinstance(value, np.ndarray):
            self._tensor(value, name)
        else:
            self._scalar(value, name)

    def _scalar(self, value: Any, name: str) -> None:
        if value is None or isinstance(value, bool):
            self._put({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif isinstance(value, int):
            self._integer(int(value), name)
        elif isinstance(value, float):
            self._put(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, bytes):
            self._put(b"c_codecs\nencode\n(")
            self._text(value.decode("latin1"))
            self._text("latin1")
            self._put(b"tR")
        else:
            raise ValueError(f"{name} is a {type(value).__name__}, which a torch file cannot hold")

    def _integer(self, value: int, name: str) -> None:
        if -(1 << 31) <= value < 1 << 31:
            self._put(b"J" + struct.pack("<i", value))
            return
        size = value.bit_length() // 8 + 1
        if size > 255:
            raise ValueError(f"{name} is a whole number of {size} bytes; 255 is the most")
        self._put(b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True))

    def _text(self, value: str) -> None:
        raw = value.encode("utf-8", "surrogatepass")
        self._put(b"X" + struct.pack("<I", len(raw)) + raw)

    def _tensor(self, array: np.ndarray, name: str) -> None:
        dtype = array.dtype.newbyteorder("=")
        if dtype not in _STORAGES:
            raise ValueError(f"{name} is an array of {dtype}, which torch does not have")
        array = np.ascontiguousarray(array.astype(dtype, copy=False)).reshape(array.shape)
        strides = tuple(s // array.itemsize for s in array.strides)
        self._put(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        self._text("storage")
        self._put(f"ctorch\n{_STORAGES[dtype]}\n".encode())
        self._text(str(len(self.arrays)))
        self._text("cpu")
        self._integer(array.size, name)
        self._put(b"tQK\x00")
        self.add(array.shape, name)
        self.add(strides, name)
        self._put(b"\x89ccollections\nOrderedDict\n)RtR")
        self.arrays.append(array)

    def _put(self, opcodes: bytes) -> None:
        self._parts.append(opcodes)

"""A file of torch.save, read without torch: a zip of one pickle and the tensors' storages."""

from collections.abc import Callable
from functools import partial
import os
from pathlib import Path
from typing import Any
import zipfile

from psann_jax.interop.torch_pickle import MOST_BYTES, loads
from psann_jax.interop.torch_tensor import DTYPES, Storages

_PICKLE = "data.pkl"
_LEAST_LIMIT, _EXPANSION = 1 << 26, 16  # bytes of tensors: for any file, and per byte of it
_SET_ITEM = 64  # bytes
_BEFORE_1_6 = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def read(path: str | os.PathLike) -> Any:
    """The tree that was saved: dicts, lists, tuples, sets, scalars, and tensors as numpy arrays.

    The file is read in memory and nothing in it is run: see `torch_pickle`.

    Raises:
      ValueError: there is no such file, it is damaged or of another format, or it holds
        anything but tensors and plain containers; one line that names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        with zipfile.ZipFile(path) as archive:
            return _tree(archive, path.stat().st_size)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} {_no_zip(path, error)}") from None
    except (ValueError, OverflowError, EOFError, NotImplementedError, OSError) as error:
        said = " ".join(str(error).split())  # it may quote what the file holds
        raise ValueError(f"{path} cannot be read: {said:.400}") from None


def _tree(archive: zipfile.ZipFile, size: int) -> Any:
    entries = _checked_entries(archive, size)
    pickles = [name for name in entries if name.split("/")[1:] == [_PICKLE]]
    if len(pickles) != 1:
        raise ValueError(f"it has {len(pickles)} entries FOLDER/{_PICKLE}, not one")
    folder = pickles[0].removesuffix(_PICKLE)
    if entries[pickles[0]].file_size > MOST_BYTES:
        raise ValueError(f"its pickle has more than {MOST_BYTES} bytes")

    def content(name: str) -> bytes:
        if folder + name not in entries:
            raise ValueError(f"it has no entry {folder}{name}")
        return archive.read(entries[folder + name])

    if f"{folder}byteorder" in entries and content("byteorder") != b"little":
        raise ValueError("its numbers are big-endian; save it on a little-endian machine")
    storages = Storages(lambda key: content(f"data/{key}"), max(_LEAST_LIMIT, _EXPANSION * size))
    return loads(
        content(_PICKLE),
        calls=_calls(storages),
        constants=DTYPES,
        persistent=storages.storage,
    )


def _checked_entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, if all are stored plainly under plain names and fit in the file."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.orig_filename
        if name in entries:
            raise ValueError(f"its entry {name!r} is there twice")
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise ValueError(f"its entry {name!r} is no plain path")
        if entry.flag_bits & 1:
            raise ValueError(f"its entry {name!r} is encrypted")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"its entry {name!r} is compressed, which torch.save never does")
        entries[name] = entry
    if sum(entry.file_size for entry in entries.values()) > size:
        raise ValueError("its entries overlap")
    return entries


def _calls(storages: Storages) -> dict[str, Callable[..., Any]]:
    """What a torch file calls to make its tensors and containers."""
    return {
        "torch._utils._rebuild_tensor": storages.tensor,
        "torch._utils._rebuild_tensor_v2": storages.tensor,
        "torch._utils._rebuild_parameter": storages.parameter,
        "torch.Size": _size,
        "collections.OrderedDict": _ordered,
        "builtins.set": partial(_set, storages.make),
        "builtins.bytes": _no_bytes,
        "_codecs.encode": partial(_bytes, storages.make),
    }


def _ordered(*arguments: Any) -> dict:
    if arguments:
        raise ValueError("its pickle has an OrderedDict that is not made empty")
    return {}


def _size(*arguments: Any) -> tuple:
    match arguments:
        case (tuple(sizes),) if all(type(n) is int for n in sizes):
            return sizes
    raise ValueError("its pickle has a torch.Size that is no tuple of whole numbers")


def _set(make: Callable[[int], None], *arguments: Any) -> set:
    match arguments:
        case (list(items),) if all(isinstance(item, str | int | float | bytes) for item in items):
            make(_SET_ITEM * len(items))
            return set(items)
    raise ValueError("its pickle has a set that is not of a list of scalars")


def _bytes(make: Callable[[int], None], *arguments: Any) -> bytes:
    """Protocol 2 has no opcode for bytes: they are text of latin-1."""
    match arguments:
        case (str(text), "latin1"):
            make(len(text))
            return text.encode("latin1")
    raise ValueError("its pickle has bytes that are not text of latin1")


def _no_bytes(*arguments: Any) -> bytes:
    if arguments:
        raise ValueError("its pickle has bytes that are not made empty")
    return b""


def _no_zip(path: Path, error: zipfile.BadZipFile) -> str:
    with path.open("rb") as file:
        start = file.read(len(_BEFORE_1_6))
    if not start:
        return "is empty"
    if start[:2] == b"PK":
        return f"is a damaged or cut zip file: {error}"
    if start == _BEFORE_1_6:
        return "is of torch before 1.6; torch.load and torch.save it with a newer torch"
    return "is no file of torch.save, which is a zip file"

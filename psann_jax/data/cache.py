"""Prepared corpora on disk: one folder each, named by what it was made from, whole or absent."""

from collections.abc import Iterator
import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import re
import secrets
import shutil
import time
from typing import Any

FORMAT = 3
TOKENIZER_FILE = "tokenizer"
_META_FILE = "meta.json"
_STALE_SECONDS = 24 * 3600
# Of a read: the file is not there, is none, or is empty. Whatever else fails may pass.
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL)
# What `building` and `discard` name; the folder may hold anything else.
_OURS = re.compile(r"\.[0-9a-f]{32}\.(\d+|damaged)\.[0-9a-f]{8}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitMeta:
    """Counts of the train or the validation part.

    Attributes:
      documents: documents that are not blank.
      tokens: targets with weight 1, which is every token and eos but no bos.
      bytes: UTF-8 bytes of text, the denominator of bits per byte.
      rows: rows of T targets.
      shards: names of the files that hold them.
      sha256: of the rows' content in order; equal for the same tokens in the same rows.
    """

    documents: int
    tokens: int
    bytes: int
    rows: int
    shards: tuple[str, ...]
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusMeta:
    """What a prepared corpus holds; `val` is None without a validation part."""

    tokenizer: str
    vocab_size: int
    requested_vocab_size: int
    max_length: int
    pack_sequences: bool
    blank_documents: int
    train: SplitMeta
    val: SplitMeta | None


def fingerprint(inputs: dict[str, Any]) -> str:
    """The folder name for a corpus made from these inputs (JSON values): 32 hex digits."""
    content = json.dumps({"format": FORMAT, **inputs}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def write_meta(folder: pathlib.Path, meta: CorpusMeta) -> None:
    """Records the corpus in `folder` as complete, with what `read_meta` verifies."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    fields = {"meta": dataclasses.asdict(meta), "sizes": sizes, "tokenizer": _sha256(folder)}
    content = {**fields, "sha256": fingerprint(fields)}
    (folder / _META_FILE).write_text(json.dumps(content, indent=1) + "\n")


class Unreadable(ValueError):
    """What is in the cache cannot be read for now, whatever its state."""


def refuse_unreadable(path: pathlib.Path) -> None:
    """Raises Unreadable for a file whose ends cannot be read now; a damaged one passes.

    For errors of a library, which do not tell the one from the other.
    """
    try:
        with path.open("rb") as file, path.open("rb"):
            file.read(1)
            file.seek(-1, os.SEEK_END)
            file.read(1)
    except OSError as error:
        _refuse_passing(error, path)


def _refuse_passing(error: OSError, path: pathlib.Path) -> None:
    """Raises Unreadable unless the error says that a file is not there, or is none."""
    if error.errno in _DAMAGE:
        return
    way_out = "start again once the disk or the network is back"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        way_out = "raise the limit of open files (ulimit -n)"
    elif error.errno in (errno.EACCES, errno.EPERM):
        way_out = "let this user read it, or set data.cache_dir to another folder"
    name = str(error.filename or path)
    raise Unreadable(
        f"data.cache_dir: {name!r} cannot be read ({error.strerror}); {way_out}"
    ) from None


def read_meta(folder: pathlib.Path) -> CorpusMeta:
    """What `write_meta` recorded.

    Raises:
      Unreadable: a file cannot be read for now.
      ValueError: a file is missing, of another size, or the record itself was changed.
    """
    try:
        content = json.loads((folder / _META_FILE).read_text())
        fields = {name: content[name] for name in ("meta", "sizes", "tokenizer")}
        if content["sha256"] != fingerprint(fields) or fields["tokenizer"] != _sha256(folder):
            raise ValueError("a checksum differs")
        for name, size in fields["sizes"].items():
            if (folder / name).stat().st_size != size:
                raise ValueError(f"{name} is not of {size} bytes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError):
            _refuse_passing(error, folder)
        raise ValueError(f"data.cache_dir: {str(folder)!r} is damaged ({error})") from None
    return _meta(fields["meta"])


@contextlib.contextmanager
def building(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder that becomes `folder` in one step, or vanishes on an error.

    Whoever finishes first keeps the name: what another process built at the same time is equal.

    Raises:
      ValueError: the disk is full or the folder cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        _sweep(folder.parent)
        yield temporary
        _publish(temporary, folder)
    except OSError as error:
        raise ValueError(
            f"data.cache_dir={str(folder.parent)!r} cannot be written ({error}); make room, or "
            "set data.cache_dir to another folder"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def discard(folder: pathlib.Path) -> None:
    """Removes a damaged corpus; the rename makes it absent at once for other processes."""
    aside = folder.with_name(f".{folder.name}.damaged.{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _publish(temporary: pathlib.Path, folder: pathlib.Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _sweep(folder: pathlib.Path) -> None:
    """Removes what killed preparations left behind, once it is a day old."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if _OURS.fullmatch(path.name) and time.time() - path.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _sha256(folder: pathlib.Path) -> str:
    return hashlib.sha256((folder / TOKENIZER_FILE).read_bytes()).hexdigest()


def _meta(fields: dict[str, Any]) -> CorpusMeta:
    fields = dict(fields)
    fields["train"] = _split_meta(fields["train"])
    if fields["val"] is not None:
        fields["val"] = _split_meta(fields["val"])
    return CorpusMeta(**fields)


def _split_meta(fields: dict[str, Any]) -> SplitMeta:
    fields = dict(fields)
    fields["shards"] = tuple(fields["shards"])
    return SplitMeta(**fields)

"""Which files the sources name: files themselves, folders, globs, or the embedded corpus."""

from collections.abc import Iterable, Iterator
import contextlib
import difflib
import glob
import gzip
import io
import lzma
import os
import pathlib
import sysconfig
import zlib

_OPENERS = {".gz": gzip.open, ".xz": lzma.open}
_SNIFFED_BYTES = 4096
_NOT_EMBEDDED = ("site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__")


def find(sources: Iterable[str]) -> list[pathlib.Path]:
    """The files behind `data.sources`, each once; a folder's or glob's in sorted order.

    Raises:
      ValueError: a path that does not exist, or a folder or glob without text files.
    """
    found = [path for source in sources for path in _expand(source)]
    return list(dict.fromkeys(found))


def embedded() -> list[pathlib.Path]:
    """The standard library of this Python, about 12 MB of source without its tests, sorted."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    return [path for path in _walk(root, _NOT_EMBEDDED) if path.suffix == ".py"]


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[io.BufferedIOBase]:
    """The file's bytes, decompressed by its suffix (.gz, .xz).

    Raises:
      ValueError: the file cannot be opened or is damaged.
    """
    try:
        with _OPENERS.get(path.suffix, open)(path, "rb") as file:
            yield file
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(
            f"data.sources: {str(path)!r} cannot be read ({error}); repair it or leave it out"
        ) from None


def plain_suffix(path: pathlib.Path) -> str:
    """The suffix that tells the format, as ".jsonl" for notes.jsonl.gz."""
    bare = path.with_suffix("") if path.suffix in _OPENERS else path
    return bare.suffix.lower()


def _expand(source: str) -> list[pathlib.Path]:
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        return _text_files(source, _walk(path))
    if path.exists():
        return [path]
    if not glob.has_magic(source):
        raise ValueError(f"data.sources: {source!r} does not exist{_nearest(path)}")
    matches = sorted(pathlib.Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    return _text_files(source, filter(pathlib.Path.is_file, matches))


def _text_files(source: str, paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    texts = [path for path in paths if _is_text(path)]
    if not texts:
        raise ValueError(
            f"data.sources: {source!r} holds no text files; name one with text, or leave "
            "data.sources empty for the embedded corpus"
        )
    return texts


def _walk(root: pathlib.Path, skipped: tuple[str, ...] = ()) -> Iterator[pathlib.Path]:
    """Files below a folder in sorted order; hidden files and folders are left out."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(n for n in folders if n not in skipped and not n.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield pathlib.Path(folder, name)


def _is_text(path: pathlib.Path) -> bool:
    with opened(path) as file:
        return b"\0" not in file.read(_SNIFFED_BYTES)


def _nearest(path: pathlib.Path) -> str:
    """A hint at the name that was meant, from those in the deepest folder that exists."""
    missing, parent = path, path.parent
    while not parent.is_dir() and parent != parent.parent:
        missing, parent = parent, parent.parent
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    near = difflib.get_close_matches(missing.name, names, n=1)
    return f"; did you mean {str(parent / near[0])!r}?" if near else "; check the path"

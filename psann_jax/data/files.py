"""Which files the sources name: files themselves, folders, globs, or the embedded corpus."""

from collections.abc import Iterable, Iterator
import contextlib
import difflib
import glob
import gzip
import io
import logging
import lzma
import os
import pathlib
import sysconfig
import zlib

_log = logging.getLogger("psann_jax.data")
_OPENERS = {".gz": gzip.open, ".xz": lzma.open}
RECORDS = (".jsonl", ".ndjson")
_SNIFFED_BYTES = 4096
_NAMED = 3  # of the files that are passed over
_LONGEST_NAME = 255  # bytes
_LONGEST_PATH = 4096  # what is longer is a text, and not looked for
_FORMATS = {  # how a file begins -> what it is
    b"\x1f\x8b": "compressed by gzip, and not named .gz",
    b"\xfd7zXZ\0": "compressed by xz, and not named .xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"PK\x03\x04": "a zip archive",
    b"PAR1\x15": "a Parquet file",
    b"ARROW1\0\0": "an Arrow file",
    b"%PDF-": "a PDF",
    b"\x93NUMPY": "an array of numpy",
    b"\xff\xfe": "text in UTF-16 or UTF-32",
    b"\xfe\xff": "text in UTF-16",
    **{b"BZh%d1AY&SY" % level: "compressed by bzip2" for level in range(1, 10)},
}
_NOT_EMBEDDED = ("site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__")


def find(sources: Iterable[str]) -> list[pathlib.Path]:
    """The files behind `data.sources`, each once; a folder's or glob's in sorted order.

    Raises:
      ValueError: a path that does not exist, a file that is no text, or a folder or glob without
        text files.
    """
    found: dict[pathlib.Path, pathlib.Path] = {}
    for source in sources:
        for path in _expand(source):
            place = path.resolve()  # a file may have several names; one may tell its format
            if place not in found or (_tells(path) and not _tells(found[place])):
                found[place] = path
    return list(found.values())


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
        with _OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
            yield file
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(
            f"data.sources: {str(path)!r} cannot be read ({error}); repair it or leave it out"
        ) from None


def plain_suffix(path: pathlib.Path) -> str:
    """The suffix that tells the format, as ".jsonl" for notes.jsonl.gz."""
    bare = path.with_suffix("") if path.suffix.lower() in _OPENERS else path
    return bare.suffix.lower()


def _tells(path: pathlib.Path) -> bool:
    """Whether the name says that there are not plain lines of text in the file."""
    return path.suffix.lower() in _OPENERS or plain_suffix(path) in RECORDS


def _expand(source: str) -> list[pathlib.Path]:
    path = pathlib.Path(source).expanduser()
    # pathlib raises on what is too long for a name, as a text may be.
    if os.path.isdir(path):  # noqa: PTH112
        return _text_files(source, _walk(path))
    if os.path.exists(path):  # noqa: PTH110
        if _is_read_once(path):
            raise ValueError(
                f"data.sources: {source!r} is a pipe or a device, which can be read only once; "
                "write it to a file first"
            )
        _refuse_other_formats(path)
        return [path]
    matches = _matches(path) if glob.has_magic(source) else []
    if not matches and (_may_be_text(source) or not glob.has_magic(source)):
        shown = source if len(source) <= _LONGEST_NAME else f"{source[:60]}..."
        other = "write [text] for a text" if _may_be_text(source) else "check the path"
        near = _nearest(path) if len(source) <= _LONGEST_PATH else ""
        raise ValueError(f"data.sources: {shown!r} does not exist; {near or other}")
    return _text_files(source, filter(os.path.isfile, matches))


def _matches(pattern: pathlib.Path) -> list[pathlib.Path]:
    """What a glob names, sorted; nothing where it is none that could name a file."""
    try:
        root = pathlib.Path(pattern.anchor)
        return sorted(root.glob(str(pattern.relative_to(pattern.anchor))))
    except (OSError, ValueError):
        return []


def _may_be_text(source: str) -> bool:
    """Whether what names no file may have been meant as the text itself."""
    too_long = len(source.encode(errors="surrogatepass")) > _LONGEST_NAME
    return too_long or len(source.split()) > 1


def _text_files(source: str, paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    texts, others = [], []
    for path in paths:
        (texts if _is_text(path) else others).append(path)
    if texts and others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        _log.warning(
            "data.sources: %r holds files that are no UTF-8 text, and not read: %s%s",
            source,
            ", ".join(str(path) for path in others[:_NAMED]),
            more,
        )
    if not texts:
        raise ValueError(
            f"data.sources: {source!r} holds no text files; name one with text, or leave "
            "data.sources empty for the embedded corpus"
        )
    return texts


def _walk(root: pathlib.Path, skipped: tuple[str, ...] = ()) -> Iterator[pathlib.Path]:
    """Files below a folder in sorted order; hidden ones and pipes are left out.

    Links to folders elsewhere are followed, each folder is entered once.

    Raises:
      ValueError: a folder cannot be read.
    """
    entered, whole = set(), os.path.realpath(root) + os.sep
    for folder, folders, names in os.walk(root, onerror=_raise_unreadable, followlinks=True):
        place = os.path.realpath(folder)
        if place in entered or (pathlib.Path(folder).is_symlink() and place.startswith(whole)):
            folders.clear()
            continue
        entered.add(place)
        folders[:] = sorted(n for n in folders if n not in skipped and not n.startswith("."))
        for name in sorted(names):
            path = pathlib.Path(folder, name)
            if not name.startswith(".") and not _is_read_once(path):
                yield path


def _is_read_once(path: pathlib.Path) -> bool:
    """Whether what is there is no file, but a pipe, a socket or a device."""
    return os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113


def _raise_unreadable(error: OSError) -> None:
    raise ValueError(
        f"data.sources: {error.filename!r} cannot be read ({error.strerror}); repair it or leave "
        "it out"
    ) from None


def _is_text(path: pathlib.Path) -> bool:
    with opened(path) as file:
        content = file.read(_SNIFFED_BYTES)
    return b"\0" not in content and not _format_of(content)


def _refuse_other_formats(path: pathlib.Path) -> None:
    """A file that is named may have any bytes, but not those of a format that holds no text."""
    with opened(path) as file:
        name = _format_of(file.read(_SNIFFED_BYTES))
    if name:
        raise ValueError(
            f"data.sources: {str(path)!r} is {name}; give UTF-8 text or .jsonl, plain or as .gz "
            "or .xz"
        )


def _format_of(content: bytes) -> str:
    """What a file is that begins so, where that is known to be no UTF-8 text; else nothing."""
    if content[257:262] == b"ustar":
        return "a tar archive"
    return next((name for start, name in _FORMATS.items() if content.startswith(start)), "")


def _nearest(path: pathlib.Path) -> str:
    """A hint at the name that was meant, if the deepest folder that exists has one like it."""
    missing, parent = path, path.parent
    while not os.path.isdir(parent) and parent != parent.parent:  # noqa: PTH112
        missing, parent = parent, parent.parent
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    near = difflib.get_close_matches(missing.name, names, n=1)
    return f"did you mean {str(parent / near[0])!r}?" if near else ""

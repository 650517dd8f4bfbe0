"""Documents, one at a time and in a fixed order, from texts in memory or from files."""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import hashlib
import json
import pathlib
import re
from typing import NamedTuple, Protocol

from psann_jax.data import files
from psann_jax.data.config import DataConfig
from psann_jax.data.text import blank, line_pieces, utf8

_NAMED = 3
_SURROGATE = re.compile("[\ud800-\udfff]")


class Document(NamedTuple):
    """A text that training sees as a whole, between its own bos and eos."""

    name: str  # where it comes from: a path, "path:line", "path[piece]" or "texts[i]"
    text: str


class Source(Protocol):
    """Where documents come from; can be read several times, always in the same order."""

    def documents(self) -> Iterator[Document]:
        """Every document, blank ones included."""

    def digest(self) -> str:
        """Changes whenever the documents may have changed."""

    def names(self) -> list[str]:
        """What it reads, as a message names it."""


def open_source(config: DataConfig, texts: Sequence[str] | None = None) -> Source:
    """The documents of `texts`, else of `data.sources`, else the embedded corpus.

    Raises:
      ValueError: no texts, texts and sources at once, or a source that cannot be found.
    """
    if texts is None:
        paths = files.find(config.sources) if config.sources else files.embedded()
        return Files(tuple(paths), config)
    if config.sources:
        raise ValueError(
            f"data.sources={config.sources!r} and texts are both given; leave one of them out"
        )
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError("texts must be a sequence of str; write [text] for a single one")
    if not len(texts):
        raise ValueError("texts=[] holds no document; give at least one text")
    return Texts(tuple(texts))


def filled(source: Source) -> Iterator[Document]:
    """The documents that are not blank."""
    return (document for document in source.documents() if not blank(document.text))


def measure(source: Source) -> tuple[list[int], int]:
    """UTF-8 bytes of each filled document, and how many blank ones were passed over.

    Raises:
      ValueError: there is no filled document, or one holds a lone surrogate.
    """
    lengths, n_blank = [], 0
    for document in source.documents():
        if blank(document.text):
            n_blank += 1
        else:
            lengths.append(len(utf8(document.text, document.name)))
    if not lengths:
        raise ValueError(
            f"data.sources: {_listed(source.names())} no text; give a source with text"
        )
    return lengths, n_blank


@dataclasses.dataclass(frozen=True)
class Texts:
    """Documents in memory."""

    texts: tuple[str, ...]

    def documents(self) -> Iterator[Document]:
        for i, text in enumerate(self.texts):
            yield Document(f"texts[{i}]", text)

    def digest(self) -> str:
        total = hashlib.sha256()
        for text in self.texts:
            content = text.encode("utf-8", "surrogatepass")
            total.update(b"%d:" % len(content))
            total.update(content)
        return total.hexdigest()

    def names(self) -> list[str]:
        return [f"texts[{i}]" for i in range(len(self.texts))]


@dataclasses.dataclass(frozen=True)
class Files:
    """Documents in files: .jsonl records, lines, or whole files, each also as .gz or .xz."""

    paths: tuple[pathlib.Path, ...]
    config: DataConfig

    def documents(self) -> Iterator[Document]:
        cuts = self.config.split == "documents" and self.config.val_split > 0
        if self.config.document == "auto" and cuts:
            return _several(self._whole(), self.config.val_split)
        return self._whole()

    def _whole(self) -> Iterator[Document]:
        for path in self.paths:
            if files.plain_suffix(path) in files.RECORDS:
                yield from self._records(path)
            elif self.config.document == "line":
                yield from self._lines(path)
            else:
                with files.opened(path) as file:
                    yield Document(str(path), self._decoded(file.read(), path, 0))

    def digest(self) -> str:
        """Of names, sizes and times, so that a second start reads no file."""
        rows = []
        for path in self.paths:
            stat, formats = path.stat(), (files.plain_suffix(path), path.suffix.lower())
            # A link may be named as what it leads to is not, and is then read otherwise.
            rows.append([str(path.resolve()), *formats, stat.st_size, stat.st_mtime_ns])
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def names(self) -> list[str]:
        return [repr(str(path)) for path in self.paths]

    def _lines(self, path: pathlib.Path) -> Iterator[Document]:
        offset = 0
        with files.opened(path) as file:
            for number, line in enumerate(file, start=1):
                bare = line.removesuffix(b"\n").removesuffix(b"\r")
                yield Document(f"{path}:{number}", self._decoded(bare, path, offset))
                offset += len(line)

    def _records(self, path: pathlib.Path) -> Iterator[Document]:
        for name, line in self._lines(path):
            line = line.removeprefix("\ufeff")
            if not blank(line):
                text = _field(_record(line, name), self.config.text_key, name)
                if self.config.invalid_utf8 == "error" and (found := _SURROGATE.search(text)):
                    raise ValueError(
                        f"data.invalid_utf8='error': {name} has the lone surrogate "
                        f"{found[0]!a}; repair the line, or set data.invalid_utf8='keep'"
                    )
                yield Document(name, text)

    def _decoded(self, content: bytes, path: pathlib.Path, offset: int) -> str:
        if self.config.invalid_utf8 == "keep":
            return content.decode("utf-8", "surrogateescape")
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"data.invalid_utf8='error': {str(path)!r} is not UTF-8 at byte "
                f"{offset + error.start} (0x{content[error.start]:02x}); repair it, or set "
                "data.invalid_utf8='keep' to carry such bytes through"
            ) from None


def _several(documents: Iterable[Document], share: float) -> Iterator[Document]:
    """The documents; if a single one is filled, its pieces of about `share` each."""
    waiting: list[Document] = []
    n_filled = 0
    for document in documents:
        n_filled += not blank(document.text)
        if n_filled < 2:
            waiting.append(document)
        else:
            yield from waiting
            waiting.clear()
            yield document
    for document in waiting:
        yield from _cut_up(document, share)


def _cut_up(document: Document, share: float) -> Iterator[Document]:
    texts = list(line_pieces(utf8(document.text, document.name), share))
    if len(texts) == 1:
        yield document
        return
    for i, text in enumerate(texts):
        yield Document(f"{document.name}[{i}]", text)


def _listed(names: list[str]) -> str:
    """The first few of the names and a verb, as "a, b, c and 2 more have"."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more} {'has' if len(names) == 1 else 'have'}"


def _record(line: str, name: str) -> dict[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"data.sources: {name} is not JSON ({error}); repair the line or drop it"
        ) from None
    if not isinstance(record, dict):
        raise ValueError(
            f"data.sources: {name} is a JSON {type(record).__name__}, not an object; "
            'write {"text": ...} on each line'
        )
    return record


def _field(record: dict[str, object], key: str, name: str) -> str:
    if key not in record:
        keys = ", ".join(map(repr, record)) or "no key at all"
        raise ValueError(f"data.text_key={key!r} is not in {name}; the keys there are {keys}")
    value = record[key]
    if not isinstance(value, str):
        raise ValueError(
            f"data.text_key={key!r} is a {type(value).__name__} in {name}; name a key with text"
        )
    return value

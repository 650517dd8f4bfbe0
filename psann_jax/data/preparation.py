"""One run from documents to a folder with tokenizer, rows and counts."""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import logging
import pathlib
import time
from typing import NamedTuple

import numpy as np

from psann_jax.data import backends, cache
from psann_jax.data.config import DataConfig
from psann_jax.data.division import Division, divide
from psann_jax.data.pack import Packer, Part
from psann_jax.data.progress import tracked
from psann_jax.data.shards import ShardWriter
from psann_jax.data.source import Document, Source, filled
from psann_jax.data.split import MOST_HELD_OUT
from psann_jax.data.text import pieces, utf8
from psann_jax.data.tokenizer import Tokenizer

_log = logging.getLogger("psann_jax.data")
_SAMPLED_CHARACTERS = 2048
_ENCODED_CHARACTERS = 4 << 20


class _Cut(NamedTuple):
    """A document, or some of it where it is too long to be encoded at once."""

    name: str
    text: str
    opens: bool
    closes: bool
    held_out: bool


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What is prepared: documents, the settings, and a tokenizer unless one is to be fitted."""

    config: DataConfig
    source: Source
    given: Tokenizer | None
    progress: bool

    def run(self, folder: pathlib.Path) -> None:
        """Writes everything into the folder; `cache.read_meta` then finds it complete.

        Raises:
          ValueError: one line on what is wrong with a source.
        """
        began = time.monotonic()
        division = divide(self.source, self.config)
        self._announce(division)
        tokenizer = self.given or self._fitted(division)
        if tokenizer.truncates:
            _log.warning(
                "the tokenizer keeps the beginning of each document alone, as its truncation says; "
                "data.document='line' makes documents of lines"
            )
        tokenizer.save(folder / cache.TOKENIZER_FILE)
        train, val = self._write_rows(folder, tokenizer, division)
        meta = cache.CorpusMeta(
            tokenizer=tokenizer.kind,
            vocab_size=tokenizer.vocab_size,
            requested_vocab_size=tokenizer.requested_vocab_size or tokenizer.vocab_size,
            max_length=self.config.max_length,
            pack_sequences=self.config.pack_sequences,
            blank_documents=division.blank,
            train=train.meta(),
            val=val.meta() if division.held_out.any() else None,
        )
        cache.write_meta(folder, meta)
        _report(meta, time.monotonic() - began)

    def _announce(self, division: Division) -> None:
        n, size = len(division.lengths), sum(division.lengths)
        kind = self.given.kind if self.given else backends.chosen_kind(self.config.tokenizer)
        line = f"preparing {n} documents, {size / 1e6:.1f} MB, tokenizer {kind}"
        if self.config.val_split and n == 1:
            _log.warning(
                "%s; data.val_split=%g has no effect on a single document: give several, or a "
                "file of many lines with data.document='auto'",
                line,
                self.config.val_split,
            )
        elif division.val_bytes > MOST_HELD_OUT * self.config.val_split * size:
            _log.warning(
                "%s; data.val_split=%g holds out %.0f %% of the text, as whole documents are and "
                "these are few: give more, or set data.split='tail', which cuts the text",
                line,
                self.config.val_split,
                100 * division.val_bytes / size,
            )
        else:
            _log.info("%s", line)

    def _fitted(self, division: Division) -> Tokenizer:
        documents = zip(
            self._documents(division, "fitting the tokenizer"), division.held_out, strict=True
        )
        train = (document for document, held in documents if not held)
        share = self.config.tokenizer_bytes / division.train_bytes
        if backends.reads_all(self.config.tokenizer):
            share = 1.0
        sample = _sample(train, share, self.config.seed)
        return backends.fit(self.config.tokenizer, sample, self.config.vocab_size)

    def _write_rows(
        self,
        folder: pathlib.Path,
        tokenizer: Tokenizer,
        division: Division,
    ) -> tuple["_SplitWriter", "_SplitWriter"]:
        documents = self._documents(division, "encoding")
        with contextlib.ExitStack() as stack:
            train, val = (
                stack.enter_context(_SplitWriter(folder, name, self.config, tokenizer))
                for name in ("train", "val")
            )
            least = 0 if self.config.pack_sequences else self.config.max_length
            most = None if tokenizer.reads_whole_texts else _ENCODED_CHARACTERS
            for group in _groups(_cuts(documents, division.held_out, most), least):
                for cut, ids in zip(group, _encoded(tokenizer, group), strict=True):
                    split = val if cut.held_out else train
                    split.parts.append(Part(ids, cut.opens, cut.closes))
                    split.bytes += _bytes_kept(tokenizer, cut, ids)
                train.flush()
                val.flush()
        return train, val

    def _documents(self, division: Division, label: str) -> Iterator[Document]:
        documents = _unchanged(filled(division.source), division.lengths)
        return tracked(documents, division.lengths, label, self.progress)


class _SplitWriter:
    """Packs and writes the documents of one split."""

    def __init__(self, folder: pathlib.Path, name: str, config: DataConfig, tokenizer: Tokenizer):
        self.parts: list[Part] = []
        self.bytes = 0  # UTF-8, of the text that the parts stand for
        self._packer = Packer(
            config.max_length,
            config.pack_sequences,
            tokenizer.pad_id,
            tokenizer.bos_id,
            tokenizer.eos_id,
            tokenizer.ends_in_text,
        )
        self._shards = ShardWriter(folder, name, config.max_length, tokenizer.vocab_size)

    def __enter__(self) -> "_SplitWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self._shards.add(self._packer.finish())
        self._shards.close()

    def flush(self) -> None:
        """Writes the rows that `parts` fill up, and empties it."""
        self._shards.add(self._packer.add(self.parts))
        self.parts = []

    def meta(self) -> cache.SplitMeta:
        return cache.SplitMeta(
            documents=self._packer.documents,
            tokens=self._packer.targets,
            bytes=self.bytes,
            rows=self._shards.rows,
            shards=tuple(self._shards.files),
            sha256=self._shards.sha256,
        )


def _bytes_kept(tokenizer: Tokenizer, cut: _Cut, ids: np.ndarray) -> int:
    """UTF-8 bytes of a text, or of the beginning that the tokenizer keeps of it."""
    size = len(utf8(cut.text, cut.name))
    kept = tokenizer.count_bytes(ids) if tokenizer.truncates else None
    return size if kept is None else min(kept, size)


def _sample(documents: Iterable[Document], share: float, seed: int) -> Iterator[str]:
    """A seeded share of the text, in pieces; never nothing."""
    generator = np.random.default_rng(seed)
    for n, document in enumerate(documents):
        for i, piece in enumerate(pieces(document.text, _SAMPLED_CHARACTERS)):
            if generator.random() < share or n == i == 0:
                yield piece


def _unchanged(documents: Iterable[Document], lengths: list[int]) -> Iterator[Document]:
    """Passes documents on.

    Raises:
      ValueError: they are not the documents whose lengths were measured.
    """
    n = 0
    for n, document in enumerate(documents, start=1):
        if n > len(lengths) or len(utf8(document.text, document.name)) != lengths[n - 1]:
            raise ValueError(f"data.sources: {document.name} changed while it was read; try again")
        yield document
    if n != len(lengths):
        raise ValueError(
            f"data.sources: {len(lengths) - n} documents vanished while they were read; try again"
        )


def _cuts(documents: Iterable[Document], held_out: np.ndarray, most: int | None) -> Iterator[_Cut]:
    """The documents, those of more than `most` characters in several cuts; None: each in one."""
    for document, held in zip(documents, held_out, strict=True):
        end = 0
        for text in pieces(document.text, most or max(1, len(document.text))):
            begin, end = end, end + len(text)
            yield _Cut(document.name, text, begin == 0, end == len(document.text), bool(held))


def _groups(cuts: Iterable[_Cut], least: int) -> Iterator[list[_Cut]]:
    """As many cuts at a time as are encoded at once, each counted as `least` tokens or more."""
    group, size = [], 0
    for cut in cuts:
        group.append(cut)
        size += max(len(cut.text), least)
        if size >= _ENCODED_CHARACTERS:
            yield group
            group, size = [], 0
    yield group


def _encoded(tokenizer: Tokenizer, group: list[_Cut]) -> list[np.ndarray]:
    """Token ids of each text.

    Raises:
      ValueError: the tokenizer cannot take a document, which is named.
    """
    try:
        return tokenizer.encode_batch([cut.text for cut in group])
    except ValueError:
        for cut in group:
            try:
                tokenizer.encode(cut.text)
            except ValueError as error:
                raise ValueError(f"data.sources: {cut.name}: {error}") from None
        raise


def _report(meta: cache.CorpusMeta, seconds: float) -> None:
    parts = [("train", meta.train), ("validation", meta.val)]
    counts = (f"{name} {part.tokens} tokens in {part.rows} rows" for name, part in parts if part)
    _log.info("prepared in %.1f s: %s%s", seconds, ", ".join(counts), _shortfall(meta))


def _shortfall(meta: cache.CorpusMeta) -> str:
    if meta.vocab_size >= meta.requested_vocab_size:
        return ""
    return (
        f"; data.vocab_size={meta.requested_vocab_size}: the text has no more than "
        f"{meta.vocab_size} pieces to offer"
    )

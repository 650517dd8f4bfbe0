"""Which documents are for training and which are held out, by either way to split."""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from psann_jax.data.config import DataConfig
from psann_jax.data.source import Document, Source, filled, measure
from psann_jax.data.split import tail_cut, validation_documents
from psann_jax.data.text import blank


class Division(NamedTuple):
    """The documents of a corpus, and which part each is in."""

    source: Source  # its filled documents, in order
    lengths: list[int]  # UTF-8 bytes of each
    blank: int  # documents that were passed over
    held_out: np.ndarray  # [n] bool, True for validation

    @property
    def train_bytes(self) -> int:
        return self._bytes(~self.held_out)

    @property
    def val_bytes(self) -> int:
        return self._bytes(self.held_out)

    def _bytes(self, mask: np.ndarray) -> int:
        return sum(n for n, wanted in zip(self.lengths, mask, strict=True) if wanted)


def divide(source: Source, config: DataConfig) -> Division:
    """The division that `data.split` and `data.val_split` ask for.

    Raises:
      ValueError: there is no filled document, or one holds a lone surrogate.
    """
    if config.split == "tail" and config.val_split > 0:
        return _tail(source, config.val_split)
    lengths, n_blank = measure(source)
    held_out = validation_documents(lengths, config.val_split, config.seed)
    return Division(source, lengths, n_blank, held_out)


def _tail(source: Source, val_split: float) -> Division:
    characters = [len(document.text) for document in filled(source)]
    index, offset = tail_cut(characters, val_split)
    cut = _CutInTwo(source, index, offset)
    lengths, n_blank = measure(cut)
    return Division(cut, lengths, n_blank, np.arange(len(lengths)) >= index + (offset > 0))


@dataclasses.dataclass(frozen=True)
class _CutInTwo:
    """A source in which one filled document is two; left whole if one would be blank."""

    source: Source
    index: int
    offset: int  # characters of the first part

    def documents(self) -> Iterator[Document]:
        n = -1
        for document in self.source.documents():
            n += not blank(document.text)
            yield from self._parts(document) if n == self.index else [document]

    def _parts(self, document: Document) -> Sequence[Document]:
        name, text = document
        parts = [text[: self.offset], text[self.offset :]]
        if any(map(blank, parts)):
            return [document]
        return [Document(f"{name}[{i}]", part) for i, part in enumerate(parts)]

    def digest(self) -> str:
        return self.source.digest()

    def names(self) -> list[str]:
        return self.source.names()

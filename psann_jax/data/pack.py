"""Documents as rows of a fixed length.

A document is bos, its ids, eos. A row stores T + 1 tokens for T targets, so neighbouring rows
overlap by one token: every token but a bos is a target exactly once, across row ends too.

Where text can spell eos, a segment starts after each. It has no bos of its own, so that its first
token is a target like any other, foretold from the eos before it, as everywhere in GroundThink.
"""

import dataclasses
from typing import NamedTuple

import numpy as np


class Block(NamedTuple):
    """R rows of T targets."""

    tokens: np.ndarray  # [R, T + 1] int32, pad_id from the row's length on
    starts: np.ndarray  # [R, T + 1] bool, at a document's bos and after an eos of the text
    lengths: np.ndarray  # [R] int64, real tokens stored, 2 to T + 1
    documents: np.ndarray  # [R] int64, which document the row's first token is from


class Part(NamedTuple):
    """A document's ids, or some of them where it is too long to be held at once."""

    ids: np.ndarray  # [n] int32, without specials
    opens: bool = True  # the first of its document
    closes: bool = True  # the last of its document


@dataclasses.dataclass
class Packer:
    """Turns documents, added in order, into rows.

    Attributes:
      max_length: T.
      packed: True joins documents into one stream, so that only its last row has padding; False
        begins a row at each document.
      pad_id, bos_id, eos_id, ends_in_text: the tokenizer's.
      documents: how many were begun so far.
      targets: how many tokens are a target so far.
    """

    max_length: int
    packed: bool
    pad_id: int
    bos_id: int
    eos_id: int
    ends_in_text: bool = False
    documents: int = 0
    targets: int = 0

    def __post_init__(self):
        # What was added and is not yet in a row: each token, its document, whether it starts a
        # segment.
        self._tokens = np.zeros((0,), np.int32)
        self._owners = np.zeros((0,), np.int64)
        self._starts = np.zeros((0,), bool)
        self._ended = False  # whether the last token that was added is an eos of the text

    def add(self, parts: list[Part]) -> Block:
        """The rows that the parts fill up."""
        self._append(parts)
        edges = self._edges()
        lengths = np.diff(edges)
        if parts and parts[-1].closes and not self.packed:
            return self._take(*_spans(lengths, self.max_length), used=edges[-1])
        full = max(lengths[-1] - 1, 0) // self.max_length * self.max_length
        lengths[-1] = full + 1  # its last token is also the first of the row to come
        return self._take(*_spans(lengths, self.max_length), used=edges[-2] + full)

    def finish(self) -> Block:
        """The last row, if tokens are left that were no target yet."""
        edges = self._edges()
        return self._take(*_spans(np.diff(edges), self.max_length), used=edges[-1])

    def _append(self, parts: list[Part]) -> None:
        bos, eos = np.array([self.bos_id], np.int32), np.array([self.eos_id], np.int32)
        none = np.zeros((0,), np.int32)
        arrays = [
            array
            for part in parts
            for array in (bos if part.opens else none, part.ids, eos if part.closes else none)
        ]
        tokens = np.concatenate([none, *arrays])
        lengths = np.array([len(part.ids) + part.opens + part.closes for part in parts], int)
        opens = np.array([part.opens for part in parts], bool)
        begins = np.zeros(tokens.shape, bool)
        begins[(np.cumsum(lengths) - lengths)[opens]] = True
        starts = begins | self._after_ends(tokens)
        self._tokens = np.concatenate([self._tokens, tokens])
        self._owners = np.concatenate([self._owners, self.documents - 1 + np.cumsum(begins)])
        self._starts = np.concatenate([self._starts, starts])
        self.documents += int(opens.sum())
        self.targets += int(np.sum(~starts | (tokens != self.bos_id)))

    def _after_ends(self, tokens: np.ndarray) -> np.ndarray:
        """Where the token before is an eos, that of the tokens added before included."""
        if not self.ends_in_text:
            return np.zeros(tokens.shape, bool)
        ends = np.append(self._ended, tokens == self.eos_id)
        self._ended = bool(ends[-1])
        return ends[:-1]

    def _edges(self) -> np.ndarray:
        """Where the spans that begin a row of their own begin, and the end of the last."""
        begins = [0] if self.packed else [0, *(np.flatnonzero(np.diff(self._owners)) + 1)]
        return np.append(begins, len(self._tokens))

    def _take(self, offsets: np.ndarray, lengths: np.ndarray, used: int) -> Block:
        """The rows at the offsets; afterwards forgets the first `used` tokens."""
        column = np.arange(self.max_length + 1)
        real = column < lengths[:, None]  # [R, T + 1]
        places = np.where(real, offsets[:, None] + column, 0)
        tokens = np.where(real, self._tokens[places], np.int32(self.pad_id))
        block = Block(tokens, self._starts[places] & real, lengths, self._owners[offsets])
        self._tokens = self._tokens[used:]
        self._owners = self._owners[used:]
        self._starts = self._starts[used:]
        return block


def _spans(lengths: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Offset and length of each row, where every span of tokens begins a row of its own.

    A span of n tokens has n - 1 targets, so it takes ceil((n - 1) / T) rows.
    """
    counts = (np.maximum(lengths - 1, 0) + max_length - 1) // max_length
    first = np.cumsum(counts) - counts
    within = (np.arange(counts.sum()) - np.repeat(first, counts)) * max_length
    offsets = np.repeat(np.cumsum(lengths) - lengths, counts) + within
    left = np.repeat(lengths, counts) - within
    return offsets, np.minimum(left, max_length + 1)

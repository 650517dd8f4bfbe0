"""Kneser-Ney n-gram models of token rows: what a language model has to beat.

p(w | h) = max(c(h w) - d, 0) / c(h) + d N(h) / c(h) * p(w | h'), where c counts, N(h) is how many
different tokens follow h, and h' is h without its first token. Below the highest order c counts
the different tokens that come before; below the unigram p is 1 / V.

Source: Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling",
interpolated Kneser-Ney with d = n1 / (n1 + 2 n2).
"""

import dataclasses
from typing import Self

import numpy as np

from psann_jax.data import Rows

_ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3}


def ngram_bits_per_byte(
    train: Rows, val: Rows, vocab_size: int, val_bytes: int
) -> dict[str, float]:
    """Bits per byte of the validation text under models of 1, 2 and 3 tokens.

    The targets are those that have weight in a language model's loss, and contexts end where its
    do: at the start of a document and of a row.

    Args:
      train: rows to count.
      val: rows to score.
      vocab_size: V.
      val_bytes: UTF-8 bytes of the validation text.

    Returns:
      {"unigram", "bigram", "trigram"}, each in bits per byte.
    """
    bits = _bits(vocab_size)
    seen, scored = _trigrams(train, bits, vocab_size), _trigrams(val, bits, vocab_size)
    results = {}
    for name, order in _ORDERS.items():
        mask = (1 << bits * order) - 1
        model = KneserNey.fit(seen & mask, order, bits, vocab_size)
        results[name] = float(-np.log2(model.probability(scored & mask)).sum() / val_bytes)
    return results


def unigram_nats(rows: Rows, vocab_size: int) -> float:
    """Entropy of how often each token is a target in `rows`, in nats a token."""
    counts = np.zeros(vocab_size, np.int64)
    for batch in rows.in_order():
        counts += np.bincount(batch.targets[batch.weights > 0], minlength=vocab_size)
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


@dataclasses.dataclass(frozen=True)
class KneserNey:
    """Probabilities of the last token of a gram given those before it.

    A gram is an int64 of `bits` bits for each token, the last token lowest.
    """

    grams: np.ndarray  # [G] int64, sorted, each once
    counts: np.ndarray  # [G]
    contexts: np.ndarray  # [H] int64, sorted: grams without their last token
    totals: np.ndarray  # [H] sum of the counts of a context
    kinds: np.ndarray  # [H] how many different tokens follow it
    discount: float  # 0 < d < 1
    order: int
    bits: int
    below: Self | None  # of one token less
    vocab_size: int

    @classmethod
    def fit(cls, grams: np.ndarray, order: int, bits: int, vocab_size: int) -> Self:
        """Counts grams [n] of `order` tokens."""
        return cls._from_counts(*np.unique(grams, return_counts=True), order, bits, vocab_size)

    @classmethod
    def _from_counts(
        cls, grams: np.ndarray, counts: np.ndarray, order: int, bits: int, vocab_size: int
    ) -> Self:
        contexts, first, kinds = np.unique(grams >> bits, return_index=True, return_counts=True)
        below = None
        if order > 1:
            suffixes = np.unique(grams & (1 << bits * (order - 1)) - 1, return_counts=True)
            below = cls._from_counts(*suffixes, order - 1, bits, vocab_size)
        totals = np.add.reduceat(counts, first)
        discount = _discount(counts)
        return cls(grams, counts, contexts, totals, kinds, discount, order, bits, below, vocab_size)

    def probability(self, grams: np.ndarray) -> np.ndarray:
        """p of each gram [n]; sums to 1 over the last token of a context."""
        if self.below is None:
            lower = np.full(grams.shape, 1 / self.vocab_size)
        else:
            suffix = (1 << self.bits * (self.order - 1)) - 1
            lower = self.below.probability(grams & suffix)
        count = _lookup(self.grams, self.counts, grams)
        total = _lookup(self.contexts, self.totals, grams >> self.bits)
        kinds = _lookup(self.contexts, self.kinds, grams >> self.bits)
        kept = np.maximum(count - self.discount, 0) + self.discount * kinds * lower
        return np.where(total > 0, kept / np.maximum(total, 1), lower)


def _bits(vocab_size: int) -> int:
    bits = vocab_size.bit_length()  # room for V itself, which stands for no token
    if 3 * bits > 63:
        raise ValueError(f"vocab_size={vocab_size} must be below {1 << 21} to pack three tokens")
    return bits


def _trigrams(rows: Rows, bits: int, vocab_size: int) -> np.ndarray:
    """Each target with weight after the two tokens before it, [n] int64; V for no token."""
    found = []
    for batch in rows.in_order():
        inputs = batch.inputs.astype(np.int64)
        earlier = np.roll(inputs, 1, axis=1)
        earlier[batch.positions == 0] = vocab_size
        grams = (earlier << bits | inputs) << bits | batch.targets
        found.append(grams[batch.weights > 0])
    return np.concatenate(found)


def _discount(counts: np.ndarray) -> float:
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    return float(np.clip(once / max(once + 2 * twice, 1), 0.05, 0.95))


def _lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where it is absent; keys are sorted."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)

"""What is held out for validation: documents drawn, or the end of the text."""

from collections.abc import Sequence

import numpy as np


def validation_documents(lengths: Sequence[int], val_split: float, seed: int) -> np.ndarray:
    """Draws the validation documents, one from each of n_val strata of like length.

    The documents are sorted by length and cut into n_val consecutive strata of almost equal
    count; the seed says which document of a stratum is held out. So long and short documents have
    the same share in both parts.

    Args:
      lengths: size of each document, in any unit.
      val_split: share of the documents, 0 to 0.5.
      seed: non-negative.

    Returns:
      [n] bool, True for validation: round(n * val_split) documents, but at least 1 and at most
      n - 1; none if val_split is 0 or n is 1.
    """
    n = len(lengths)
    held_out = np.zeros((n,), bool)
    if val_split <= 0 or n < 2:
        return held_out
    n_val = min(max(round(n * val_split), 1), n - 1)
    by_length = np.argsort(np.asarray(lengths), kind="stable")
    edges = np.arange(n_val + 1) * n // n_val
    drawn = np.random.default_rng(seed).integers(edges[:-1], edges[1:])
    held_out[by_length[drawn]] = True
    return held_out


def tail_cut(characters: Sequence[int], val_split: float) -> tuple[int, int]:
    """Where the last val_split of the text begins: a document, and characters of it before that.

    Of n characters int(n * (1 - val_split)) come before, but at least 1.

    Args:
      characters: of each document, in order.
      val_split: share of the characters, more than 0.
    """
    ends = np.cumsum(np.asarray(characters, np.int64))
    n = int(ends[-1]) if len(ends) else 0
    before = max(int(n * (1 - val_split)), 1)
    index = int(np.searchsorted(ends, before, side="right"))
    return index, before - (int(ends[index - 1]) if index else 0)

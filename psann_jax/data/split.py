"""What is held out for validation: documents drawn, or the end of the text."""

from collections.abc import Sequence

import numpy as np

MOST_HELD_OUT = 2.0  # of the share asked for, before shorter documents are taken


def validation_documents(lengths: Sequence[int], val_split: float, seed: int) -> np.ndarray:
    """Draws the validation documents, one from each of n_val strata of like length.

    The documents are sorted by length and cut into n_val consecutive strata of almost equal
    count; the seed says which document of a stratum is held out. So long and short documents have
    the same share in both parts.

    Where so few documents would hold out more than twice that share of the text, they are drawn
    from those short enough, or where these are too few they are the shortest.

    Args:
      lengths: size of each document, in any unit that adds up.
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
    sizes = np.asarray(lengths)
    by_length = np.argsort(sizes, kind="stable")
    drawn = _one_of_each_stratum(by_length, n_val, seed)
    most = MOST_HELD_OUT * val_split * sizes.sum()
    if sizes[drawn].sum() > most:
        short = by_length[sizes[by_length] <= most / n_val]
        short = short if len(short) >= n_val else by_length[:n_val]
        drawn = _one_of_each_stratum(short, n_val, seed)
    held_out[drawn] = True
    return held_out


def _one_of_each_stratum(sorted_documents: np.ndarray, n: int, seed: int) -> np.ndarray:
    edges = np.arange(n + 1) * len(sorted_documents) // n
    return sorted_documents[np.random.default_rng(seed).integers(edges[:-1], edges[1:])]


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

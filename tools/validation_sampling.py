"""The sets of tokens that top-k and top-p leave, and whether draws keep to them and fill them."""

from typing import NamedTuple

import numpy as np

K, P = 3, 0.5
_UNCLEAR = 1e-3  # of logits and of probabilities: what a cache may move does not decide
_MISSED = 1e-9  # chance that a token that has to be drawn is not


class Kept(NamedTuple):
    """What is left of V tokens.

    Attributes:
      may, must: [V] bool, may be left, and are; both are the same where nothing is unclear.
      share: [V], probabilities.
    """

    may: np.ndarray
    must: np.ndarray
    share: np.ndarray


def most_likely(logits: np.ndarray) -> Kept:
    """The K most likely tokens of logits [V]."""
    ranked = np.sort(logits)[::-1]
    may = logits >= ranked[K - 1] - _UNCLEAR
    return Kept(may, logits >= ranked[K] + _UNCLEAR, _softmax(np.where(may, logits, -np.inf)))


def nucleus(logits: np.ndarray) -> Kept:
    """The fewest most likely tokens of logits [V] whose probabilities reach P."""
    order, p = np.argsort(-logits), _softmax(logits)
    before = np.zeros_like(p)
    before[order] = np.cumsum(p[order]) - p[order]  # of the tokens that are more likely
    may = before < P + _UNCLEAR
    return Kept(may, before < P - _UNCLEAR, _softmax(np.where(may, logits, -np.inf)))


def temperature(logits: np.ndarray) -> float:
    """At which K tokens or more are the nucleus, and the last of them is drawn most often."""

    def least(t: float) -> float:
        kept = nucleus(logits / t)
        return float(np.min(kept.share[kept.must])) * (_clear(kept) and kept.may.sum() >= K)

    return float(max(np.std(logits) * np.geomspace(0.02, 1, 50), key=least))


def told(kept: Kept, n: int) -> bool:
    """Whether each token that is left is all but certain to be among n draws."""
    return _clear(kept) and bool(np.min(kept.share[kept.must]) >= _certain(n))


def faults(kept: Kept, drawn: list[int]) -> list[str]:
    """What is wrong with tokens drawn from what is left."""
    found = np.bincount(drawn, minlength=len(kept.may)) > 0  # [V]
    due = kept.must & (kept.share >= _certain(len(drawn)))
    wrong = ["draws what it should drop"] * bool(np.any(found & ~kept.may))
    return wrong + ["drops what it should draw"] * bool(np.any(due & ~found))


def _clear(kept: Kept) -> bool:
    return bool(np.array_equal(kept.may, kept.must))


def _certain(n: int) -> float:
    """The least probability of a token that is among n draws all but certainly."""
    return 1 - _MISSED ** (1 / n)


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits.astype(np.float64) - np.max(logits))
    return e / np.sum(e)

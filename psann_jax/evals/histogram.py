"""Histograms of what was measured: edges for values, quantiles of counts."""

from collections.abc import Iterable
import math

import numpy as np

QUANTILES = (1, 5, 50, 95, 99)  # percent
_FINENESS = 3  # bins over the cube root of the number of values
_NARROWEST = 1e-3  # of the values themselves: equal values get bins as well


def edges_over(values: Iterable[np.ndarray]) -> np.ndarray:
    """Edges [bins + 1] of equal bins that hold all finite values of these arrays, [n] each.

    The finer the more values there are: 16 bins for 128 values, 39 for 2,048.
    """
    arrays = [np.ravel(v).astype(np.float64) for v in values]
    n_bins = math.ceil(_FINENESS * max(a.size for a in arrays) ** (1 / 3))
    joined = np.concatenate(arrays)
    finite = joined[np.isfinite(joined)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    least = _NARROWEST * (max(abs(low), abs(high)) or 1.0)
    missing = max(least - (high - low), 0.0)
    return np.linspace(low - missing / 2, high + missing / 2, n_bins + 1)


def value_quantiles(values: np.ndarray) -> dict[str, float]:
    """{"1": ..., "99": ...} of QUANTILES of finite values [n]; none of none."""
    return {str(q): float(np.quantile(values, q / 100)) for q in QUANTILES if values.size}


def count_quantiles(edges: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """As `value_quantiles` of counts [bins], the values of a bin taken as evenly spread in it."""
    if not counts.sum():
        return {}
    below = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    found = np.interp(np.array(QUANTILES) / 100 * below[-1], below, edges)
    return {str(q): float(v) for q, v in zip(QUANTILES, found, strict=True)}

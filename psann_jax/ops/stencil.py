"""Sparse maps on a grid of features, where a feature reads its neighbours: shifts, no gather.

Neighbours are (row, column) offsets from the feature's own place. At the border an offset
either stays on the edge ("clamp") or comes in again on the other side ("wrap").
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from psann_jax.sharding import distributed

BORDERS = {"clamp": "edge", "wrap": "wrap"}  # name -> mode of jnp.pad
Offset = tuple[int, int]
_BLOCK = 64  # tokens of a block of the weights' gradient


def square(radius: int) -> tuple[Offset, ...]:
    """All offsets up to `radius` either way, row by row, the feature itself in the middle."""
    reach = range(-radius, radius + 1)
    return tuple((row, column) for row in reach for column in reach)


def neighbours(shape: tuple[int, int], offsets: Sequence[Offset], border: str) -> np.ndarray:
    """Index of the feature at each offset from each feature of the grid, [M, C] int32."""
    height, width = shape
    moved = np.indices(shape).reshape(2, -1, 1) + np.array(offsets).T[:, None]  # [2, M, C]
    limits = np.array(shape)[:, None, None]
    moved = moved % limits if border == "wrap" else np.clip(moved, 0, limits - 1)
    return (moved[0] * width + moved[1]).astype(np.int32)


def stencil(
    x: jax.Array,
    weight: jax.Array,
    *,
    shape: tuple[int, int],
    offsets: Sequence[Offset],
    border: str,
) -> jax.Array:
    """y[m] = sum_c weight[c, m] * x[neighbours[m, c]], summed in float32.

    Args:
      x: [..., M], features of a grid row by row.
      weight: [C, M], one an offset and feature.

    Returns:
      [..., M] in x's dtype.
    """
    rows, columns = (sorted((0, *o)) for o in zip(*offsets, strict=True))
    around = (-rows[0], rows[-1]), (-columns[0], columns[-1])
    grid = x.reshape(-1, *shape)
    padded = jnp.pad(grid, ((0, 0), *around), mode=BORDERS[border])
    starts = tuple((row - rows[0], column - columns[0]) for row, column in offsets)
    weight = weight.astype(x.dtype).astype(jnp.float32).reshape(-1, *shape)
    return _shifts(padded, weight, starts).reshape(x.shape).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifts(padded: jax.Array, weight: jax.Array, starts: tuple[Offset, ...]) -> jax.Array:
    """sum_c weight[c] * the window of `padded` [N, H', W'] at starts[c]: [N, H, W] float32."""
    shape = weight.shape[1:]
    total = jnp.zeros((padded.shape[0], *shape), jnp.float32)
    for at, w in zip(starts, weight, strict=True):
        total = total + w * _window(padded, at, shape).astype(jnp.float32)
    return total


def _window(padded: jax.Array, at: Offset, shape: tuple[int, ...]) -> jax.Array:
    (row, column), (height, width) = at, shape
    return padded[:, row : row + height, column : column + width]


def _fwd(padded, weight, starts):
    return _shifts(padded, weight, starts), (padded, weight)


def _bwd(starts, saved, g):
    padded, weight = saved
    return _d_padded(padded, weight, starts, g), _d_weight(padded, weight, starts, g)


def _d_padded(padded, weight, starts, g):
    # As shifts of g again, so that one loop writes every element once.
    shape = padded.shape[1:]
    free = [size - inner for size, inner in zip(shape, weight.shape[1:], strict=True)]
    around = tuple((f, f) for f in free)
    g, w = jnp.pad(g, ((0, 0), *around)), jnp.pad(weight, ((0, 0), *around))
    total = jnp.zeros(padded.shape, jnp.float32)
    for i, (row, column) in enumerate(starts):
        at = free[0] - row, free[1] - column
        total = total + _window(w[i][None], at, shape) * _window(g, at, shape)
    return total.astype(padded.dtype)


def _d_weight(padded, weight, starts, g):
    """Sums over tokens block by block: offset after offset would reread all of them C times."""
    tokens = g.shape[0]
    if distributed() or tokens % _BLOCK:
        return _d_weight_of(padded, g, starts)

    def block(total, n):
        some, g_some = (jax.lax.dynamic_slice_in_dim(a, n * _BLOCK, _BLOCK) for a in (padded, g))
        return total + _d_weight_of(some, g_some, starts), None

    return jax.lax.scan(block, jnp.zeros_like(weight), jnp.arange(tokens // _BLOCK))[0]


def _d_weight_of(padded, g, starts):
    windows = (_window(padded, at, g.shape[1:]).astype(jnp.float32) for at in starts)
    return jnp.stack([jnp.sum(window * g, axis=0) for window in windows])


_shifts.defvjp(_fwd, _bwd)


def gathered(x: jax.Array, weight: jax.Array, index: jax.Array) -> jax.Array:
    """y[m] = sum_i weight[i, m] * x[index[m, i]]: any connections, slower where all are near.

    Args:
      x: [..., M].
      weight: [k, M].
      index: [M, k] int32.
    """
    total, x32 = jnp.zeros(x.shape, jnp.float32), x.astype(jnp.float32)
    for i in range(weight.shape[0]):  # of float32, so that the gradient of x is summed in it
        w = weight[i].astype(x.dtype).astype(jnp.float32)
        total = total + w * jnp.take(x32, index[:, i], axis=-1)
    return total.astype(x.dtype)

"""Where each token stands: positions and segments, the batch of training rows, and the legend.

Letters in shape comments, the same in every file:
  B batch   T tokens   D d_model   F d_mlp   H heads   K head size   V vocabulary
  S cache slots   N state size   A micro-batches   L layers   W taps of a convolution
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = Any  # numpy.ndarray on the host, jax.Array on the devices


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Seq:
    """What every mixer may know about the tokens it is given, besides their features.

    A token sees the tokens of its own segment that come before it. Positions count from 0
    inside a segment, so `position == 0` is where recurrences and convolutions start afresh.
    Padding may stand before a document's first token or after its last; tokens that go on from a
    state have none before them.

    Attributes:
      positions: [B, T] or [1, T] int32.
      segments: [B, T] int32, 0 on padding; None when every row is one document.
      key: PRNG key of this call's dropout; None (evaluation, decoding) drops nothing.
    """

    positions: jax.Array
    segments: jax.Array | None = None
    key: jax.Array | None = None

    def fold(self, index: int | jax.Array) -> "Seq":
        """The same tokens with a dropout key of their own for layer or sublayer `index`."""
        if self.key is None:
            return self
        return dataclasses.replace(self, key=jax.random.fold_in(self.key, index))


class Batch(NamedTuple):
    """Rows of packed next-token examples; numpy on the host, jax arrays on the devices.

    In the batches of parallel tracks, row b goes on where row b of the batch before ended, unless
    positions[b, 0] == 0: then it begins with a document, or an epoch begins. Where it goes on, its
    positions are 1, 2, ... up to the next document, as `positions_after` has them count on.
    """

    inputs: Array  # [B, T] int32
    targets: Array  # [B, T] int32
    weights: Array  # [B, T] float32, 0 where there is no loss
    positions: Array  # [B, T] int32, from 0 in every segment, from 1 where a row goes on
    segments: Array  # [B, T] int32, 1, 2, ... in a row, 0 on padding


def dealt(rows: Array, micro_batches: int) -> Array:
    """Rows [A * R, ...] as micro-batches [A, R, ...]: row r is number r // A of micro-batch r % A.

    So a row's place does not depend on the empty rows after the last, nor on how the rows are cut
    into parts, each of which a process deals out by itself: its dropout is the same on any mesh.
    """
    return rows.reshape(-1, micro_batches, *rows.shape[1:]).swapaxes(0, 1)


def collected(rows: Array) -> Array:
    """Micro-batches [A, R, ...] as the rows [A * R, ...] from which they were `dealt`."""
    return rows.swapaxes(0, 1).reshape(-1, *rows.shape[2:])


class Share(NamedTuple):
    """What a process takes of each batch: these of `of` equal parts, in which its rows are cut."""

    parts: tuple[int, ...] = (0,)
    of: int = 1


def positions_after(batch: Batch, position: jax.Array) -> jax.Array:
    """The positions of a batch of tracks, [B, T], where the first segment of rows counts on.

    Args:
      position: [B], of the token after the last one of each row of the batch before.
    """
    goes_on = (batch.positions[:, :1] > 0) & (batch.segments == 1)
    return batch.positions + jnp.where(goes_on, position[:, None] - batch.positions[:, :1], 0)

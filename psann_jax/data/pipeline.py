"""The batch of each step, and a stream of them that reads ahead.

The rows of a step are a pure function of the step, so resuming needs no state but the step, and
any number of processes sees the same global batches.
"""

from collections.abc import Generator
import dataclasses

import numpy as np

from psann_jax.data.order import ORDERS, goes_on, n_steps, row_order, track_rows
from psann_jax.data.shards import Rows
from psann_jax.seq import Batch, Share

_THREADS = 2
_BATCHES_AHEAD = 4
_FOREVER = 1 << 48  # steps
_ALL = Share()


def batches(
    rows: Rows,
    *,
    batch_rows: int,
    seed: int,
    start_step: int = 0,
    stop_step: int | None = None,
    epochs: int | None = None,
    order: str = "shuffled",
    multiple_of: int = 1,
    share: Share = _ALL,
) -> Generator[Batch]:
    """This process's share of the batches from `start_step` on, read ahead by two threads.

    Args:
      rows: where the rows are.
      batch_rows: rows of the global batch.
      seed: decides the order of the rows where they are shuffled.
      start_step: 0, or the step to resume at.
      stop_step: the first step that is not given; None goes to the end.
      epochs: ends after so many passes over the rows, the last batch filled up with empty rows;
        None never ends.
      order: one of order.ORDERS, as `row_order` tells: "shuffled", "stored" for evaluation, or
        "tracks", whose batches say in their positions which rows go on.
      multiple_of: empty rows fill the batch up to B, a multiple of this, so that it can be
        spread over devices without another choice of rows.
      share: parts of which part p of P has rows p * B / P to (p + 1) * B / P.

    Yields:
      Batches [b, T], b the rows of `share`.

    Raises:
      ValueError: the batch cannot be divided, there are fewer rows than tracks, or a shard is
        damaged.
    """
    if order not in ORDERS:
        raise ValueError(f"order={order!r} must be one of {', '.join(ORDERS)}")
    if batch_rows < 1:
        raise ValueError(f"batch_rows={batch_rows} must be at least 1")
    if order == "tracks":
        track_rows(len(rows), batch_rows)
    padded_rows = -(-batch_rows // multiple_of) * multiple_of
    if padded_rows % share.of:
        raise ValueError(
            f"batch_rows={padded_rows} is not a positive multiple of {share.of} parts; "
            f"choose {max(1, padded_rows // share.of) * share.of}"
        )
    if not share.parts or any(not 0 <= p < share.of for p in share.parts):
        raise ValueError(f"share={share.parts} must be of the parts 0 to {share.of - 1}")
    if start_step < 0:
        raise ValueError(f"start_step={start_step} must be 0 or more")
    ends = [stop_step] if stop_step is not None else []
    ends += [n_steps(len(rows), batch_rows, epochs, order)] if epochs is not None else []
    parts = np.arange(padded_rows).reshape(share.of, -1)
    places = parts[list(share.parts)].ravel()
    source = _Steps(rows, batch_rows, seed, order, epochs, places)
    return _stream(source, start_step, min(ends, default=_FOREVER))


@dataclasses.dataclass(frozen=True)
class _Steps:
    """Random access to this process's share of each step's batch."""

    rows: Rows
    batch_rows: int
    seed: int
    order: str
    epochs: int | None
    places: np.ndarray  # of this process's rows in the global batch, beyond its end if empty

    def __len__(self) -> int:
        return _FOREVER

    def __getitem__(self, index: int) -> Batch:  # of the step
        n_rows, batch_rows = len(self.rows), self.batch_rows
        chosen = row_order(n_rows, batch_rows, index, self.seed, self.order, self.epochs)
        filled = np.append(chosen, -1)  # which an empty row has
        own = filled[np.minimum(self.places, batch_rows)]
        return self.rows.batch(own, goes_on=goes_on(n_rows, batch_rows, index, self.order))


def _stream(source: _Steps, start: int, stop: int) -> Generator[Batch]:
    import grain

    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_BATCHES_AHEAD)
    steps = grain.MapDataset.source(source)[start : max(start, stop)]
    iterator = iter(steps.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()

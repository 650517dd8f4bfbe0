"""The batch of each step: which rows it has, and a stream that reads ahead.

The rows of a step are a pure function of the step, so resuming needs no state but the step, and
any number of processes sees the same global batches.
"""

from collections.abc import Iterator
import dataclasses

import numpy as np

from psann_jax.data.shards import Rows
from psann_jax.seq import Batch

_THREADS = 2
_BATCHES_AHEAD = 4
_SHUFFLE_ROUNDS = 4
_FOREVER = 1 << 48  # steps


def row_order(
    n_rows: int,
    batch_rows: int,
    step: int,
    seed: int,
    shuffle: bool = True,
    epochs: int | None = None,
) -> np.ndarray:
    """Rows of the global batch of a step, [batch_rows] int64.

    The rows of epoch 0, each once, then those of epoch 1 in another order, and so on, are one
    sequence without gaps; step s takes items s * batch_rows to (s + 1) * batch_rows of it. Beyond
    the last of `epochs` epochs the row is -1.
    """
    items = step * batch_rows + np.arange(batch_rows, dtype=np.int64)
    return _rows_of(items, n_rows, seed, shuffle, epochs)


def n_steps(n_rows: int, batch_rows: int, epochs: int) -> int:
    """Steps that see each row `epochs` times; the last may be padded."""
    return -(-n_rows * epochs // batch_rows)


def batches(
    rows: Rows,
    *,
    batch_rows: int,
    seed: int,
    start_step: int = 0,
    stop_step: int | None = None,
    epochs: int | None = None,
    shuffle: bool = True,
    multiple_of: int = 1,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """This process's share of the batches from `start_step` on, read ahead by two threads.

    Args:
      rows: where the rows are.
      batch_rows: rows of the global batch.
      seed: decides the order of the rows.
      start_step: 0, or the step to resume at.
      stop_step: the first step that is not given; None goes to the end.
      epochs: ends after so many passes over the rows, the last batch filled up with empty rows;
        None never ends.
      shuffle: False keeps the rows in order, for evaluation.
      multiple_of: empty rows fill the batch up to B, a multiple of this, so that it can be
        spread over devices without another choice of rows.
      process_index, process_count: rows p * B / P to (p + 1) * B / P of each global batch.

    Yields:
      Batches [B / P, T].

    Raises:
      ValueError: the batch cannot be divided, or a shard is damaged.
    """
    if batch_rows < 1:
        raise ValueError(f"batch_rows={batch_rows} must be at least 1")
    padded_rows = -(-batch_rows // multiple_of) * multiple_of
    if padded_rows % process_count:
        raise ValueError(
            f"batch_rows={padded_rows} is not a positive multiple of the {process_count} "
            f"processes; choose {max(1, padded_rows // process_count) * process_count}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index} must be 0 to {process_count - 1}")
    if start_step < 0:
        raise ValueError(f"start_step={start_step} must be 0 or more")
    ends = [stop_step] if stop_step is not None else []
    ends += [n_steps(len(rows), batch_rows, epochs)] if epochs is not None else []
    share = padded_rows // process_count
    source = _Steps(rows, batch_rows, seed, shuffle, epochs, share, process_index * share)
    return _stream(source, start_step, min(ends, default=_FOREVER))


@dataclasses.dataclass(frozen=True)
class _Steps:
    """Random access to this process's share of each step's batch."""

    rows: Rows
    batch_rows: int
    seed: int
    shuffle: bool
    epochs: int | None
    share: int  # rows of this process, the last ones maybe empty
    first: int  # where they begin in the global batch

    def __len__(self) -> int:
        return _FOREVER

    def __getitem__(self, index: int) -> Batch:  # of the step
        order = np.full(self.share, -1, np.int64)
        n = max(0, min(self.share, self.batch_rows - self.first))
        items = index * self.batch_rows + self.first + np.arange(n, dtype=np.int64)
        order[:n] = _rows_of(items, len(self.rows), self.seed, self.shuffle, self.epochs)
        return self.rows.batch(order)


def _stream(source: _Steps, start: int, stop: int) -> Iterator[Batch]:
    import grain

    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_BATCHES_AHEAD)
    steps = grain.MapDataset.source(source)[start : max(start, stop)]
    iterator = iter(steps.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


def _rows_of(
    items: np.ndarray, n_rows: int, seed: int, shuffle: bool, epochs: int | None
) -> np.ndarray:
    """Rows at these places, [n], of the sequence of all epochs."""
    epoch_of, rows = np.divmod(items, n_rows)
    if shuffle:
        from grain.experimental import index_shuffle

        for epoch in np.unique(epoch_of):
            key = _epoch_seed(seed, int(epoch))
            for i in np.flatnonzero(epoch_of == epoch):
                rows[i] = index_shuffle(int(rows[i]), n_rows - 1, key, _SHUFFLE_ROUNDS)
    return rows if epochs is None else np.where(epoch_of < epochs, rows, -1)


def _epoch_seed(seed: int, epoch: int) -> int:
    """A 32-bit seed, independent from one epoch to the next."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])

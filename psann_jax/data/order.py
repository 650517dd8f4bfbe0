"""Which rows each step has: a pure function of the step, so that resuming needs nothing else."""

import numpy as np

ORDERS = ("shuffled", "stored", "tracks")
_SHUFFLE_ROUNDS = 4


def row_order(
    n_rows: int,
    batch_rows: int,
    step: int,
    seed: int,
    order: str = "shuffled",
    epochs: int | None = None,
) -> np.ndarray:
    """Rows of the global batch of a step, [batch_rows] int64.

    "shuffled" and "stored": the rows of epoch 0, each once, then those of epoch 1 and so on, are
    one sequence without gaps; step s takes items s * batch_rows to (s + 1) * batch_rows of it. An
    epoch has an order of its own, or that on disk.

    "tracks": the rows on disk are cut into batch_rows tracks of n_rows // batch_rows rows, the rest
    is left out. Step i of an epoch takes row i of each track, so that row b of it goes on where
    row b of step i - 1 ended.

    Beyond the last of `epochs` epochs the row is -1.
    """
    place = np.arange(batch_rows, dtype=np.int64)
    if order == "tracks":
        length = track_rows(n_rows, batch_rows)
        epoch_of = np.full(batch_rows, step // length)
        rows = place * length + step % length
    else:
        epoch_of, rows = np.divmod(step * batch_rows + place, n_rows)
    if order == "shuffled":
        rows = _shuffled(rows, epoch_of, n_rows, seed)
    return rows if epochs is None else np.where(epoch_of < epochs, rows, -1)


def n_steps(n_rows: int, batch_rows: int, epochs: int, order: str = "shuffled") -> int:
    """Steps that see each row `epochs` times; the last may be padded, but not in tracks."""
    if order == "tracks":
        return track_rows(n_rows, batch_rows) * epochs
    return -(-n_rows * epochs // batch_rows)


def track_rows(n_rows: int, tracks: int) -> int:
    """How many rows each of the tracks has, which is also the steps of an epoch.

    Raises:
      ValueError: there are fewer rows than tracks.
    """
    if n_rows < tracks:
        raise ValueError(
            f"data.order='tracks' needs a row for each track, and {n_rows} rows do not make "
            f"{tracks} tracks; lower train.batch_tokens to at most {n_rows} rows of "
            "data.max_length, lower data.max_length, or add text"
        )
    return n_rows // tracks


def goes_on(n_rows: int, batch_rows: int, step: int, order: str) -> bool:
    """Whether the rows of a step follow those of the step before."""
    return order == "tracks" and step % track_rows(n_rows, batch_rows) > 0


def _shuffled(rows: np.ndarray, epoch_of: np.ndarray, n_rows: int, seed: int) -> np.ndarray:
    from grain.experimental import index_shuffle

    rows = rows.copy()
    for epoch in np.unique(epoch_of):
        key = _epoch_seed(seed, int(epoch))
        for i in np.flatnonzero(epoch_of == epoch):
            rows[i] = index_shuffle(int(rows[i]), n_rows - 1, key, _SHUFFLE_ROUNDS)
    return rows


def _epoch_seed(seed: int, epoch: int) -> int:
    """A 32-bit seed, independent from one epoch to the next."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])

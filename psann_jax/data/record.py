"""A row as the bytes of a record, and many records as a training batch."""

from collections.abc import Sequence

import numpy as np

from psann_jax.data.pack import Block
from psann_jax.seq import Batch


def record_dtype(max_length: int, vocab_size: int) -> np.dtype:
    """The layout of a record, little-endian: 2 bytes a token where the vocabulary fits them."""
    token = "<u2" if vocab_size <= 1 << 16 else "<u4"
    return np.dtype(
        [
            ("row", "<u8"),  # its own number, so that a damaged index cannot pass another row off
            ("document", "<u8"),
            ("length", "<u4"),
            ("tokens", token, (max_length + 1,)),
            ("starts", "u1", ((max_length + 8) // 8,)),
        ]
    )


def to_records(block: Block, first_row: int, dtype: np.dtype) -> list[bytes]:
    """The bytes of each row; the first is row number `first_row`."""
    rows = np.zeros((len(block.lengths),), dtype)
    rows["row"] = first_row + np.arange(len(rows))
    rows["document"] = block.documents
    rows["length"] = block.lengths
    rows["tokens"] = block.tokens
    rows["starts"] = np.packbits(block.starts, axis=1)
    return [row.tobytes() for row in rows]


def from_records(records: Sequence[bytes], dtype: np.dtype) -> np.ndarray:
    """The rows in the records, [n] of `dtype`.

    Raises:
      ValueError: the records are not of this layout.
    """
    if any(len(record) != dtype.itemsize for record in records):
        raise ValueError(f"a record is not of {dtype.itemsize} bytes")
    return np.frombuffer(b"".join(records), dtype)


def empty_rows(n: int, pad_id: int, dtype: np.dtype) -> np.ndarray:
    """Rows of padding alone, [n] of `dtype`."""
    rows = np.zeros((n,), dtype)
    rows["tokens"] = pad_id
    return rows


def to_batch(rows: np.ndarray, bos_id: int, goes_on: bool = False) -> Batch:
    """Shifts rows [n] into inputs and targets [n, T].

    Positions count from 0 at each start and at the row's first token, segments from 1. Where the
    rows go on from those of the step before, a first token that is no start has position 1.
    Padding has segment 0, position 0 and weight 0; weight 0 has also a target that is a bos at a
    start, as it says nothing of the text. Other starts follow an eos that the text spells.
    """
    tokens = rows["tokens"]  # [n, T + 1]
    column = np.arange(tokens.shape[1], dtype=np.int32)
    real = column < rows["length"][:, None]
    starts = np.unpackbits(rows["starts"], axis=1, count=len(column)).view(bool)
    opens = starts[:, :-1].copy()
    opens[:, 0] = True
    begin = np.maximum.accumulate(np.where(opens, column[:-1], 0), axis=1)
    segments = np.cumsum(opens, axis=1, dtype=np.int32)
    follows = (segments == 1) & ~starts[:, :1] & goes_on
    return Batch(
        inputs=tokens[:, :-1].astype(np.int32),
        targets=tokens[:, 1:].astype(np.int32),
        weights=(real & ~(starts & (tokens == bos_id)))[:, 1:].astype(np.float32),
        positions=(column[:-1] - begin + follows) * real[:, :-1],
        segments=segments * real[:, :-1],
    )

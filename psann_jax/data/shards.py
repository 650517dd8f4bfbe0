"""Rows on disk: ArrayRecord files with one row a record, and random access to them.

ArrayRecord is as fast as a memory map and checks a hash on each read, so a flipped bit is an error
and never a wrong token.
"""

from collections.abc import Iterator, Sequence
import contextlib
import copy
import hashlib
import pathlib
import resource
from typing import Self

from array_record.python import array_record_module
import numpy as np

from psann_jax.data.cache import refuse_unreadable
from psann_jax.data.pack import Block
from psann_jax.data.record import empty_rows, from_records, record_dtype, to_batch, to_records
from psann_jax.seq import Batch

_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_SHARD_BYTES = 256 << 20
_ROWS_AT_ONCE = 512
_FEW_FILES, _MANY_FILES = 128, 2**16  # shards that need no more than is usual; the limit for more
_READ_ERRORS = (RuntimeError, ValueError, IndexError, OSError)


@contextlib.contextmanager
def _failures_of_the_disk() -> Iterator[None]:
    """The library tells of a full disk by RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(_first_line(error)) from None


class ShardWriter:
    """Writes the rows of one split into files `{split}-00000.arrayrecord` and so on.

    Attributes:
      rows: how many were written.
      files: names of the files, in order.
    """

    def __init__(self, folder: pathlib.Path, split: str, max_length: int, vocab_size: int):
        self._folder = folder
        self._split = split
        self._dtype = record_dtype(max_length, vocab_size)
        self._writers: list[array_record_module.ArrayRecordWriter] = []  # the one that is open
        self.rows = 0
        self.files: list[str] = []
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of the content of every row so far, in order."""
        return self._digest.hexdigest()

    @_failures_of_the_disk()
    def add(self, block: Block) -> None:
        """Appends rows.

        Raises:
          OSError: they cannot be written.
        """
        for record in to_records(block, self.rows, self._dtype):
            if self.rows % rows_per_shard(self._dtype) == 0:
                self._open_next()
            self._writers[-1].write(record)
            self._digest.update(record)
            self.rows += 1

    def _open_next(self) -> None:
        self.close()
        self.files.append(f"{self._split}-{len(self.files):05d}.arrayrecord")
        path = str(self._folder / self.files[-1])
        self._writers.append(array_record_module.ArrayRecordWriter(path, _WRITER_OPTIONS))

    @_failures_of_the_disk()
    def close(self) -> None:
        """Completes the last file, or raises OSError."""
        while self._writers:
            self._writers.pop().close()


class Rows:
    """Random access to the rows of one split; may be read by several threads at once.

    Attributes:
      max_length: T.
      vocab_size: of the tokenizer the rows were made with.
    """

    def __init__(
        self,
        paths: Sequence[pathlib.Path],
        n_rows: int,
        *,
        max_length: int,
        vocab_size: int,
        pad_id: int,
        bos_id: int,
    ):
        """Opens the files of `ShardWriter`.

        Raises:
          ValueError: a file is missing or damaged, or there are not `n_rows` rows in them.
        """
        self.max_length = max_length
        self.vocab_size = vocab_size
        self._n_rows = n_rows
        self._pad_id, self._bos_id = pad_id, bos_id
        self._dtype = record_dtype(max_length, vocab_size)
        self._per_shard = rows_per_shard(self._dtype)
        self._paths = list(paths)
        _may_open(len(self._paths))
        self._readers = [_reader(path) for path in paths]
        found = sum(reader.num_records() for reader in self._readers)
        if found != n_rows:
            for path in self._paths:  # in what it cannot read the library finds no rows
                refuse_unreadable(path)
            raise _damaged(self._paths[0], f"{found} rows in place of {n_rows}")

    def __len__(self) -> int:
        return self._n_rows

    def first(self, n: int) -> Self:
        """The first n rows, or all where there are fewer."""
        rows = copy.copy(self)
        rows._n_rows = min(n, self._n_rows)
        return rows

    def in_order(self) -> Iterator[Batch]:
        """All rows, as they are stored, some hundred at a time."""
        for first in range(0, self._n_rows, _ROWS_AT_ONCE):
            yield self.batch(np.arange(first, min(first + _ROWS_AT_ONCE, self._n_rows)))

    def batch(self, indices: Sequence[int] | np.ndarray, *, goes_on: bool = False) -> Batch:
        """The rows of these numbers, [n, T]; -1 gives a row of padding.

        Args:
          goes_on: whether each row follows the one before it in a track, as `seq.Batch` tells.

        Raises:
          ValueError: a file is damaged; the message names the folder to delete.
        """
        return to_batch(self._read(np.asarray(indices, np.int64)), self._bos_id, goes_on)

    def first_documents(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which document each row begins in, [n], counted in the order they were prepared."""
        return self._read(np.asarray(indices, np.int64))["document"].astype(np.int64)

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if indices.size and not (indices.min() >= -1 and indices.max() < self._n_rows):
            raise IndexError(f"rows are 0 to {self._n_rows - 1}, or -1 for an empty one")
        rows = empty_rows(len(indices), self._pad_id, self._dtype)
        shards = np.where(indices < 0, -1, indices // self._per_shard)
        for shard in np.unique(shards[shards >= 0]):
            chosen = shards == shard
            rows[chosen] = self._read_shard(shard, indices[chosen])
        return rows

    def _read_shard(self, shard: int, indices: np.ndarray) -> np.ndarray:
        places = (indices - shard * self._per_shard).tolist()
        try:
            rows = from_records(self._readers[shard].read(places), self._dtype)
        except _READ_ERRORS as error:
            refuse_unreadable(self._paths[shard])
            raise _damaged(self._paths[shard], _first_line(error)) from None
        if not np.array_equal(rows["row"], indices):
            raise _damaged(self._paths[shard], "rows are out of order")
        return rows


def rows_per_shard(dtype: np.dtype) -> int:
    """How many rows a full file holds."""
    return max(1, _SHARD_BYTES // dtype.itemsize)


def _may_open(n: int) -> None:
    """Raises this process's limit of open files, often 1,024, if n shards could come near it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if n < _FEW_FILES or soft == resource.RLIM_INFINITY:
        return
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else min(_MANY_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _reader(path: pathlib.Path) -> array_record_module.ArrayRecordReader:
    try:
        return array_record_module.ArrayRecordReader(str(path), _READER_OPTIONS)
    except _READ_ERRORS as error:
        refuse_unreadable(path)
        raise _damaged(path, _first_line(error)) from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else "no reason given"


def _damaged(path: pathlib.Path, why: str) -> ValueError:
    return ValueError(
        f"data.cache_dir: {str(path)!r} is damaged ({why}); delete the folder "
        f"{str(path.parent)!r} and start again"
    )

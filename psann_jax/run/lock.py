"""The lock of a run's folder: one run at a time writes there."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
from pathlib import Path
import socket

_TAKEN = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)  # of the file system


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file, which it makes, until the context or the process ends.

    Where the file system has no locks it holds none, and keeps nobody out.

    Raises:
      ValueError: another process holds it; says which.
      OSError: the file cannot be written.
    """
    # A record lock, not flock: a forked process has no share in it, so that none which outlives
    # this one keeps the run from being started again. The file is opened nowhere else, since
    # closing any descriptor of it would end the lock.
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(file, path)
        yield
    finally:
        with contextlib.suppress(OSError):  # it is closed all the same, and the run is over
            os.close(file)


def _take(file: int, path: Path) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            raise _in_use(path, os.read(file, 1000).decode(errors="replace").strip()) from None
        if error.errno not in _NO_LOCKS:
            raise
    os.ftruncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _in_use(path: Path, holder: str) -> ValueError:
    return ValueError(
        f"workdir {path.parent} is in use: {holder or 'another process'} trains there; wait until "
        f"it has ended, remove {path} if its machine is gone, or choose another --workdir"
    )

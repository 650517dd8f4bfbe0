"""The lock of a run's folder: one run at a time writes there."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
from pathlib import Path
import re
import socket
import time

_WAIT_SECONDS = 120
_TAKEN = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)  # of the file system


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file, which it makes, until the context or the process ends.

    Where the file system has no locks it holds none, and keeps nobody out.

    A holder of another machine is waited for: the server of a network disk keeps the lock of one
    that died for a while.

    Raises:
      ValueError: another process of this machine holds it; says which.
      TimeoutError: one of another machine still holds it after two minutes.
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
    give_up = time.monotonic() + _WAIT_SECONDS
    while not _taken(file):
        holder = os.pread(file, 1000, 0).decode(errors="replace").strip()
        if _lives_here(holder):
            raise ValueError(_in_use(path, holder))
        if time.monotonic() > give_up:
            raise TimeoutError(_in_use(path, holder))
        time.sleep(1)
    os.ftruncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _taken(file: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _lives_here(holder: str) -> bool:
    """Whether that is a process of this machine, which will not let go by waiting.

    A container that was started again may have the name of the one before, and its numbers.
    """
    found = re.fullmatch(r"process (\d+) on (\S+)", holder)
    if not found or found[2] != socket.gethostname() or int(found[1]) == os.getpid():
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def _in_use(path: Path, holder: str) -> str:
    return (
        f"workdir {path.parent} is in use: {holder or 'another process'} trains there; wait until "
        f"it has ended, remove {path} if its machine is gone, or choose another --workdir"
    )

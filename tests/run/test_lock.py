"""A lock keeps other processes out for as long as its own lives, and no longer."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from psann_jax.run import lock
from psann_jax.run.lock import locked

# lock.py by itself: it needs nothing of the package, which takes seconds to import.
TRY = f"""
import pathlib, runpy, sys
with runpy.run_path({lock.__file__!r})["locked"](pathlib.Path(sys.argv[1])):
    pass
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.lock"


def others_may(path):
    """Whether another process gets the lock."""
    done = subprocess.run([sys.executable, "-c", TRY, str(path)], capture_output=True, text=True)
    assert done.returncode == 0 or "ValueError: workdir" in done.stderr, done.stderr
    return done.returncode == 0


def test_a_second_process_is_told_who_holds_it(path, hold_lock):
    process = hold_lock(path)
    said = rf"^workdir .* is in use: process {process.pid} on {re.escape(socket.gethostname())} "
    with pytest.raises(ValueError, match=said) as error, locked(path):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("holder", "error"),
    [
        ("process 1 on another", TimeoutError),
        (f"process {os.getpid()} on {socket.gethostname()}", TimeoutError),  # a container's before
        (f"process 1 on {socket.gethostname()}", ValueError),
        ("", TimeoutError),
    ],
    ids=["elsewhere", "a container's before", "here", "unknown"],
)
def test_a_holder_of_another_machine_is_waited_for(path, monkeypatch, holder, error):
    monkeypatch.setattr(lock, "_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(lock, "_taken", lambda file: False)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: None)
    path.write_text(holder)
    with pytest.raises(error, match=f"is in use: {holder or 'another process'} trains there"):
        lock.locked(path).__enter__()


def test_it_ends_with_a_killed_process(path, hold_lock):
    process = hold_lock(path)
    process.kill()
    process.wait()
    with locked(path):
        assert path.read_text().startswith(f"process {os.getpid()} on ")


def test_a_forked_process_that_outlives_its_holder_has_none(path, hold_lock):
    process = hold_lock(path, "child = os.fork()\nif child == 0: time.sleep(60)\n")
    process.kill()
    process.wait()
    try:
        with locked(path):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_it_keeps_others_out_until_an_error_ends_the_context(path):
    with pytest.raises(KeyError), locked(path):
        assert not others_may(path)
        raise KeyError
    assert others_may(path)


def test_one_process_takes_it_again_and_again(path):
    for _ in range(2):
        with locked(path):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_keeps_nobody_out(path, monkeypatch, number):
    def lockf(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.lockf", lockf)
    with locked(path):
        pass

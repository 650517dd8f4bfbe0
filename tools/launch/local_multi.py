"""Starts one training run as several processes of this machine, and again where it was stopped.

    python tools/launch/local_multi.py --processes 2 -- --config configs/quickstart.py

What follows -- goes to `python -m psann_jax.main`. Each line of process I begins with [I]. SIGTERM
and SIGINT are passed on, so that the run saves. When one process ends badly the others are given
the time in which they notice, then they are ended too. Exit codes are those of a single process;
bad input (2) and a loss that is not finite (3) are final, anything else is worth another start.
"""

import argparse
from collections.abc import Callable, Sequence
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from psann_jax.cluster import HEARTBEAT_SECONDS, VARIABLES
from psann_jax.run.guard import EXIT_NOT_FINITE
from psann_jax.run.stop import EXIT_FAILED, EXIT_PREEMPTED

DONE, BUG, BAD_INPUT = 0, 1, 2
_GRACE_SECONDS = HEARTBEAT_SECONDS + 5


class Group:
    """The processes of one start.

    Args:
      command: what each of them runs.
      processes: how many.
      devices: CPU devices of each; None leaves that to JAX.
      gpus: for each process the one it sees, as CUDA_VISIBLE_DEVICES has them; by default all.
      say: takes each line of each process.
    """

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        *,
        devices: int | None = None,
        gpus: Sequence[str] = (),
        say: Callable[[str], object] = lambda line: sys.stderr.write(f"{line}\n"),  # at once
    ):
        shared = dict(zip(VARIABLES, (f"127.0.0.1:{_free_port()}", str(processes)), strict=False))
        if devices:
            shared |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
        own = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}] * processes
        self.processes = [self._start(command, i, shared | own[i]) for i in range(processes)]
        self._readers = [
            threading.Thread(target=_read, args=(i, p, say), daemon=True)
            for i, p in enumerate(self.processes)
        ]
        for reader in self._readers:
            reader.start()

    def _start(self, command: Sequence[str], index: int, settings: dict[str, str]):
        return subprocess.Popen(
            command,
            env={**os.environ, **settings, VARIABLES[2]: str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C here is passed on once, not sent twice
        )

    def send(self, number: int) -> None:
        """Sends a signal to each process that still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def wait(self) -> list[int]:
        """The exit codes, when all have ended; one that fails gives the others little time."""
        failed_at = None
        while any(p.poll() is None for p in self.processes):
            if failed_at is None and any(p.poll() not in (None, 0) for p in self.processes):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() > failed_at + _GRACE_SECONDS:
                self.send(signal.SIGKILL)
            time.sleep(0.05)
        for reader in self._readers:
            reader.join()
        return [p.returncode for p in self.processes]


def verdict(codes: Sequence[int]) -> int:
    """One exit code for those of the processes: the one that says most of what happened."""
    for final in (BAD_INPUT, EXIT_NOT_FINITE, EXIT_FAILED):
        if final in codes:
            return final
    bad = [code for code in codes if code != DONE]
    if not bad:
        return DONE
    return EXIT_PREEMPTED if set(bad) == {EXIT_PREEMPTED} else BUG


def run(group_of: Callable[[], Group], restarts: int) -> int:
    """Starts a group, and after a stop or a crash another one, so many times; the last verdict."""
    told = threading.Event()
    current: list[Group] = []

    def pass_on(number: int, frame: object) -> None:
        interrupts = told.is_set() and number == signal.SIGINT  # a second Ctrl-C
        told.set()
        for group in current:
            group.send(signal.SIGINT if interrupts else signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    for start in range(restarts + 1):
        current[:] = [group_of()]
        if told.is_set():
            current[0].send(signal.SIGTERM)
        codes = current[0].wait()
        code = verdict(codes)
        if code in (DONE, BAD_INPUT, EXIT_NOT_FINITE) or told.is_set():
            break
        again = "starting again" if start < restarts else "no restart is left"
        print(f"the processes ended with {codes}; {again}", file=sys.stderr, flush=True)
    return code


def one_gpu_each(processes: int) -> list[str]:
    """The GPU of each process: those that CUDA_VISIBLE_DEVICES shows, in its order.

    Raises:
      ValueError: it shows fewer.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return [str(i) for i in range(processes)]
    gpus = [gpu for gpu in shown.split(",") if gpu]
    if len(gpus) < processes:
        raise ValueError(
            f"--one-gpu-each: CUDA_VISIBLE_DEVICES={shown} has {len(gpus)} for "
            f"--processes={processes}; lower that, or name more"
        )
    return gpus[:processes]


def _read(index: int, process: subprocess.Popen, say: Callable[[str], None]) -> None:
    with process.stdout or contextlib.nullcontext(()) as lines:
        for line in lines:
            say(f"[{index}] {line.rstrip()}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, help="CPU devices of each process")
    parser.add_argument("--one-gpu-each", action="store_true", help="a GPU for each process")
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("arguments", nargs="+", help="after --: those of psann_jax.main")
    args = parser.parse_args(argv)
    if args.processes < 1:
        parser.error(f"--processes={args.processes} must be at least 1")
    try:
        gpus = one_gpu_each(args.processes) if args.one_gpu_each else ()
    except ValueError as error:
        parser.error(str(error))
    command = [sys.executable, "-m", "psann_jax.main", *args.arguments]

    def group() -> Group:
        return Group(command, args.processes, devices=args.devices, gpus=gpus)

    return run(group, args.restarts)


if __name__ == "__main__":
    sys.exit(main())

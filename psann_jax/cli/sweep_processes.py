"""The processes of a sweep: one a job, so many at once, that are stopped together."""

import collections
from collections.abc import Callable, Sequence
import ctypes
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from psann_jax.run.stop import EXIT_FAILED, MachineFailed, Preempted, StopSignal

if TYPE_CHECKING:
    from psann_jax.run.sweep import Job

STOPPED = "the sweep is stopped; start it again to go on"
_PAUSE_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1


def run_in_processes(
    jobs: "Sequence[Job]", at_once: int, command: "Callable[[Job], list[str]]"
) -> list[str]:
    """Runs `command` of each job; what one says goes to VARIANT-SEED.log beside its workdir.

    Returns:
      a line for each that failed.

    Raises:
      Preempted: SIGTERM or SIGINT came; it was passed on, and every process has ended.
      MachineFailed: one ended with its exit code; the others were stopped, and have ended.
    """
    waiting, running, failed = collections.deque(jobs), {}, []
    told = False
    try:
        with StopSignal() as stop:
            while waiting or running:
                if stop.asked and not told:
                    waiting.clear()
                    told = _tell(running)
                for slot in range(at_once):
                    if waiting and slot not in running:
                        job = waiting.popleft()
                        running[slot] = job, _start(job, slot, command(job))
                time.sleep(_PAUSE_SECONDS)
                ended = [
                    slot for slot, (_, process) in running.items() if process.poll() is not None
                ]
                for job, process in map(running.pop, ended):
                    if process.returncode == EXIT_FAILED:
                        raise MachineFailed(_failure(job, EXIT_FAILED))  # as the others would
                    if process.returncode:
                        failed.append(_failure(job, process.returncode))
    except KeyboardInterrupt:  # the second one: it interrupts them too
        _tell(running, signal.SIGINT)
        raise
    except BaseException:
        _tell(running)
        raise
    finally:
        for _, process in running.values():  # none, unless something was raised
            process.wait()
    if told:
        raise Preempted(STOPPED, None)
    return failed


def _start(job: "Job", slot: int, command: list[str]) -> subprocess.Popen:
    log = _log(job)
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{job.name} begins; {log}", file=sys.stderr, flush=True)
    own = {"CUDA_VISIBLE_DEVICES": _gpu(slot)} if _gpu(slot) else {}
    with log.open("a") as said:
        return subprocess.Popen(
            command,
            env={**os.environ, **own},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C here is passed on once, not sent twice
        )


def _tell(running: "dict[int, tuple[Job, subprocess.Popen]]", number: int = signal.SIGTERM) -> bool:
    for _, process in running.values():
        process.send_signal(number)
    return True


def _failure(job: "Job", code: int) -> str:
    lines = _log(job).read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return f"{job.name} (exit code {code}): {lines[-1]}"


def _log(job: "Job") -> Path:
    return job.result_path.parent.with_name(f"{job.name}.log")


def _gpu(slot: int) -> str:
    """The GPU of a slot by its number; none where the machine shows no NVIDIA GPUs."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")  # empty where none is wanted
    there = range(len(list(Path("/dev").glob("nvidia[0-9]*"))))
    shown = list(map(str, there)) if chosen is None else [n for n in chosen.split(",") if n]
    return shown[slot % len(shown)] if shown else ""


def end_with(parent: int) -> None:
    """Makes the kernel send this process SIGTERM when process `parent` ends, on Linux.

    So a sweep that was killed leaves no runs behind, once they have saved their step.

    Raises:
      Preempted: it has ended already.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise Preempted(STOPPED, None)

"""Rows of the fault matrix with several processes: one dies, or other ones go on."""

from pathlib import Path
import signal
import sys
import time
from typing import Any

from fault_run import STEPS, Straight, committed, ended, logged, resumed_at, started, straight
from faults import Row
from launch.local_multi import BAD_INPUT, DONE, Group
import numpy as np

from psann_jax.cluster import HEARTBEAT_SECONDS
from psann_jax.run.guard import EXIT_NOT_FINITE

_LAYOUTS = ((1, 1), (1, 4), (1, 8), (2, 1), (2, 2), (4, 1), (4, 2))  # processes, devices of each
_CLOSE = 1e-5  # of losses, whose float32 sums devices take in another order


def one(folder: Path) -> Straight:
    return straight(folder, "waveresnet", starts=1)


def begun(file: Path, layout: tuple[int, int], said: list[str]) -> Group:
    command = [sys.executable, "-m", "psann_jax.main", "--config", str(file)]
    return Group(command, layout[0], devices=layout[1], say=said.append)


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in logged(folder)]


def until(group: Group, folder: Path, step: int) -> None:
    """Waits until the run has logged a step, or ended."""
    while len(losses(folder)) < step and all(p.poll() is None for p in group.processes):
        time.sleep(0.02)


def peer_killed(plan: Straight, generator: np.random.Generator, folder: Path) -> str | None:
    """One of two to four processes is killed; the others end, and a single one goes on."""
    said: list[str] = []
    file, n = plan.config_file(folder), int(generator.integers(2, 5))
    group = begun(file, (n, 1), said)
    wanted, victim = int(generator.integers(1, 40)), int(generator.integers(n))
    until(group, folder, wanted)
    if len(losses(folder)) < wanted:
        return f"it ended before step {wanted}: {group.wait()}: {said[-5:]}"
    kept, began = committed(folder), time.monotonic()
    group.processes[victim].kill()
    codes, took = group.wait(), time.monotonic() - began
    final = {DONE, BAD_INPUT, EXIT_NOT_FINITE} & set(codes)
    if took > HEARTBEAT_SECONDS + 5 or final or codes[victim] != -signal.SIGKILL:
        return f"process {victim} killed: exit codes {codes} after {took:.0f} s: {said[-5:]}"
    return _goes_on(plan, file, folder, kept)


def layout_changed(plan: Straight, generator: np.random.Generator, folder: Path) -> str | None:
    """A run is stopped, and goes on with other processes and devices."""
    said: list[str] = []
    first, second = (_LAYOUTS[i] for i in generator.choice(len(_LAYOUTS), 2, replace=False))
    file = plan.config_file(folder)
    group = begun(file, first, said)
    until(group, folder, int(generator.integers(1, 40)))
    group.processes[int(generator.integers(first[0]))].send_signal(signal.SIGTERM)
    codes = group.wait()
    if set(codes) != {75}:
        return f"{first}: exit codes {codes}: {said[-5:]}"
    kept = committed(folder)
    codes = begun(file, second, said).wait()
    if set(codes) != {0}:
        return f"{first} then {second}: exit codes {codes}: {said[-5:]}"
    if f"resumed at step {kept} " not in " ".join(said):
        return f"{first} then {second}: it did not go on from step {kept}"
    return _other_losses(plan, folder)


def _goes_on(plan: Straight, file: Path, folder: Path, kept: int) -> str | None:
    code, text = ended(started(file, folder))
    if code != 0:
        return f"the restart ended with {code}: {text[-2000:]}"
    if resumed_at(text) < kept:
        return f"step {kept} was committed, and the restart went on from {resumed_at(text)}"
    return _other_losses(plan, folder)


def _other_losses(plan: Straight, folder: Path) -> str | None:
    import json

    expected = [row["loss"] for row in json.loads(plan.end)[0]]
    found: Any = losses(folder)
    if len(found) != STEPS or not np.allclose(found, expected, atol=_CLOSE, rtol=0):
        apart = np.abs(np.subtract(found, expected)).max() if len(found) == STEPS else "steps"
        return f"the losses are not those of one process: {apart}"
    return None


ROWS = {
    "peer": Row(
        fault="`kill -9` of one of two to four processes",
        passes=f"the others end within {HEARTBEAT_SECONDS} + 5 s; one process goes on from the "
        "last committed step, to the losses of an unbroken run within 1e-5",
        full=50,
        share=1,
        prepare=one,
        trial=peer_killed,
    ),
    "layout": Row(
        fault="a run stopped, and gone on with by other processes on other devices "
        "(1, 2 or 4 processes, 1 to 8 devices)",
        passes="it goes on from the step saved, to the losses of one process within 1e-5",
        full=9,
        share=1,
        prepare=one,
        trial=layout_changed,
    ),
}

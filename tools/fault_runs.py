"""Rows of the fault matrix that stop a training run: it must go on as if nothing had been."""

import functools
import itertools
import os
from pathlib import Path
import signal
import time

from fault_run import (
    STEPS,
    Plans,
    Straight,
    committed,
    end_of,
    ended,
    logged,
    remove,
    resumed_at,
    started,
)
from faults import Row
import numpy as np

from psann_jax.run.guard import EXIT_NOT_FINITE

_KILLS = 5  # of one run


def to_the_end(plan: Straight, file: Path, folder: Path, at_least: int) -> str | None:
    """Starts a broken run again, and says what is wrong with what it ends with."""
    (folder / "log.txt").write_text("")
    code, said = ended(started(file, folder))
    if code != 0:
        return f"the restart ended with {code}: {said[-2000:]}"
    if resumed_at(said) < at_least:
        return f"step {at_least} was committed, and the restart went on from {resumed_at(said)}"
    if end_of(folder) != plan.end:
        return "the end is not that of the unbroken run"
    return None


def killed(plans: Plans, generator: np.random.Generator, folder: Path) -> str | None:
    """Five SIGKILLs of a run, also of restarts that were just reading a checkpoint, then the end.

    A start that is over before its signal does not count. Two of three signals come after a step of
    this start was logged, so that saves are under way.
    """
    plan = plans.drawn(generator)
    file, kept, kills = plan.config_file(folder), 0, 0
    while kills < _KILLS:
        (folder / "log.txt").write_text("")
        child = started(file, folder)
        _wait(plan, generator, folder)
        saved = committed(folder)
        os.kill(child.pid, signal.SIGKILL)
        code, said = ended(child)
        if _begun(said) and resumed_at(said) < kept:
            return f"step {kept} was committed, and a restart went on from {resumed_at(said)}"
        if code == -signal.SIGKILL:
            kept, kills = max(kept, saved), kills + 1
        elif code != 0 or end_of(folder) != plan.end:
            return f"exit code {code}, or not the end of the unbroken run: {said[-2000:]}"
        else:  # it was over before the signal came: from the beginning
            remove(folder / "run")
            kept = 0
    return to_the_end(plan, file, folder, kept)


def _wait(plan: Straight, generator: np.random.Generator, folder: Path) -> None:
    """Until a moment that is drawn: of all of a start, or of what is left after its first step."""
    if generator.random() < 1 / 3:
        time.sleep(generator.uniform(0, plan.seconds))
        return
    before, give_up = len(logged(folder)), time.monotonic() + plan.seconds
    while len(logged(folder)) <= before and time.monotonic() < give_up:
        time.sleep(0.005)
    time.sleep(generator.exponential(plan.stepping / 3))


def _begun(said: str) -> bool:
    """Whether a start has come to its first step, so that it has chosen where to go on."""
    return "compiling the train step" in said


def terminated(plans: Plans, generator: np.random.Generator, folder: Path) -> str | None:
    """One SIGTERM once the run has made a step: it saves, within ten seconds, and goes on later."""
    plan = plans.drawn(generator)
    file = plan.config_file(folder)
    child = started(file, folder)
    wanted = int(generator.integers(1, STEPS - 5))
    while len(logged(folder)) < wanted:
        if os.waitpid(child.pid, os.WNOHANG)[0]:
            return f"it ended before step {wanted}: {child.log.read_text()[-2000:]}"
        time.sleep(0.002)
    time.sleep(generator.uniform(0, 0.05))
    asked = time.monotonic()
    os.kill(child.pid, generator.choice([signal.SIGTERM, signal.SIGINT]))
    code, said = ended(child)
    took = time.monotonic() - asked
    if code != 75 or took > 10:
        return f"exit code {code} after {took:.1f} s: {said[-2000:]}"
    steps = [row["step"] for row in logged(folder)]
    if committed(folder) != steps[-1]:
        return f"step {committed(folder)} is saved, and the metrics end with {steps[-1]}"
    return to_the_end(plan, file, folder, committed(folder))


def not_finite(plans: Plans, generator: np.random.Generator, folder: Path) -> str | None:
    """NaN, infinity or a token that is none in the batches of one to twelve steps in a row."""
    from psann_jax.train.config import TrainConfig

    plan, most = plans.drawn(generator), TrainConfig().max_skipped_steps
    first, n = int(generator.integers(1, STEPS - 12)), int(generator.integers(1, most + 3))
    spoil = functools.partial(_spoil_batches, range(first, first + n), int(generator.integers(4)))
    code, said = ended(started(plan.config_file(folder), folder, spoil))
    if code != (EXIT_NOT_FINITE if n >= most else 0):
        return f"{n} bad steps in a row: exit code {code}: {said[-2000:]}"
    named = f"step {first + most - 1} is the last of {most} in a row that were skipped"
    if n >= most and not all(words in said for words in (named, "Its rows: ", "in documents ")):
        return f"step, rows or documents are not named: {said[-2000:]}"
    if n < most and logged(folder)[-1]["skipped_steps"] != n:
        return f"{logged(folder)[-1]['skipped_steps']} skipped steps are counted, of {n}"
    if committed(folder) and " finite" not in end_of(folder).replace("not finite", ""):
        return "a checkpoint holds numbers that are not finite"
    return None


def _spoil_batches(steps: range, kind: int) -> None:
    """From here on, the batches of these steps hold a number that cannot be trained on."""
    from psann_jax.run import train

    whole, counted = train.on_mesh, itertools.count(1)

    def on_mesh(batch, *where):
        if next(counted) in steps:
            if kind == 3:
                targets = batch.targets.copy()
                targets[0, 0] = 10**6
                batch = batch._replace(targets=targets)
            else:
                weights = batch.weights.copy()
                weights[0, 0] = (np.nan, np.inf, -np.inf)[kind]
                batch = batch._replace(weights=weights)
        return whole(batch, *where)

    train.on_mesh = on_mesh


ROWS = {
    "kills": Row(
        fault=f"{_KILLS} times `kill -9`, each at any moment of what is left of a run of any base "
        "that saves in the background",
        passes="each restart goes on from the last committed step or a later one; losses, "
        "parameters, moments and key at the end are bitwise those of an unbroken run",
        full=100,
        share=1,
        prepare=Plans,
        trial=killed,
    ),
    "sigterm": Row(
        fault="SIGTERM or SIGINT at any step of a run of any base",
        passes="exit code 75 within 10 s, the step saved; the rest as for `kills`",
        full=100,
        share=2,
        prepare=Plans,
        trial=terminated,
    ),
    "nan": Row(
        fault="NaN, infinity or a token that is none in the batches of 1 to 12 steps in a row",
        passes="each is skipped and counted; ten in a row end with exit code 3 and name step, rows "
        "and documents; no checkpoint holds a number that is not finite",
        full=200,
        share=2,
        prepare=Plans,
        trial=not_finite,
    ),
}

"""Rows of the fault matrix that stop a training run: it must go on as if nothing had been."""

import contextlib
import dataclasses
import json
import os
from pathlib import Path
import signal
import sys
import time
from typing import Any

from faults import Row
import numpy as np

_STEPS, _SAVES = 60, 4
_KILLS = 5  # of one run
TIMES = ("tokens_per_s", "step_seconds", "memory_bytes")  # what two equal runs may differ in
_LONGEST = 300.0  # seconds of a run of 60 tiny steps that are taken for hanging


@dataclasses.dataclass(frozen=True)
class Straight:
    """An unbroken run: its config as JSON, how long it took, and what it ended with."""

    config: str
    seconds: float
    end: str

    def config_file(self, folder: Path) -> Path:
        """A config file for the same run in `folder`."""
        file = folder / "config.py"
        file.write_text(
            "from psann_jax.config import from_json\n\n\ndef get_config():\n"
            f"    config = from_json({self.config!r})\n"
            f"    config.workdir = {str(folder / 'run')!r}\n    return config\n"
        )
        return file


class Plans:
    """An unbroken run of each base, made when a trial first draws it."""

    def __init__(self, folder: Path):
        from psann_jax import bases

        self.folder, self.names = folder, bases.names()
        self.made: dict[str, Straight] = {}

    def drawn(self, generator: np.random.Generator) -> Straight:
        name = str(generator.choice(self.names))
        if name not in self.made:
            self.made[name] = straight(self.folder, name)
        return self.made[name]


def straight(parent: Path, name: str) -> Straight:
    """Makes a text and trains a base on it to the end, without a fault."""
    from psann_jax.config import to_json

    folder = parent / name
    folder.mkdir()
    words = np.random.default_rng(0).choice(["sine", "wave", "amplitude", "damped", "the"], 4000)
    (folder / "corpus.txt").write_text("\n".join(" ".join(w) for w in words.reshape(-1, 10)))
    plan = Straight(to_json(_config(folder, name)), 0.0, "")
    file = plan.config_file(folder)
    for _ in range(2):  # the first one compiles
        with contextlib.suppress(FileNotFoundError):
            _remove(folder / "run")
        began = time.monotonic()
        code, said = ended(started(file, folder))
        if code != 0:
            raise RuntimeError(said)
    return dataclasses.replace(plan, seconds=time.monotonic() - began, end=end_of(folder))


def _config(folder: Path, name: str):
    from psann_jax import bases
    from psann_jax.config import Config
    from psann_jax.data import DataConfig
    from psann_jax.train.config import TrainConfig

    base = bases.get(name)(
        d_model=16, n_layers=2, n_heads=2, d_mlp=32, dtype="float32", dropout=0.1
    )
    data = DataConfig(
        sources=(str(folder / "corpus.txt"),),
        document="line",
        tokenizer="char",
        max_length=32,
        val_split=0.1,
        order="tracks" if base.recurrent else "shuffled",
        cache_dir=str(folder / "cache"),
    )
    train = TrainConfig(
        steps=_STEPS,
        batch_tokens=256,
        log_interval_steps=1,
        eval_interval_steps=20,
        save_interval_steps=_SAVES,
        sample_tokens=0,
    )
    return Config(base=base, data=data, train=train)


@dataclasses.dataclass(frozen=True)
class Child:
    """A training run in a process forked from this one, which has imported all but uses nothing."""

    pid: int
    log: Path


def started(file: Path, folder: Path) -> Child:
    log = folder / "log.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, log)
    code = 1
    try:
        with log.open("a") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        from psann_jax.cli.train import main

        code = main(["--config", str(file)])
    except BaseException:  # noqa: BLE001 - a child must not go on as its parent
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def ended(child: Child, seconds: float = _LONGEST) -> tuple[int, str]:
    """The exit code of a child, negative for a signal, what it said. If it hangs, it is killed."""
    give_up = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), child.log.read_text(errors="replace")
        if time.monotonic() > give_up:
            os.kill(child.pid, signal.SIGKILL)
            give_up = float("inf")
        time.sleep(0.01)


def committed(folder: Path) -> int:
    """The newest step with a manifest, 0 without one."""
    manifests = (folder / "run" / "checkpoints").glob("[0-9]*/MANIFEST.json")
    return max((int(m.parent.name) for m in manifests), default=0)


def logged(folder: Path) -> list[dict[str, Any]]:
    from psann_jax.train.metrics import read_metrics

    return read_metrics(folder / "run" / "metrics.jsonl")


def end_of(folder: Path) -> str:
    """What a finished run comes down to: its metrics but the times, and a digest of its arrays."""
    kept = [{k: v for k, v in row.items() if k not in TIMES} for row in logged(folder)]
    digest = folder / "digest.txt"
    pid = os.fork()
    if not pid:
        code = 1
        try:
            digest.write_text(_digest(folder / "run"))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"the checkpoints of {folder / 'run'} cannot be read")
    return json.dumps([kept, digest.read_text()])


def _digest(workdir: Path) -> str:
    """Of the bytes of every array of the newest checkpoint, the optimizer's included."""
    import hashlib
    import warnings

    from orbax.checkpoint import v1 as ocp

    steps = sorted(int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*"))
    step = workdir.absolute() / "checkpoints" / str(steps[-1])
    warnings.simplefilter("ignore")  # of a load onto the devices that are named in the files
    arrays = ocp.load(step, checkpointable_name="state")
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.asarray(arrays[name]).tobytes())
    return f"{steps[-1]} {digest.hexdigest()}"


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def resumed_at(said: str) -> int:
    """The step that the last start of a log went on from, 0 if from the beginning."""
    lines = [line for line in said.splitlines() if line.startswith("resumed at step ")]
    return int(lines[-1].split()[3]) if lines else 0


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
    """One SIGKILL at any moment of a run of any base, then a restart to the end."""
    plan = plans.drawn(generator)
    file = plan.config_file(folder)
    child = started(file, folder)
    time.sleep(generator.uniform(0, plan.seconds))
    kept = committed(folder)
    os.kill(child.pid, signal.SIGKILL)
    ended(child)
    return to_the_end(plan, file, folder, kept)


def killed_again(plans: Plans, generator: np.random.Generator, folder: Path) -> str | None:
    """Five SIGKILLs, also of restarts that were just reading a checkpoint, then the end."""
    plan = plans.drawn(generator)
    file = plan.config_file(folder)
    kept, kills = 0, 0
    while kills < _KILLS:
        (folder / "log.txt").write_text("")
        child = started(file, folder)
        time.sleep(generator.uniform(0, plan.seconds))
        saved = committed(folder)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        code, said = ended(child)
        if "resumed at step " in said and resumed_at(said) < kept:
            return f"step {kept} was committed, and start {kills} went on from {resumed_at(said)}"
        if code == -signal.SIGKILL:
            kept, kills = max(kept, saved), kills + 1
        elif code != 0 or end_of(folder) != plan.end:
            return f"exit code {code}, or not the end of the unbroken run: {said[-2000:]}"
        else:  # it was over before the signal came: from the beginning
            _remove(folder / "run")
            kept = 0
    return to_the_end(plan, file, folder, kept)


def terminated(plans: Plans, generator: np.random.Generator, folder: Path) -> str | None:
    """One SIGTERM once the run has made a step: it saves, within ten seconds, and goes on later."""
    plan = plans.drawn(generator)
    file = plan.config_file(folder)
    child = started(file, folder)
    wanted = int(generator.integers(1, _STEPS - 5))
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


ROWS = {
    "kill": Row(
        fault="`kill -9` at any moment of a run of any base that saves in the background",
        passes="the restart goes on from the last committed step or a later one; losses, "
        "parameters, moments and key at the end are bitwise those of an unbroken run",
        full=20,
        share=2,
        prepare=Plans,
        trial=killed,
    ),
    "kills": Row(
        fault=f"{_KILLS} times `kill -9`, each at any moment of what was left of one run",
        passes="as for one `kill -9`",
        full=96,
        share=1,
        prepare=Plans,
        trial=killed_again,
    ),
    "sigterm": Row(
        fault="SIGTERM or SIGINT at any step of a run of any base",
        passes="exit code 75 within 10 s, the step saved; the rest as for `kill -9`",
        full=100,
        share=2,
        prepare=Plans,
        trial=terminated,
    ),
}

"""Tiny training runs in processes of their own, unbroken ones to compare with, and their ends."""

from collections.abc import Callable
import contextlib
import dataclasses
import json
import os
from pathlib import Path
import signal
import sys
import time
from typing import Any

import numpy as np

STEPS, _SAVES = 60, 4
TIMES = ("tokens_per_s", "step_seconds", "memory_bytes")  # what two equal runs may differ in
_LONGEST = 300.0  # seconds of a run of 60 tiny steps that are taken for hanging


@dataclasses.dataclass(frozen=True)
class Straight:
    """An unbroken run: its config as JSON, and what it ended with.

    Attributes:
      seconds, stepping: of all of it, of its steps.
    """

    config: str
    seconds: float = 0.0
    stepping: float = 0.0
    end: str = ""

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


def straight(parent: Path, name: str, starts: int = 2) -> Straight:
    """Makes a text and trains a base on it to the end, without a fault.

    Args:
      starts: how often. The first one compiles, so its seconds are not those of a later one.
    """
    from psann_jax.config import to_json

    folder = parent / name
    folder.mkdir()
    words = np.random.default_rng(0).choice(["sine", "wave", "amplitude", "damped", "the"], 4000)
    (folder / "corpus.txt").write_text("\n".join(" ".join(w) for w in words.reshape(-1, 10)))
    plan = Straight(to_json(_config(folder, name)))
    file = plan.config_file(folder)
    for _ in range(starts):
        with contextlib.suppress(FileNotFoundError):
            remove(folder / "run")
        began = time.monotonic()
        code, said = ended(started(file, folder))
        if code != 0:
            raise RuntimeError(said)
    took = time.monotonic() - began
    stepping = sum(row["step_seconds"] for row in logged(folder))
    return dataclasses.replace(plan, seconds=took, stepping=stepping, end=end_of(folder))


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
        steps=STEPS,
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


def started(file: Path, folder: Path, spoil: Callable[[], None] | None = None) -> Child:
    """Starts a run, in a process in which `spoil` has broken something."""
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

        if spoil:
            spoil()
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
    """Of every array of the newest checkpoint, the optimizer's included; whether all are finite."""
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
    finite = all(np.isfinite(np.asarray(a, np.float32)).all() for a in arrays.values())
    return f"{steps[-1]} {digest.hexdigest()} {'finite' if finite else 'not finite'}"


def remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def resumed_at(said: str) -> int:
    """The step that the last start of a log went on from, 0 if from the beginning."""
    lines = [line for line in said.splitlines() if line.startswith("resumed at step ")]
    return int(lines[-1].split()[3]) if lines else 0

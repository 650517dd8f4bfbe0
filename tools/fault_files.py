"""Rows of the fault matrix that damage what a run has written, or keep it from writing."""

from collections.abc import Iterator
import contextlib
import dataclasses
import logging
from pathlib import Path
import resource
import shutil
import signal
from typing import Any

from faults import Row
import numpy as np

from psann_jax.seq import Batch

_KEPT = (10, 20, 30)  # steps in the folder that is damaged


def small_state(step: int) -> Any:
    """A TrainState of two small matrices that tell the steps apart."""
    import jax
    import jax.numpy as jnp

    from psann_jax.train.state import TrainState

    weights = {"w": np.arange(512, dtype=np.float32).reshape(8, 64) + step}
    moments = {"w": np.full((8, 64), 0.1 * step, np.float32)}
    state = TrainState(np.int32(step), weights, moments, jax.random.key(step))
    return jax.tree.map(jnp.asarray, state)


def checkpoints_of(folder: Path) -> Path:
    from psann_jax.train.checkpoint import Checkpoints

    checkpoints = Checkpoints(folder / "checkpoints")
    for step in _KEPT:
        checkpoints.save(small_state(step), val_loss=1 / step)
    checkpoints.close()
    return folder / "checkpoints"


def damage_file(path: Path, generator: np.random.Generator) -> str:
    """Flips a bit of a file, cuts it, overwrites a part with zeros, or deletes it."""
    content = bytearray(path.read_bytes())
    kinds = ["flip", "truncate", "zero", "delete"] if content else ["delete"]
    kind = str(generator.choice(kinds))
    place = int(generator.integers(len(content))) if content else 0
    if kind == "delete":
        path.unlink()
        return kind
    if kind == "flip":
        content[place] ^= 1 << int(generator.integers(8))
    elif kind == "truncate":
        del content[place:]
    else:
        end = place + int(generator.integers(1, 65))
        if not any(content[place:end]):
            content[place] ^= 255  # where zeros are already, they would be no damage
        else:
            content[place:end] = bytes(len(content[place:end]))
    path.write_bytes(content)
    return kind


@contextlib.contextmanager
def warnings_of(name: str) -> Iterator[list[str]]:
    """The warnings of a logger, while in the context."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    log, listener = logging.getLogger(name), Listener(logging.WARNING)
    before, log.propagate = log.propagate, False
    log.addHandler(listener)
    try:
        yield said
    finally:
        log.removeHandler(listener)
        log.propagate = before


def newest_damaged(kept: Path, generator: np.random.Generator, folder: Path) -> str | None:
    """One file of the newest step is damaged: it is named, and the step before is used."""
    from psann_jax.train.checkpoint import MANIFEST, Checkpoints
    from psann_jax.train.state import flat_arrays

    shutil.copytree(kept, folder / "checkpoints")
    files = sorted(p for p in (folder / "checkpoints" / str(_KEPT[-1])).rglob("*") if p.is_file())
    victim = files[int(generator.integers(len(files)))]
    kind = damage_file(victim, generator)
    checkpoints = Checkpoints(folder / "checkpoints", reads_only=bool(generator.integers(2)))
    try:
        with warnings_of("psann_jax.checkpoint") as said:
            step = checkpoints.newest()
        if step != _KEPT[-2]:
            return f"{kind} of {victim.name}: step {step} is used"
        # A damaged manifest disagrees with a file: which of the two is wrong it cannot tell.
        named = (
            victim.name if victim.name != MANIFEST else str(folder / "checkpoints" / str(_KEPT[-1]))
        )
        if not any(named in line for line in said):
            return f"{kind} of {victim.name}: it is not named in {said}"
        found, whole = (flat_arrays(s) for s in (_restored(checkpoints, step), small_state(step)))
        for name, array in whole.items():
            if not np.array_equal(found[name], array):
                return f"{kind} of {victim.name}: {name} of step {step} differs"
    finally:
        checkpoints.close()
    return None


def _restored(checkpoints: Any, step: int) -> Any:
    return checkpoints.restore(step, small_state(0))


def all_damaged(kept: Path, generator: np.random.Generator, folder: Path) -> str | None:
    """Every step has a damaged file: an error, none is used, nothing is removed or written."""
    from psann_jax.train.checkpoint import Checkpoints

    shutil.copytree(kept, folder / "checkpoints")
    for step in _KEPT:
        files = sorted(p for p in (folder / "checkpoints" / str(step)).rglob("*") if p.is_file())
        damage_file(files[int(generator.integers(len(files)))], generator)
    before = _contents(folder)
    checkpoints = Checkpoints(folder / "checkpoints", reads_only=bool(generator.integers(2)))
    error = ""
    try:
        with warnings_of("psann_jax.checkpoint") as said:
            step = checkpoints.newest()
    except ValueError as raised:
        error = str(raised)
    finally:
        checkpoints.close()
    if not error:
        return f"step {step} is used; said: {said}"
    if str(folder) not in error or len(said) != len(_KEPT):
        return f"not every step is named: {error}; {said}"
    if before != _contents(folder):
        return "files were changed, removed or added"
    return None


def _contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def disk_full(kept: Path, generator: np.random.Generator, folder: Path) -> str | None:
    """No file may grow beyond a limit while a step is saved: an error, and older steps whole."""
    from psann_jax.train.checkpoint import Checkpoints, damage

    shutil.copytree(kept, folder / "checkpoints")
    checkpoints = Checkpoints(folder / "checkpoints")
    limit = int(generator.integers(0, 1500))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    failed = ""
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
        try:
            checkpoints.save(small_state(40))
            checkpoints.wait()
        except OSError as error:
            failed = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    checkpoints.close()
    again = Checkpoints(folder / "checkpoints")
    try:
        with warnings_of("psann_jax.checkpoint"):
            step = again.newest()
        again.save(small_state(50))
        again.wait()
        unfinished = [p.name for p in (folder / "checkpoints").iterdir() if "tmp" in p.name]
    finally:
        again.close()
    broken = [s for s in (_KEPT[-1], 50) if damage(folder / "checkpoints" / str(s))]
    if broken:
        return f"at {limit} bytes a file: steps {broken} are damaged"
    if failed and step != _KEPT[-1]:
        return f"at {limit} bytes a file: step {step} is used after {failed}"
    if not failed and step != 40:
        return f"at {limit} bytes a file: nothing was said, and step {step} is used"
    if failed and str(folder) not in failed:
        return f"the folder is not named: {failed}"
    if unfinished:
        return f"left behind: {unfinished}"
    return None


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared corpus: its cache folder, and what its rows hold."""

    cache: Path
    rows: Batch


def corpus(folder: Path) -> Prepared:
    texts = [f"document {i}: the damped wave {'goes on ' * (i % 7)}" for i in range(200)]
    (folder / "texts.txt").write_text("\n".join(texts))
    found = _prepared(folder, folder / "cache")
    return Prepared(folder, found.batch(np.arange(len(found))))


def _prepared(folder: Path, cache: Path) -> Any:
    from psann_jax.data import DataConfig, prepare

    config = DataConfig(
        sources=(str(folder / "texts.txt"),),
        document="line",
        tokenizer="char",
        max_length=32,
        val_split=0.0,
        cache_dir=str(cache),
    )
    return prepare(config, progress=False).train


def shard_flipped(plan: Prepared, generator: np.random.Generator, folder: Path) -> str | None:
    """One flipped bit of a prepared corpus: an error, or the right tokens, never others."""
    cache = folder / "cache"
    shutil.copytree(plan.cache / "cache", cache)
    files = sorted(p for p in cache.rglob("*") if p.is_file() and p.stat().st_size)
    sizes = np.array([p.stat().st_size for p in files], float)
    # Most in the tokens, some in the tokenizer and the record of what is there.
    weights = sizes / sizes.sum() * 0.8 + 0.2 / len(files)
    victim = files[int(generator.choice(len(files), p=weights))]
    content = bytearray(victim.read_bytes())
    place = int(generator.integers(len(content)))
    content[place] ^= 1 << int(generator.integers(8))
    victim.write_bytes(content)
    with warnings_of("psann_jax.data"):
        try:
            found = _prepared(plan.cache, cache)
            rows = found.batch(np.arange(len(found)))
        except ValueError:
            return None
    if not all(map(np.array_equal, rows, plan.rows)):
        return f"byte {place} of {victim.name}: other tokens, and nothing was said"
    return None


ROWS = {
    "checkpoint": Row(
        fault="one file of the newest checkpoint flipped, cut, zeroed or deleted",
        passes="the file is named, the step before is used, and it is exact",
        full=1000,
        share=30,
        prepare=checkpoints_of,
        trial=newest_damaged,
    ),
    "checkpoints": Row(
        fault="a file of every checkpoint damaged",
        passes="one error; none is used, each is named, nothing is removed or written",
        full=20,
        share=2,
        prepare=checkpoints_of,
        trial=all_damaged,
    ),
    "disk": Row(
        fault="a save for which there is no room",
        passes="an error that names the folder; older steps whole; nothing left behind",
        full=20,
        share=2,
        prepare=checkpoints_of,
        trial=disk_full,
    ),
    "shard": Row(
        fault="one flipped bit of a prepared corpus",
        passes="an error, or the right tokens",
        full=1000,
        share=30,
        prepare=corpus,
        trial=shard_flipped,
    ),
}

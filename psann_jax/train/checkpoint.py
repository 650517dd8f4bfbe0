"""Checkpoints: Orbax saves in the background, a manifest of SHA-256 sums commits each step.

A step counts only with a manifest that matches every file, since Orbax restores flipped bytes
without a word and offers a damaged newest step. Layout: DIRECTORY/<step>/state/..., MANIFEST.json.
"""

import hashlib
import json
import logging
import math
import os
from pathlib import Path
import threading
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from psann_jax.train.state import (
    TrainState,
    flat_arrays,
    from_flat_arrays,
    from_named_arrays,
    named_arrays,
)

MANIFEST = "MANIFEST.json"
_FAILURES = (OSError, ValueError, RuntimeError)  # of a save, as Orbax raises them
_log = logging.getLogger("psann_jax.checkpoint")


class Checkpoints:
    """The checkpoints of one run: the last `keep` steps, and the best by validation loss."""

    def __init__(self, directory: str | os.PathLike, *, keep: int = 3, reads_only: bool = False):
        """Opens the folder; a reader leaves alone what a running save has there unfinished."""
        self.directory = Path(directory).absolute()
        training: Any = ocp.training  # its annotations name private classes
        policies = training.preservation_policies
        # At least two: the last one is deleted only when the next one's manifest is due.
        newest = policies.LatestN(max(2, keep))
        best = policies.BestN(
            get_metric_fn=lambda metrics: -metrics["val_loss"],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._saver = training.Checkpointer(
            self.directory,
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy([newest, best]),
            cleanup_tmp_directories=not reads_only,
        )
        self._sealing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._told = False  # that a save failed

    def save(self, state: TrainState, *, val_loss: float | None = None) -> None:
        """Starts saving `state`, copied before this returns; waits for the save before it.

        Raises:
          OSError: the last save failed, on a full disk for instance.
        """
        self.wait()
        step = int(state.step)
        # A diverged run's NaN would stand before every number in the order of the best.
        comparable = val_loss is not None and not math.isnan(val_loss)
        metrics = {"val_loss": val_loss} if comparable else None
        try:
            response = self._saver.save_async(
                step, flat_arrays(state), metrics=metrics, overwrite=True, force=True
            )
        except _FAILURES as error:
            raise self._not_saved(error) from error
        self._sealing = threading.Thread(target=self._seal, args=(step, response))
        self._sealing.start()

    def _seal(self, step: int, response: Any) -> None:
        try:
            response.result()
            if jax.process_index() == 0:
                seal(self.directory / str(step))
        except _FAILURES as error:
            self._failure = error

    def wait(self) -> None:
        """Returns when the last save is committed; raises OSError where it failed."""
        if self._sealing:
            self._sealing.join()
            self._sealing = None
        if self._failure:
            error, self._failure = self._failure, None
            raise self._not_saved(error) from error

    def _not_saved(self, error: BaseException) -> OSError:
        self._told = True
        return OSError(f"checkpoint in {self.directory} was not saved: {error}")

    def close(self) -> None:
        """Ends what runs in the background; raises OSError where a save failed untold."""
        try:
            self.wait()
        finally:
            try:
                self._saver.close()
            except _FAILURES as error:  # Orbax keeps an error, and raises it here once more
                if not self._told:
                    raise self._not_saved(error) from error

    def steps(self) -> list[int]:
        """Steps on disk, newest first, whole or not."""
        return sorted((c.step for c in self._saver.checkpoints), reverse=True)

    def newest(self) -> int | None:
        """The newest step whose files are all as they were saved; None before the first save.

        Raises:
          ValueError: steps were committed, and none of them is whole any more.
        """
        steps = self.steps()
        for step in steps:
            fault = damage(self.directory / str(step))
            if fault is None:
                return step
            _log.warning("checkpoint %d is not used: %s", step, fault)
        if any((self.directory / str(step) / MANIFEST).exists() for step in steps):
            raise ValueError(
                f"no checkpoint in {self.directory} is whole any more, of steps {steps}; bring "
                "their files back, or choose another workdir to begin anew"
            )
        return None

    def best(self) -> tuple[int, float] | None:
        """Step and validation loss of the best step kept."""
        losses = [(c.metrics["val_loss"], c.step) for c in self._saver.checkpoints if c.metrics]
        whole = [pair for pair in sorted(losses) if not damage(self.directory / str(pair[1]))]
        return (whole[0][1], whole[0][0]) if whole else None

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of `step`, in the shapes, dtypes and shardings of `like`."""
        return from_flat_arrays(self._load(step, flat_arrays(like)), like)

    def restore_model(self, step: int, like: Any, where: Any) -> Any:
        """The model alone, in the tree of `like`, each array placed as `where` says."""
        names = self._index(step)
        wanted = jax.tree.map(_placed, like, where)
        arrays = dict.fromkeys(names, ocp.PLACEHOLDER) | named_arrays(wanted, "model/")
        return from_named_arrays(self._load(step, arrays), like, "model/")

    def _index(self, step: int) -> dict[str, Any]:
        """What each array of a step is like; of none where Orbax cannot read that."""
        return self._saver.metadata(step).metadata or {}

    def _load(self, step: int, arrays: dict[str, Any]) -> dict[str, jax.Array]:
        """Reads arrays in the shapes, dtypes and shardings given; PLACEHOLDER leaves one out.

        Raises:
          ValueError: a file of the step is damaged, or it holds other arrays.
        """
        if fault := damage(self.directory / str(step)):
            raise ValueError(f"checkpoint {step} cannot be used: {fault}")
        found = {name: a.shape for name, a in self._index(step).items()}
        for name in sorted(found.keys() | arrays.keys()):
            wanted = arrays.get(name)
            if wanted is not ocp.PLACEHOLDER and found.get(name) != getattr(wanted, "shape", None):
                raise ValueError(
                    f"checkpoint {step} cannot be used: {name} is {found.get(name)} there and "
                    f"{getattr(wanted, 'shape', None)} in this model"
                )
        skip = ocp.PLACEHOLDER
        abstract = {n: a if a is skip else _placed(a, a.sharding) for n, a in arrays.items()}
        return self._saver.load(step, abstract)


def _placed(a: Any, where: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where)


def seal(step: Path) -> None:
    """Commits a finished step: writes the manifest of its files, whole or not at all."""
    partial = step / (MANIFEST + ".part")
    partial.write_text(json.dumps(_sums(step), indent=1))
    partial.rename(step / MANIFEST)


def damage(step: Path) -> str | None:
    """What is wrong with a step's files, in words; None when each matches its manifest."""
    try:
        expected = dict(json.loads((step / MANIFEST).read_text()))
    except (OSError, ValueError, TypeError):
        return f"{step / MANIFEST} is missing or unreadable, so the save was not finished"
    found = _sums(step)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            what = "is missing" if name not in found else "is not as it was saved"
            return f"{step / name} {what}"
    return None


def _sums(step: Path) -> dict[str, list]:
    files = (p for p in sorted(step.rglob("*")) if p.is_file() and MANIFEST not in p.name)
    return {str(p.relative_to(step)): [p.stat().st_size, _sha256(p)] for p in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()

"""Checkpoints: Orbax saves in the background, a manifest of SHA-256 sums commits each step.

Layout: DIRECTORY/<step>/state/..., METRICS.json where there is a validation loss, MANIFEST.json.
"""

from collections.abc import Sequence
import json
import logging
import math
import os
from pathlib import Path
import threading
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from psann_jax import cluster
from psann_jax.train.manifest import MANIFEST, UNREADABLE, damage, seal, sealed
from psann_jax.train.state import (
    TrainState,
    flat_arrays,
    from_flat_arrays,
    from_named_arrays,
    named_arrays,
    shaped,
)

METRICS = "METRICS.json"  # not Orbax's own, which it reads before anyone has checked them
_FAILURES = (OSError, ValueError, RuntimeError)  # of a save, as Orbax raises them
_log = logging.getLogger("psann_jax.checkpoint")


class Checkpoints:
    """The checkpoints of one run: the last `keep` steps, and the best by validation loss."""

    def __init__(self, directory: str | os.PathLike, *, keep: int = 3, reads_only: bool = False):
        """Opens the folder; a reader leaves alone what a running save has there unfinished."""
        self.directory, self._keep = Path(directory).absolute(), keep
        training: Any = ocp.training  # its annotations name private classes
        self._saver = training.Checkpointer(
            self.directory,
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=self,
            cleanup_tmp_directories=not reads_only,
        )
        self._saving: int | None = None
        self._whole: int | None = None  # the last step known to be so
        self._damaged: set[int] = set()  # steps known to be so
        self._sealing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._told = False  # that a save failed

    def save(
        self, state: TrainState, *, val_loss: float | None = None, val_rows: int | None = None
    ) -> None:
        """Starts saving `state`, copied before this returns; waits for the save before it.

        Args:
          val_loss: mean over `val_rows` rows of validation text; losses of other numbers of rows
            are not compared with it. None is comparable with any.

        Raises:
          OSError: the last save failed, on a full disk for instance.
        """
        self.wait()
        step = self._saving = int(state.step)
        self._damaged.discard(step)
        # A diverged run's NaN would stand before every number in the order of the best.
        comparable = val_loss is not None and not math.isnan(val_loss)
        metrics = {"val_loss": val_loss, "val_rows": val_rows} if comparable else None
        try:
            response = self._saver.save_async(step, flat_arrays(state), overwrite=True, force=True)
        except _FAILURES as error:
            raise self._not_saved(error) from error
        self._sealing = threading.Thread(target=self._seal, args=(step, metrics, response))
        self._sealing.start()

    def _seal(self, step: int, metrics: dict[str, float | None] | None, response: Any) -> None:
        folder = self.directory / str(step)
        try:
            response.result()
            if jax.process_index() == 0:
                if metrics:
                    (folder / METRICS).write_text(json.dumps(metrics))
                seal(folder)
            self._whole = step
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

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """What stays when a save begins, as Orbax asks for it: the step that is saved, and of those
        with a manifest the last, the best, and the last known to be whole.

        Steps without one were never finished; nor do those count that were found damaged.
        """
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        old = [s for s in steps if s not in {self._saving, *self._damaged} and self._finished(s)]
        kept = {self._saving, self._whole, *old[1 - max(2, self._keep) :]}
        kept.update(step for _, step in self._losses(old)[:1])
        return [checkpoint.step in kept for checkpoint in checkpoints]

    def _finished(self, step: int) -> bool:
        return (self.directory / str(step) / MANIFEST).exists()

    def _losses(self, steps: Sequence[int], val_rows: int | None = None) -> list[tuple[float, int]]:
        """Validation loss and step, the best first, of those that were saved with one of so many
        rows; None: of as many as the last of them."""
        found = []
        for step in sorted(steps, reverse=True):
            # The second is Orbax's own name, of runs before the first.
            for name in (METRICS, "metrics/metrics"):
                if content := sealed(self.directory / str(step), name):
                    metrics = json.loads(content)
                    val_rows = val_rows or metrics.get("val_rows")
                    if not val_rows or metrics.get("val_rows") in (None, val_rows):
                        found.append((metrics["val_loss"], step))
                    break
        return sorted(found)

    def _damage(self, step: int) -> str | None:
        """What is wrong with a step, remembered for `should_preserve`; None: it is whole."""
        fault = damage(self.directory / str(step))
        if fault is None:
            self._damaged.discard(step)
        elif UNREADABLE not in fault:
            self._damaged.add(step)
        return fault

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
            fault = self._damage(step)
            if fault is None:
                self._whole = step
                return step
            _log.warning("checkpoint %d is not used: %s", step, fault)
        if any(map(self._finished, steps)):
            raise ValueError(
                f"no checkpoint in {self.directory} is whole any more, of steps {steps}; bring "
                "their files back, or choose another workdir to begin anew"
            )
        return None

    def best(self, val_rows: int | None = None) -> tuple[int, float] | None:
        """Step and validation loss of the best step kept, of those comparable with the last.

        Args:
          val_rows: of those whose loss is a mean over so many rows.
        """
        for loss, step in self._losses(self.steps(), val_rows):
            if not self._damage(step):
                return step, loss
        return None

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of `step`, in the shapes, dtypes and shardings of `like`: arrays, or what
        `abstract_state` gives.
        """
        return from_flat_arrays(self._load(step, flat_arrays(like)), like)

    def restore_model(self, step: int, like: Any, where: Any) -> Any:
        """The model alone, in the tree of `like`, each array placed as `where` says."""
        names = self._index(step)
        wanted = jax.tree.map(shaped, like, where)
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
        # One process tells all, and spares the others the reading.
        if fault := cluster.from_first(lambda: self._damage(step)):
            raise ValueError(f"checkpoint {step} cannot be used: {fault}")
        self._whole = step
        found = {name: a.shape for name, a in self._index(step).items()}
        for name in sorted(found.keys() | arrays.keys()):
            wanted = arrays.get(name)
            if wanted is not ocp.PLACEHOLDER and found.get(name) != getattr(wanted, "shape", None):
                raise ValueError(
                    f"checkpoint {step} cannot be used: {name} is {found.get(name)} there and "
                    f"{getattr(wanted, 'shape', None)} in this model"
                )
        skip = ocp.PLACEHOLDER
        abstract = {n: a if a is skip else shaped(a, a.sharding) for n, a in arrays.items()}
        return self._saver.load(step, abstract)

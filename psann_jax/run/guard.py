"""Bad numbers: steps that were skipped are told and counted, too many in a row end the run."""

import collections
import dataclasses
import math
from pathlib import Path
import statistics

import jax
import numpy as np
import optax

from psann_jax.config import Config
from psann_jax.data import Corpus, row_order
from psann_jax.data.order import goes_on
from psann_jax.run.plan import Plan
from psann_jax.run.report import Report
from psann_jax.run.workdir import Workdir
from psann_jax.seq import Batch
from psann_jax.train.state import TrainState, offloaded, on_device
from psann_jax.train.step import Metrics, train_step

EXIT_NOT_FINITE = 3
_WINDOW, _LEAST = 100, 20  # losses that a spike stands out from
_NAMED = 8  # rows that a message names


class NotFinite(RuntimeError):
    """Too many steps in a row had no finite loss; nothing of them is in the weights."""


class Guard:
    """Watches the loss of each step.

    Attributes:
      skipped: steps skipped so far, those before a restart included.
    """

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        plan: Plan,
        report: Report,
        workdir: Workdir | None,
        skipped: int,
    ):
        self.config, self.corpus, self.plan, self.report = config, corpus, plan, report
        self.folder = workdir.path if workdir else None
        self.skipped, self.in_a_row = skipped, 0
        self.losses: collections.deque[float] = collections.deque(maxlen=_WINDOW)

    def check(self, step: int, metrics: Metrics) -> None:
        """Tells of a step that was skipped, or whose loss stands out.

        Raises:
          NotFinite: it is the last of train.max_skipped_steps in a row.
        """
        names = ("loss", "grad_norm", "skipped")
        loss, norm, skipped = (float(a) for a in jax.device_get([metrics[n] for n in names]))
        if skipped == self.skipped:
            self.in_a_row = 0
            self._tell_of_spike(step, loss)
            return
        self.skipped, self.in_a_row = int(skipped), self.in_a_row + 1
        what = _reason(loss, norm)
        self.report.line(f"step {step} is skipped: its {what}; the weights stay as they were")
        if self.in_a_row >= self.config.train.max_skipped_steps:
            raise NotFinite(self._verdict(step, what))

    def _tell_of_spike(self, step: int, loss: float) -> None:
        if len(self.losses) >= _LEAST:
            mean, spread = statistics.fmean(self.losses), statistics.stdev(self.losses)
            if loss > mean + 6 * spread:
                self.report.line(
                    f"step {step}: the loss is {loss:.4g}, far from the {mean:.4g} of the "
                    f"{len(self.losses)} steps before"
                )
        self.losses.append(loss)

    def _verdict(self, step: int, what: str) -> str:
        rows = self._rows(step)
        documents = self.corpus.train.first_documents(rows)
        kept = ""
        if self.folder and jax.process_index() == 0:
            try:
                kept = f", kept in {self._dump(self.folder, step, rows, documents)}"
            except OSError as error:
                kept = f", which could not be kept ({error})"
        rate = self.config.optimizer.learning_rate
        return (
            f"step {step} is the last of {self.in_a_row} in a row that were skipped: its {what}. "
            f"Its rows: {_some(rows)}, which begin in documents {_some(np.unique(documents))}"
            f"{kept}. Look at those rows, find the operation with train.debug_nans=True, or "
            f"train in another workdir with less than optimizer.learning_rate={rate:g}"
        )

    def _rows(self, step: int) -> np.ndarray:
        """Numbers of the rows of a step, over all processes."""
        data, train = self.config.data, self.config.train
        epochs = None if train.steps else train.epochs
        n_rows, batch_rows = len(self.corpus.train), self.plan.batch_rows
        rows = row_order(n_rows, batch_rows, step - 1, data.seed, data.order, epochs)
        return rows[rows >= 0]

    def _dump(self, folder: Path, step: int, rows: np.ndarray, documents: np.ndarray) -> Path:
        path = folder / f"bad_batch_{step}.npz"
        n, size, order = len(self.corpus.train), self.plan.batch_rows, self.config.data.order
        follows = goes_on(n, size, step - 1, order)
        batch = self.corpus.train.batch(rows, goes_on=follows)._asdict()
        np.savez_compressed(path, rows=rows, documents=documents, **batch)
        return path


def _reason(loss: float, norm: float) -> str:
    """Which number of a skipped step was not finite."""
    if not math.isfinite(loss):
        return f"loss is {loss}"
    if not math.isfinite(norm):
        return f"gradient has norm {norm}"
    return "states, which its rows would go on from, are not all finite"


def _some(numbers: np.ndarray) -> str:
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return ", ".join(map(str, numbers[:_NAMED].tolist())) + more


def repeated(
    state: TrainState,
    batch: Batch,
    optimizer: optax.GradientTransformation,
    config: Config,
    report: Report,
) -> None:
    """Repeats the step that `state` has just skipped, one operation at a time.

    Raises:
      FloatingPointError: at the first operation that gives NaN, with its place in the model.
    """
    report.line(f"repeating step {int(state.step)}, one operation at a time")
    scale = None if state.loss_scale is None else 2 * state.loss_scale  # halved, if not the least
    before = dataclasses.replace(state, step=state.step - 1, loss_scale=scale)
    where = jax.tree.map(lambda a: a.sharding, before)
    if offloaded(where):
        before = on_device(before, where)
    smoothing = config.train.label_smoothing
    with jax.debug_nans(True), jax.disable_jit():
        train_step(before, batch, optimizer=optimizer, label_smoothing=smoothing)
    report.line("no operation gave NaN this time; an infinity may have come first")

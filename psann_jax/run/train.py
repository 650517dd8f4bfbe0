"""A training run: resume where it stopped, step, evaluate, save, report."""

import contextlib
import dataclasses
from typing import Any

import jax
import numpy as np

from psann_jax import cluster
from psann_jax.config import Config, to_json
from psann_jax.data import Corpus, batches
from psann_jax.model import LM, LMState
from psann_jax.run.dry_run import program_bytes
from psann_jax.run.environment import code_digest, matmul_precision
from psann_jax.run.gpu import Gpus
from psann_jax.run.guard import Guard, repeated
from psann_jax.run.memory import memory_bytes, out_of_memory
from psann_jax.run.meters import Balance, Clock
from psann_jax.run.plan import Plan
from psann_jax.run.profile import Profile
from psann_jax.run.report import Report, duration
from psann_jax.run.stop import Preempted, StopSignal
from psann_jax.run.tensorboard import TensorBoard
from psann_jax.run.validation import Validation
from psann_jax.run.watchdog import Watchdog
from psann_jax.run.workdir import Workdir
from psann_jax.train.checkpoint import Checkpoints
from psann_jax.train.feed import on_mesh, share
from psann_jax.train.metrics import MetricsFile, perplexity
from psann_jax.train.optimizer import make_optimizer, schedule
from psann_jax.train.state import TrainState, abstract_state, init_state
from psann_jax.train.step import Metrics, jit_train_step


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finished run leaves in memory."""

    model: LM
    step: int
    rows: list[dict[str, Any]]  # of metrics.jsonl, those of this process


def train(
    config: Config,
    corpus: Corpus,
    plan: Plan,
    *,
    report: Report,
    workdir: Workdir | None = None,
    model: LM | None = None,
) -> Outcome:
    """Trains to the end of the plan; with a workdir, from its newest checkpoint on.

    Args:
      workdir: where metrics and checkpoints go; None keeps everything in memory.
      model: weights to start from; None draws new ones.

    Raises:
      ValueError: it does not fit the device's memory, or of several processes one has another
        config, code or corpus.
      Preempted: SIGTERM or SIGINT came; the step is saved where there is a workdir.
      NotFinite: train.max_skipped_steps steps in a row had no finite loss or gradient.
    """
    cluster.agree(config=lambda: to_json(config), code=code_digest, data=lambda: repr(corpus.meta))
    with (
        jax.set_mesh(plan.mesh),
        matmul_precision(config.train.matmul_precision),
        out_of_memory(config, plan),
        StopSignal() as stop,
        report,
        contextlib.closing(_Loop(config, corpus, plan, report, workdir, model)) as loop,
    ):
        return loop.run(stop)


class _Loop:
    """The state of a running loop. Metrics are read one step late: the device never waits."""

    def __init__(self, config, corpus, plan, report, workdir, model):
        self.config, self.corpus, self.plan, self.report = config, corpus, plan, report
        self.optimizer = optimizer = make_optimizer(config.optimizer, plan.steps)
        self.checkpoints: Checkpoints | None = None
        self.files: list[MetricsFile | TensorBoard] = []
        self.best = float("inf")
        self.validation = Validation(config, corpus, plan)
        try:
            self.state, where = self._restored(workdir) or self._initial(model)
        except BaseException:  # out of memory, for one
            if self.checkpoints:
                self.checkpoints.close()
            raise
        if workdir:
            self._open_files(workdir)
        self.train_step: Any = jit_train_step(
            optimizer,
            where,
            label_smoothing=config.train.label_smoothing,
            branches=config.base.branches,
        )
        self.balance = Balance(config.base.branches)
        self.any_asked = cluster.AnyAsked(plan.mesh)
        self.rate = schedule(config.optimizer, plan.steps)
        self.program_bytes = 0
        self.rows: list[dict[str, Any]] = []
        self.first = 1
        self.guard = Guard(config, corpus, plan, report, workdir, int(self.state.skipped))
        folder = workdir.profile if workdir else None
        self.profile = Profile(config.train.profile_steps, folder, report)
        self.profile.say_if_empty(int(self.state.step), plan.steps)
        self.watchdog = Watchdog(report, stacks=workdir.stacks if workdir else None)
        self.clock, self.gpus = Clock(), Gpus()

    def _first_states(self, model: LM) -> LMState:
        return model.init_state(self.plan.batch_rows, self.config.data.max_length)

    def _made_of(self) -> dict[str, Any]:
        """What a state is made of."""
        config = self.config
        return {
            "make_model": lambda rngs: LM(config.base, rngs=rngs),
            "optimizer": self.optimizer,
            "mesh": self.plan.mesh,
            "make_carry": self._first_states if config.data.order == "tracks" else None,
            "offload": config.optimizer.offload,
        }

    def _initial(self, model: LM | None) -> tuple[TrainState, TrainState]:
        return init_state(**self._made_of(), seed=self.config.train.seed, model=model)

    def _restored(self, workdir: Workdir | None) -> tuple[TrainState, TrainState] | None:
        """The newest checkpoint, if any: no other state is on the devices while it is read."""
        if workdir is None:
            return None
        keep = self.config.train.keep_checkpoints
        checkpoints = self.checkpoints = Checkpoints(workdir.checkpoints, keep=keep)
        step = cluster.from_first(checkpoints.newest)
        if best := cluster.from_first(lambda: checkpoints.best(self.validation.n_rows)):
            self.best = best[1]
        if step is None:
            return None
        like, where = abstract_state(**self._made_of())
        state = checkpoints.restore(step, like)
        self.report.line(f"resumed at step {step} from {workdir.checkpoints}")
        return state, where

    def _open_files(self, workdir: Workdir) -> None:
        step = int(self.state.step)
        if jax.process_index() == 0:
            self.files.append(MetricsFile(workdir.metrics, resume_step=step))
            if self.config.train.tensorboard:
                self.files.append(TensorBoard(workdir.tensorboard, resume_step=step))

    def run(self, stop: StopSignal) -> Outcome:
        with self.watchdog:
            return self._run(stop)

    def _run(self, stop: StopSignal) -> Outcome:
        done = int(self.state.step)
        self.first = done + 1
        self.report.begin(done, self.plan.steps)
        pending: tuple[int, Metrics] | None = None
        feed = self.watchdog.each(self._feed(done), "the data")
        for step, batch in enumerate(feed, start=self.first):
            if step == self.first:
                self._compile(batch)
                self.clock.resume()
            self.profile.before(step)
            self.state, metrics = self.train_step(self.state, batch)
            self._finish(pending)
            if self.config.train.debug_nans and int(metrics["skipped"]) > self.guard.skipped:
                repeated(self.state, batch, self.optimizer, self.config, self.report)
            pending = step, metrics
            asked = self.any_asked(stop.asked)
            if self._at_boundary(step) or asked:
                self._finish(pending)
                pending = None
                self._save(step, force=asked)
                if asked and step < self.plan.steps:
                    self._stop(step)
                self.clock.resume()
        self._finish(pending)
        if self.checkpoints:
            cluster.together(self.checkpoints.wait)
        return Outcome(self.state.model, int(self.state.step), self.rows)

    def _feed(self, done: int):
        rows = batches(
            self.corpus.train,
            batch_rows=self.plan.batch_rows,
            seed=self.config.data.seed,
            order=self.config.data.order,
            start_step=done,
            stop_step=self.plan.steps,
            epochs=None if self.config.train.steps else self.config.train.epochs,
            multiple_of=self.plan.rows_multiple,
            share=share(self.plan.mesh),
        )
        for batch in rows:
            yield on_mesh(batch, self.plan.mesh, self.config.train.grad_accum_steps)

    def _compile(self, batch) -> None:
        with self.report.timed("compiling the train step"):
            self.train_step = self.train_step.lower(self.state, batch).compile()
        self.program_bytes = program_bytes(self.train_step)

    def _at_boundary(self, step: int) -> bool:
        """Whether the loop stops after this step to evaluate or save."""
        train = self.config.train
        intervals = [train.save_interval_steps if self.checkpoints else 0]
        intervals += [train.eval_interval_steps if self.corpus.val else 0]
        return step == self.plan.steps or any(n and step % n == 0 for n in intervals)

    def _finish(self, pending: tuple[int, Metrics] | None) -> None:
        """Waits for a step, and records it where it is to be logged."""
        if pending is None:
            return
        step, metrics = pending
        with self.watchdog.waiting("the devices"):
            jax.block_until_ready(metrics)
        self.watchdog.step = step
        self.profile.after(step)
        tokens = int(np.nan_to_num(metrics["tokens"]))  # of spoilt weights it is no number
        self.clock.tick(tokens)
        self.guard.check(step, metrics)
        self.balance.add(metrics)
        self.report.step(step)
        if step == self.first + 2:
            self._say_what_is_left(step)
        evaluates = self._evaluates(step)
        logs = step in (1, self.plan.steps) or step % self.config.train.log_interval_steps == 0
        if logs or evaluates:
            self._record(step, metrics, tokens, evaluates)

    def _say_what_is_left(self, step: int) -> None:
        left = self.plan.steps - step
        said = duration(left * self.clock.seconds_per_step())
        self.report.line(f"about {said} for the {left} steps left")

    def _evaluates(self, step: int) -> bool:
        every = self.config.train.eval_interval_steps
        due = step == self.plan.steps or (every and step % every == 0)
        return bool(self.corpus.val and due)

    def _record(self, step: int, metrics: Metrics, tokens: int, evaluates: bool) -> None:
        row = self._row(step, metrics, tokens)
        if evaluates:
            with self.watchdog.waiting("the validation"):
                row |= self.validation(self.state)
        self.rows.append(row)
        for file in self.files:
            file.write(row)
        self.report.row(row, self.plan.steps)
        self.clock.reported()

    def _row(self, step: int, metrics: Metrics, tokens: int) -> dict[str, Any]:
        loss = float(metrics["loss"])
        updates = step - 1 - self.guard.skipped + (self.guard.in_a_row > 0)  # before this step
        return {
            "step": step,
            "loss": loss,
            "ppl": perplexity(loss),
            "lr": float(np.asarray(self.rate(updates))),
            "grad_norm": float(metrics["grad_norm"]),
            "tokens": tokens,
            "tokens_per_s": self.clock.tokens_per_second(),
            "step_seconds": self.clock.seconds_per_step(),
            "memory_bytes": memory_bytes(),
            "program_bytes": self.program_bytes,
            **self.gpus.read(),
            "skipped_steps": self.guard.skipped,
            **{k: float(metrics[k]) for k in ("loss_scale",) if k in metrics},
            **self.balance.taken(),
        }

    def _save(self, step: int, *, force: bool) -> None:
        """Saves at the interval, at the end, on a stop, and when validation is at its best."""
        if not self.checkpoints:
            return
        every = self.config.train.save_interval_steps
        last = self.rows[-1] if self.rows else {}
        val_loss = last.get("val_loss") if last.get("step") == step else None
        better = val_loss is not None and val_loss < self.best
        if force or better or step == self.plan.steps or (every and step % every == 0):
            with self.watchdog.waiting("the checkpoint"):
                cluster.together(self.checkpoints.wait)  # one that failed stops all
                n_rows = self.validation.n_rows
                self.checkpoints.save(self.state, val_loss=val_loss, val_rows=n_rows)
        if better:
            self.best = val_loss

    def _stop(self, step: int) -> None:
        said = f"stopped at step {step}; nothing was saved, since there is no workdir"
        if self.checkpoints:
            cluster.together(self.checkpoints.wait)  # none leaves while another one still writes
            said = f"stopped and saved at step {step}; start it again to go on"
        raise Preempted(said, self.state.model)

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # each is closed, whatever another one raises
            for part in (self.profile, *self.files, self.checkpoints):
                if part:
                    stack.callback(part.close)

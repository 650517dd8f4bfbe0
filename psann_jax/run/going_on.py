"""Whether a model may go on with the fit in a folder, and what a longer run should know."""

from psann_jax import cluster
from psann_jax.config import Config
from psann_jax.data import Corpus, n_steps
from psann_jax.model import LM
from psann_jax.run.beginning import digest
from psann_jax.run.load import model_at
from psann_jax.run.plan import Plan
from psann_jax.run.report import Report
from psann_jax.run.workdir import LENGTH, Workdir
from psann_jax.train.checkpoint import Checkpoints
from psann_jax.train.metrics import read_metrics


def refuse_other_weights(
    workdir: Workdir, config: Config, plan: Plan, model: LM | None, weights: str | None
) -> None:
    """Raises ValueError where the fit in the folder is not that of the model (None: a new one).

    It goes on from its newest checkpoint, in place of the model's weights. So these must be those
    that it began from, or, where steps are left, those that it has reached.

    Args:
      weights: the `digest` of the model.
    """
    if cluster.from_first(lambda: workdir.began_from(weights)):
        return
    checkpoints = Checkpoints(workdir.checkpoints, reads_only=True)
    try:
        step = cluster.from_first(checkpoints.newest)
        reached = None
        if step is not None and model is not None:
            reached = model_at(checkpoints, config, step, plan.mesh)
    finally:
        checkpoints.close()
    if step is None or reached is None or digest(reached) != weights:
        newest = (
            ""
            if step is None
            else f", or with that of step {step}: psannLM.load(folder, step={step})"
        )
        raise ValueError(
            f"checkpoint_dir {workdir.path} holds a fit that began from "
            f"{'its own weights' if model is None else 'other weights than this model has'}; "
            f"choose another checkpoint_dir, or go on with a model as that fit began from{newest}"
        )
    if step >= plan.steps:
        raise ValueError(
            f"the fit in checkpoint_dir {workdir.path} is finished with step {step}; choose "
            "another checkpoint_dir to train its model further"
        )


def check_length(
    workdir: Workdir, config: Config, corpus: Corpus, plan: Plan, report: Report
) -> None:
    """Reports what another number of steps or epochs means for the run in the folder, if any.

    Raises:
      ValueError: the run has already trained for longer.
    """
    changed = cluster.from_first(lambda: _changed_length(workdir, config, plan))
    for name in changed:
        report.line(f"{name} has changed: the learning rate follows the new length from here on")
    if "train.epochs" in changed and not report.quiet:
        _say_what_is_passed_over(workdir, config, corpus, plan, report)


def _changed_length(workdir: Workdir, config: Config, plan: Plan) -> list[str]:
    if not workdir.exists() or not (changed := LENGTH & workdir.changes(config).keys()):
        return []
    checkpoints = Checkpoints(workdir.checkpoints, reads_only=True)
    try:
        reached = max(checkpoints.steps(), default=0)
    finally:
        checkpoints.close()
    if reached > plan.steps:
        length = "steps" if config.train.steps else "epochs"
        raise ValueError(
            f"train.{length}={getattr(config.train, length)} ends with step {plan.steps}, and the "
            f"run in {workdir.path} has reached step {reached}; give a length of at least "
            "that, or begin in another folder"
        )
    return sorted(changed)


def _say_what_is_passed_over(
    workdir: Workdir, config: Config, corpus: Corpus, plan: Plan, report: Report
) -> None:
    if config.train.steps or config.data.order == "tracks":
        return
    old, new = workdir.saved_config().train.epochs, config.train.epochs
    n_rows = len(corpus.train)
    left_out = -n_rows * old % plan.batch_rows
    ended = n_steps(n_rows, plan.batch_rows, old)
    if new > old and left_out and any(r["step"] >= ended for r in read_metrics(workdir.metrics)):
        report.line(
            f"train.epochs={old} ended with a step that was not full; the {left_out} rows of the "
            "next epoch that would have filled it are passed over"
        )

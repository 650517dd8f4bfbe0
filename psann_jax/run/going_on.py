"""Whether a model may go on with the fit in a folder."""

from psann_jax import cluster
from psann_jax.config import Config
from psann_jax.model import LM
from psann_jax.run.beginning import digest
from psann_jax.run.load import model_at
from psann_jax.run.plan import Plan
from psann_jax.run.workdir import Workdir
from psann_jax.train.checkpoint import Checkpoints


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

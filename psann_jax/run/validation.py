"""The figures of held-out text that a run logs at its intervals."""

from typing import Any

from psann_jax import sharding
from psann_jax.compiling import jit
from psann_jax.config import Config
from psann_jax.data import Corpus, HeldOut, Rows, batches
from psann_jax.evals.fusion import fusion_means
from psann_jax.evals.perplexity import evaluate, evaluate_carried
from psann_jax.run.plan import Plan
from psann_jax.seq import Batch
from psann_jax.train.feed import on_mesh, share
from psann_jax.train.state import TrainState
from psann_jax.train.step import carried_eval_step, eval_step

_WEIGHED_ROWS = 8  # on which the means of gates are taken


def held_out(config: Config, corpus: Corpus, plan: Plan) -> HeldOut | None:
    """The validation text that a run reads each time, if it has any."""
    return corpus.held_out(config.train.eval_batches * _rows_at_once(config, plan))


def _rows_at_once(config: Config, plan: Plan) -> int:
    """As many as a micro-batch has, so that validation needs no more memory."""
    return max(1, plan.batch_rows // config.train.grad_accum_steps)


class Validation:
    """Loss on the validation rows; on tracks also with carried states; a hybrid's gates."""

    def __init__(self, config: Config, corpus: Corpus, plan: Plan):
        self.config, self.corpus, self.plan = config, corpus, plan
        self.held_out = held_out(config, corpus, plan)
        self.eval_step = jit(eval_step)
        self.carried_eval_step = jit(carried_eval_step, donate_argnums=2)

    @property
    def n_rows(self) -> int | None:
        """How many rows of text an evaluation reads; None where there is no validation text."""
        return len(self.held_out.rows) if self.held_out else None

    def __call__(self, state: TrainState) -> dict[str, Any]:
        """The metrics of one evaluation; none where there is no validation text."""
        if self.held_out is None:
            return {}
        model, rows, mesh = state.model, self.held_out.rows, self.plan.mesh
        at_once = _rows_at_once(self.config, self.plan)
        result = evaluate(self.eval_step, model, self.held_out, mesh, batch_rows=at_once)
        if state.carry is not None:
            result |= evaluate_carried(self.carried_eval_step, model, rows, mesh, tracks=at_once)
        if self.config.base.branches:
            result |= fusion_means(model, self._first(rows))
        return result

    def _first(self, rows: Rows) -> Batch:
        """The first few validation rows."""
        stream = batches(
            rows,
            batch_rows=min(_WEIGHED_ROWS, len(rows)),
            seed=0,
            order="stored",
            epochs=1,
            multiple_of=sharding.batch_ways(self.plan.mesh),
            share=share(self.plan.mesh),
        )
        try:
            return on_mesh(next(stream), self.plan.mesh)
        finally:
            stream.close()

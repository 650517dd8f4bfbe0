"""The figures of held-out text that a run logs at its intervals."""

from typing import Any

import jax

from psann_jax import sharding
from psann_jax.config import Config
from psann_jax.data import Corpus, Rows, batches
from psann_jax.evals.fusion import fusion_means
from psann_jax.evals.perplexity import evaluate, evaluate_carried
from psann_jax.run.plan import Plan
from psann_jax.seq import Batch
from psann_jax.train.feed import on_mesh, share
from psann_jax.train.state import TrainState
from psann_jax.train.step import carried_eval_step, eval_step

_WEIGHED_ROWS = 8  # on which the means of gates are taken


class Validation:
    """Loss on the validation rows; on tracks also with carried states; a hybrid's gates."""

    def __init__(self, config: Config, corpus: Corpus, plan: Plan):
        self.config, self.corpus, self.plan = config, corpus, plan
        self.eval_step = jax.jit(eval_step)
        self.carried_eval_step = jax.jit(carried_eval_step, donate_argnums=2)

    def __call__(self, state: TrainState) -> dict[str, Any]:
        """The metrics of one evaluation; none where there is no validation text."""
        meta, rows, train = self.corpus.meta.val, self.corpus.val, self.config.train
        if meta is None or rows is None:
            return {}
        held_out = state.model, rows, self.plan.mesh
        at_once = max(1, self.plan.batch_rows // train.grad_accum_steps)
        result = evaluate(
            self.eval_step,
            *held_out,
            batch_rows=at_once,
            bytes_per_token=meta.bytes / max(1, meta.tokens),
            max_batches=train.eval_batches,
        )
        if state.carry is not None:
            result |= evaluate_carried(
                self.carried_eval_step, *held_out, tracks=at_once, max_batches=train.eval_batches
            )
        if self.config.base.branches:
            result |= fusion_means(state.model, self._first(rows))
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

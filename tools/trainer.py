"""The train step of a base on one device, compiled for a batch that it is given again and again."""

import time
from typing import Any

from flax import nnx
import jax
from limits import Limits, shares
from model_sizes import Sizes
import numpy as np
from timing import Variant, summary, timed

from psann_jax import sharding
from psann_jax.bases import Base
from psann_jax.model import LM, flops_per_token, parameter_count
from psann_jax.seq import Batch
from psann_jax.train.feed import on_mesh
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import init_state
from psann_jax.train.step import jit_train_step


class Trainer:
    """A fresh model, its optimizer, and its step.

    Attributes:
      mesh: of the one device.
      state: the TrainState.
      program: the compiled step, (state, batch) -> (state, metrics).
      batch: [1, B, T] on the device.
      compile_s: seconds that tracing and compiling took.
      flops: operations of a step, forward and backward, of causal attention half of T x T.
      tokens: of a step.
      dtype: of its activations.
    """

    def __init__(self, base: Base, batch: Batch, config: OptimizerConfig | None = None):
        self.mesh = mesh = sharding.make_mesh(devices=jax.devices()[:1])
        self.optimizer = make_optimizer(config or OptimizerConfig(), 1000)
        self.state, where = init_state(lambda r: LM(base, rngs=r), self.optimizer, mesh, seed=0)
        self.batch = on_mesh(batch, mesh, 1)
        self.jitted = jit_train_step(self.optimizer, where)
        start = time.perf_counter()
        # float32 is float32 also where an accelerator would take its inputs for TF32.
        with jax.default_matmul_precision("highest" if base.dtype == "float32" else "default"):
            self.program = self.jitted.lower(self.state, self.batch).compile()
        self.compile_s = time.perf_counter() - start
        self.tokens = batch.inputs.size
        self.flops = self.tokens * flops_per_token(self.state.model, base, batch.inputs.shape[1])
        self.dtype, self.loss = base.dtype, jax.numpy.nan

    def step(self) -> jax.Array:
        """One update; its loss."""
        self.state, metrics = self.program(self.state, self.batch)
        self.loss = metrics["loss"]
        return self.loss

    def variant(self, window: int = 1) -> Variant:
        return timed(self.step, window)

    def row(self, seconds: list[float], limits: Limits) -> dict[str, Any]:
        """Seconds of steps as a row: times, tokens/s, shares of the limits, and what it is."""
        row = shares(summary(seconds, self.tokens), limits, self.dtype, flops=self.flops)
        return row | {
            "parameters": parameter_count(self.state.model),
            "flops_per_token": self.flops // self.tokens,
            "compile_s": self.compile_s,
            "loss": float(self.loss),
        }


def fresh_model(base: Base) -> LM:
    """A model drawn in one program, as `init_state` does: layer by layer it takes long."""
    return jax.jit(lambda key: LM(base, rngs=nnx.Rngs(key)))(jax.random.key(0))


def random_tokens(sizes: Sizes) -> np.ndarray:
    """[B, T + 1] int32."""
    shape = (sizes.batch, sizes.length + 1)
    return np.random.default_rng(0).integers(0, sizes.vocab_size, shape, np.int32)


def packed(tokens: np.ndarray, document: int = 0) -> Batch:
    """tokens [B, T + 1] as rows [B, T] of documents of `document` tokens; 0: of one each."""
    inputs = tokens[:, :-1]
    place = np.broadcast_to(np.arange(inputs.shape[1], dtype=np.int32), inputs.shape)
    document = document or inputs.shape[1]
    weights = np.ones(inputs.shape, np.float32)
    return Batch(inputs, tokens[:, 1:], weights, place % document, place // document + 1)

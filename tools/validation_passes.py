"""One pass forward and backward of a model, which steps of the validation compare."""

import dataclasses
from typing import Any

import jax
import numpy as np
from validation_scale import computed_as

from psann_jax.bases import Base
from psann_jax.model import LM, trainable, with_trained
from psann_jax.ops.cross_entropy import linear_cross_entropy
from psann_jax.seq import Batch, Seq
from psann_jax.train.state import named_arrays


@dataclasses.dataclass(frozen=True)
class Pass:
    """What a pass gives.

    Attributes:
      loss: nats a token.
      features: [B, T, D] of each token, that the head reads.
      grads: by name, float32, of the nats of all tokens.
    """

    loss: float
    features: np.ndarray
    grads: dict[str, np.ndarray]


def passed(base: Base, model: LM, batch: Batch) -> Pass:
    """The pass of a batch [B, T], with the weights of `model` computed as `base` says."""
    model = computed_as(base, model)
    # float32 is float32 also where an accelerator would take its inputs for TF32.
    with jax.default_matmul_precision("highest" if base.dtype == "float32" else "default"):
        (nats, features), grads = _nats_and_grads(trainable(model), model, batch)
    arrays = {name: np.asarray(g, np.float32) for name, g in named_arrays(grads).items()}
    return Pass(float(nats / batch.weights.sum()), np.asarray(features), arrays)


@jax.jit
def _nats_and_grads(weights: Any, model: LM, batch: Batch):
    def nats(weights: Any) -> tuple[jax.Array, jax.Array]:
        whole = with_trained(model, weights)
        x, _ = whole.features(batch.inputs, Seq(batch.positions, batch.segments))
        return linear_cross_entropy(x, whole.head_kernel(), batch.targets, batch.weights), x

    return jax.value_and_grad(nats, has_aux=True)(weights)


def beside(a: Pass, exact: Pass) -> dict[str, Any]:
    """How far a pass is from the exact one: over all features, at the worst token, in gradients."""
    tokens = exact.features.reshape(-1, exact.features.shape[-1])
    each = map(distance, a.features.reshape(tokens.shape), tokens)
    return {
        "features_in": str(a.features.dtype),
        "features_off": distance(a.features, exact.features),
        "token_off": float(np.max(list(each))),  # nan stays
        "gradient_off": float(np.max([distance(a.grads[k], exact.grads[k]) for k in a.grads])),
    }


def leak(base: Base, model: LM, batch: Batch) -> float:
    """How much the first document of each row changes what a pass gives for the others.

    The largest distance of the features of the others, and of a gradient of their nats, from what
    they are with other tokens in the first document.
    """
    others = batch.segments > 1
    inputs = np.where(others, batch.inputs, (batch.inputs + 1) % base.vocab_size)
    of_others = batch._replace(weights=others.astype(np.float32))
    a = passed(base, model, of_others)
    b = passed(base, model, of_others._replace(inputs=inputs))
    grads = [distance(b.grads[name], a.grads[name]) for name in a.grads]
    return float(np.max([distance(b.features[others], a.features[others]), *grads]))  # nan stays


def distance(a: np.ndarray, exact: np.ndarray) -> float:
    """How far an array is from the exact one, as a share of its size; nan where either is."""
    a, exact = (np.asarray(x, np.float64).ravel() for x in (a, exact))
    with np.errstate(invalid="ignore"):
        off = np.linalg.norm(a - exact)
    return float(off / max(np.linalg.norm(exact), np.finfo(np.float32).tiny))

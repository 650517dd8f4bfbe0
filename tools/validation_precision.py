"""GPU-01 and GPU-02 of the validation: gradients are there, and half precision learns as well."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from trainer import fresh_model
from validation_scale import Result, Scale, one_device, verdict
from validation_training import TRIES, Course, trained

from psann_jax.model import LM, trainable, with_trained
from psann_jax.seq import Batch
from psann_jax.train import step as train_steps

# Of half precision beside float32: ten times what a CPU gives (0.1 % and 0.5 %), since an
# accelerator takes more steps. Where every update is skipped, batches alone give a fall of 0.08
# nats at most, where at least 0.5 are due.
_LOSS_OFF = 0.01
_NORM_OFF = 0.05
_LEAST_FALL = 0.2  # nats
_SKIPPED = {"float32": 0, "bfloat16": 0, "float16": TRIES - 1}  # its scale begins at 1, and halves


def forward_and_backward(scale: Scale) -> Result:
    """Forward and backward: a fresh model near ln V, every gradient finite and not all zero."""
    numbers, bad = {}, []
    batch = jax.tree.map(jnp.asarray, scale.batches(1)[0])
    for name in scale.bases:
        model = fresh_model(scale.base(name))
        loss, grads = _loss_and_gradient(trainable(model), model, batch)
        leaves = [np.asarray(g, np.float32) for g in jax.tree.leaves(grads)]
        finite = all(np.isfinite(g).all() for g in leaves)
        share = np.mean([bool(np.any(g)) for g in leaves])
        off = float(loss) - math.log(scale.vocabulary)
        numbers[name] = {"loss": float(loss), "off_ln_v": off, "gradients_there": float(share)}
        if not (finite and share == 1 and abs(off) < 1):
            bad.append(name)
    worst = np.max([abs(n["off_ln_v"]) for n in numbers.values()])
    return verdict(not bad, f"loss within {worst:.2f} of ln V; bad: {bad or 'none'}", **numbers)


@jax.jit
@jax.value_and_grad
def _loss_and_gradient(weights: Any, model: LM, batch: Batch) -> jax.Array:
    return train_steps.loss_fn(with_trained(model, weights), batch) / batch.weights.sum()


def half_precision(scale: Scale) -> Result:
    """Half precision: bf16 and fp16 learn as float32 does, every loss within 1 % of its."""
    data, numbers, bad = scale.batches(scale.steps), {}, []
    for name in scale.bases:
        model = fresh_model(scale.base(name))
        courses = {
            dtype: trained(scale.base(name, dtype), model, one_device(), data)
            for dtype in ("float32", *scale.dtypes)
        }
        numbers[name] = {d: _beside(c, courses["float32"]) for d, c in courses.items()}
        bad += [f"{name} {d}" for d, row in numbers[name].items() if not _learns_alike(d, row)]
    off, fell = (
        [row[which] for rows in numbers.values() for row in rows.values()]
        for which in ("loss_off", "fell")
    )
    said = f"losses off by at most {np.max(off):.2%}, down by at least {np.min(fell):.2f} nats"
    return verdict(not bad, f"{said} in {scale.steps} steps; bad: {bad or 'none'}", **numbers)


def _beside(course: Course, exact: Course) -> dict[str, float]:
    return {
        "loss_off": _off(course.losses, exact.losses),
        "grad_norm_off": _off(course.grad_norms, exact.grad_norms),
        "fell": float(course.losses[0] - course.losses[-1]),
        "skipped": course.skipped,
    }


def _off(those: np.ndarray, exact: np.ndarray) -> float:
    return float(np.max(np.abs(those / exact - 1)))


def _learns_alike(dtype: str, row: dict[str, float]) -> bool:
    return (  # nan is not
        row["loss_off"] < _LOSS_OFF
        and row["grad_norm_off"] < _NORM_OFF
        and row["fell"] > _LEAST_FALL
        and row["skipped"] <= _SKIPPED[dtype]
    )

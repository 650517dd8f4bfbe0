"""GPU-01 and GPU-02 of the validation: gradients are there, and half precision computes as well."""

import math
from typing import Any

import numpy as np
from validation_passes import Pass, beside, leak, passed
from validation_scale import Result, Scale, drawn_once, one_device, stirred, verdict
from validation_training import TRIES, Course, trained

# On a CPU nothing at all leaks, in any dtype; a GPU adds up the gradient of a table in any order.
_LEAK = 1e-5
# Of half precision beside float32: ten times what a CPU gives (0.1 % and 0.5 %), since an
# accelerator takes more steps. Where every update is skipped, batches alone give a fall of 0.08
# nats at most, where at least 0.5 are due.
_LOSS_OFF = 0.01
_NORM_OFF = 0.05
_LEAST_FALL = 0.2  # nats
# Of a pass: the features of the worst token and the worst gradient, beside those of float32. A CPU
# gives 0.013 and 0.002 at most; attention that is wrong gives a token 0.7 or more. Of a recurrent
# base, whose states pass a norm that makes small ones large, it gives 0.25 and 0.05.
_MOST_OFF = {"bfloat16": 0.12, "float16": 0.03}
_RECURRENT = 5  # times as much
# Of all features: computed in float32 and rounded at the end they would be off by 0.0017 and
# 0.0002, and they are by 0.006 and 0.0008 or more.
_LEAST_OFF = {"bfloat16": 2.2e-3, "float16": 2.8e-4}
_SKIPPED = {"float32": 0, "bfloat16": 0, "float16": TRIES - 1}  # its scale begins at 1, and halves


def forward_and_backward(scale: Scale) -> Result:
    """Forward and backward: a fresh model near ln V, gradients everywhere, documents apart.

    Every gradient is finite and not all zero. The first document of a row changes neither the
    features of the others nor the gradients of their loss, in float32 and in half precision.
    """
    numbers, bad, batch = {}, [], scale.batches(1)[0]
    for name in scale.bases:
        model = stirred(drawn_once(scale.base(name)))
        numbers[name] = row = _of_gradients(passed(scale.base(name), model, batch))
        row["off_ln_v"] = row["loss"] - math.log(scale.vocabulary)
        dtypes = ("float32", *(scale.dtypes if name in scale.in_full else ()))
        row["leaks"] = leaks = {d: leak(scale.base(name, d), model, batch) for d in dtypes}
        there = row["finite"] and row["gradients_there"] == 1 and abs(row["off_ln_v"]) < 1
        if not (there and all(leaked <= _LEAK for leaked in leaks.values())):  # nan is not
            bad.append(name)
    off = np.max([abs(row["off_ln_v"]) for row in numbers.values()])
    leaked = np.max([leaked for row in numbers.values() for leaked in row["leaks"].values()])
    said = f"loss within {off:.2f} of ln V, documents leak {leaked:.0e}; bad: {bad or 'none'}"
    return verdict(not bad, said, **numbers)


def _of_gradients(found: Pass) -> dict[str, Any]:
    leaves = found.grads.values()
    return {
        "loss": found.loss,
        "finite": all(bool(np.isfinite(g).all()) for g in leaves),
        "gradients_there": float(np.mean([bool(np.any(g)) for g in leaves])),
    }


def half_precision(scale: Scale) -> Result:
    """Half precision: bf16 and fp16 compute nearly what float32 does, and learn as it does.

    In a pass of the fresh model the features of every token and each gradient are near those of
    float32, and not the same. In training, every loss is within 1 %.
    """
    data, numbers, bad = scale.batches(scale.steps), {}, []
    for name in scale.in_full:
        base, model = scale.base(name), stirred(drawn_once(scale.base(name)))
        exact, course = passed(base, model, data[0]), trained(base, model, one_device(), data)
        numbers[name] = rows = {"float32": _beside(course, course)}
        for dtype in scale.dtypes:
            half = scale.base(name, dtype)
            row = _beside(trained(half, model, one_device(), data), course)
            rows[dtype] = row | beside(passed(half, model, data[0]), exact)
        bad += [f"{name} {d}" for d, row in rows.items() if not _learns_alike(d, row)]
        times = _RECURRENT if base.recurrent else 1
        bad += [f"{name} {d} pass" for d in scale.dtypes if not _computes_alike(d, rows[d], times)]
    token, off, fell = (
        [row[which] for rows in numbers.values() for row in rows.values() if which in row]
        for which in ("token_off", "loss_off", "fell")
    )
    said = f"tokens off by at most {np.max(token):.1%}, losses by {np.max(off):.2%}, down by "
    said += f"at least {np.min(fell):.2f} nats in {scale.steps} steps; bad: {bad or 'none'}"
    return verdict(not bad, said, **numbers)


def _computes_alike(dtype: str, row: dict[str, Any], times: int) -> bool:
    most = times * _MOST_OFF[dtype]
    return (  # nan is not
        row["features_in"] == dtype
        and row["features_off"] >= _LEAST_OFF[dtype]
        and row["token_off"] <= most
        and row["gradient_off"] <= most
    )


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

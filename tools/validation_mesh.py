"""GPU-05 and GPU-06 of the validation: several devices train as one does."""

import itertools

import jax
import numpy as np
from validation_scale import Result, Scale, drawn_once, one_device, verdict
from validation_training import Course, trained

from psann_jax import sharding

# Sums are taken in another order, and nothing else differs. On a CPU losses part by 6e-6, norms
# by 1e-6, weights by 7e-5 of the way they went; the rest is for an accelerator's more steps. Adam
# and clipping hide a gradient that is wrong by a factor from losses and weights; its norm, before
# clipping, does not. In bfloat16 a CPU gives 8e-4, 4e-3 and 0.05.
_BOUNDS = {
    "float32": {"loss": 3e-5, "grad_norm": 1e-5, "weights": 1e-3},
    "bfloat16": {"loss": 1e-2, "grad_norm": 3e-2, "weights": 0.3},
}


def data_parallel(scale: Scale) -> Result:
    """Data parallel: several devices, with rows of their own, train as one device does."""
    return _parity(scale, data=jax.device_count(), fsdp=1)


def fsdp(scale: Scale) -> Result:
    """FSDP: weights spread over several devices train as on one device."""
    return _parity(scale, data=1, fsdp=jax.device_count())


def _parity(scale: Scale, *, data: int, fsdp: int) -> Result:
    mesh, batches = sharding.make_mesh(data, fsdp), scale.batches(scale.steps)
    numbers, bad = {}, []
    for dtype, name in itertools.product(scale.training_dtypes, scale.bases):
        base = scale.base(name, dtype)
        model = drawn_once(base)
        one, many = (trained(base, model, where, batches) for where in (one_device(), mesh))
        numbers[f"{name} {dtype}"] = row = apart(one, many) | {
            "held": many.held,
            "parts": many.parts,
            "flops": many.flops / one.flops,
        }
        spread = all(share <= _most(fsdp) for share in many.held.values())
        split = many.parts == mesh.size and row["flops"] <= _most(mesh.size)
        alike = all(row[of] < bound for of, bound in _BOUNDS[dtype].items())  # nan is not
        if not (spread and split and alike):
            bad.append(f"{name} {dtype}")
    worst = {of: np.max([row[of] for row in numbers.values()]) for of in _BOUNDS["float32"]}
    said = ", ".join(f"{of} {number:.1e}" for of, number in worst.items())
    return verdict(
        not bad, f"{mesh.size} devices, apart at most: {said}; bad: {bad or 'none'}", **numbers
    )


def _most(ways: int) -> float:
    """The most of what is spread over `ways` devices that one of them has: a quarter is whole.

    Norms are whole on every device, and so is the update of weights that are.
    """
    return (1 + 3 / ways) / 4


def apart(one: Course, many: Course) -> dict[str, float]:
    """How far two courses part.

    Losses in nats; gradient norms relative; weights as a share of the way they went, which one
    weight of a gradient near nothing, turned round by Adam, does not decide.
    """
    return {
        "loss": float(np.max(np.abs(many.losses - one.losses))),
        "grad_norm": float(np.max(np.abs(many.grad_norms / one.grad_norms - 1))),
        "weights": _distance(many.end, one.end) / _distance(one.end, one.start),
    }


def _distance(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    squares = [np.sum(np.square(x - y), dtype=np.float64) for x, y in zip(a, b, strict=True)]
    return float(np.sqrt(np.sum(squares)))

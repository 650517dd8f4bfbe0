"""Measured sines over the steps of a training, ready for JSON, and as a table."""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from psann_jax.evals.histogram import count_quantiles, edges_over, value_quantiles
from psann_jax.evals.sine import PHASE_EDGES, MeasuredSine, Phases, Values
from psann_jax.nn.sine import PARAMETERS

UNITS = {
    "amplitude": "",
    "frequency": "radians per unit of z",
    "damping": "nepers per unit of the envelope",
    "phase": "radians",
}
Measured = tuple[int | None, list[MeasuredSine]]  # a step (None: a model without one), its sines


@dataclasses.dataclass(frozen=True)
class Histogram:
    """What was found at one step; a number is None where nothing was finite."""

    step: int | None
    counts: list[int]
    mean: float | None
    std: float | None
    quantiles: dict[str, float]  # by percent
    not_finite: float  # share


@dataclasses.dataclass(frozen=True)
class ParameterHistogram(Histogram):
    """Of one value a feature."""

    at_bound: float  # share
    saturated: float  # share whose softplus is too flat to be trained


@dataclasses.dataclass(frozen=True)
class PhaseHistogram(Histogram):
    """Of |f z| over tokens and features; the quantiles are read off the counts."""

    beyond_half_pi: float  # share; a sine of a smaller phase is monotonic
    beyond_pi: float  # share
    mean_damping_factor: float | None  # of exp(-d g(z))


@dataclasses.dataclass(frozen=True)
class History:
    """One quantity of one sine at every step, counted between the same edges [bins + 1]."""

    unit: str
    edges: list[float]
    steps: Sequence[Histogram]


@dataclasses.dataclass(frozen=True)
class SineHistory:
    """One sine over the training."""

    name: str
    layer: int | None
    holder: str
    features: int
    envelope: str
    learnable: list[str]
    amplitude: History
    frequency: History
    damping: History
    phase: History


@dataclasses.dataclass(frozen=True)
class SineReport:
    """`dataclasses.asdict` of it is JSON: lists, numbers, text and None."""

    model: str
    text: str  # what the phases were measured on
    tokens: int
    steps: list[int | None]
    sines: list[SineHistory]


def sine_report(model: str, text: str, tokens: int, measured: Sequence[Measured]) -> SineReport:
    """The report of a model measured at one step or more, on the same text."""
    steps = [step for step, _ in measured]
    each = zip(*(sines for _, sines in measured), strict=True)
    return SineReport(model, text, tokens, steps, [_history(steps, sines) for sines in each])


def _history(steps: list[int | None], sines: Sequence[MeasuredSine]) -> SineHistory:
    first, histories = sines[0], {}
    for name in PARAMETERS:
        values = [sine.values[name] for sine in sines]
        edges = edges_over(v.values for v in values)
        found = [_parameter(s, v, edges) for s, v in zip(steps, values, strict=True)]
        histories[name] = History(UNITS[name], edges.tolist(), found)
    phases = [_phase(step, sine.phases) for step, sine in zip(steps, sines, strict=True)]
    return SineHistory(
        name=first.place.name,
        layer=first.place.layer,
        holder=first.place.holder,
        features=first.values["amplitude"].values.size,
        envelope=first.envelope,
        learnable=list(first.learnable),
        phase=History(UNITS["phase"], PHASE_EDGES.tolist(), phases),
        **histories,
    )


def _parameter(step: int | None, found: Values, edges: np.ndarray) -> ParameterHistogram:
    values = np.ravel(found.values).astype(np.float64)
    finite = values[np.isfinite(values)]
    return ParameterHistogram(
        step=step,
        counts=np.histogram(finite, edges)[0].tolist(),
        mean=_finite(finite.mean()) if finite.size else None,
        std=_finite(finite.std()) if finite.size else None,
        quantiles=value_quantiles(finite),
        not_finite=1 - finite.size / values.size,
        at_bound=float(found.at_bound),
        saturated=float(found.saturated),
    )


def _phase(step: int | None, sums: Phases) -> PhaseHistogram:
    n, seen = max(1.0, float(sums.counts.sum())), max(1.0, float(sums.seen))
    some = bool(sums.counts.any())
    mean = float(sums.radians) / n
    variance = max(0.0, float(sums.squares) / n - mean**2)
    return PhaseHistogram(
        step=step,
        counts=[int(c) for c in sums.counts],
        mean=_finite(mean) if some else None,
        std=_finite(math.sqrt(variance)) if some else None,
        quantiles=count_quantiles(PHASE_EDGES, sums.counts),
        not_finite=1 - float(sums.counts.sum()) / seen,
        beyond_half_pi=float(sums.beyond_half_pi) / n,
        beyond_pi=float(sums.beyond_pi) / n,
        mean_damping_factor=_finite(float(sums.damping) / n) if some else None,
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

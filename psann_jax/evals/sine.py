"""The sines of a model: where they are, their values, and the phases that a text gives them.

The model is copied with its layers apart, and each sine of the copy is replaced by a recorder
that notes the phases and then computes the sine. So whatever mixer holds a sine is measured
without knowing of it.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from psann_jax.bases import Base
from psann_jax.evals.sine_place import Place, at, put, sine_paths, sine_places
from psann_jax.model import LM, LMState
from psann_jax.nn.recompute import keeping_all
from psann_jax.nn.sine import PARAMETERS, Sine
from psann_jax.ops.sine import ENVELOPES
from psann_jax.seq import Batch, Seq

# Radians: 24 bins a decade from a thousandth to a thousand, and one for what is smaller. What is
# larger is counted in the last bin.
PHASE_EDGES = np.concatenate([[0.0], np.logspace(-3, 3, 6 * 24 + 1)]).astype(np.float32)
_FLAT = 1e-3  # a slope of softplus below this: a raw parameter's step hardly moves the value


class Values(NamedTuple):
    """One parameter of a sine: its F values, and shares of them."""

    values: Any  # [F], what the raw parameters stand for
    at_bound: Any  # [] share that its bounds clamp or just allow
    saturated: Any  # [] share whose softplus is too flat to be trained


class Phases(NamedTuple):
    """Sums over the phases |f z| of every real token and feature."""

    counts: Any  # [bins] between PHASE_EDGES, of those that are finite
    seen: Any  # [] how many, finite or not
    radians: Any  # [] their sum
    squares: Any  # [] radians^2
    beyond_half_pi: Any  # [] how many
    beyond_pi: Any  # []
    damping: Any  # [] sum of the damping factors exp(-d g(z))


@dataclasses.dataclass(frozen=True)
class MeasuredSine:
    """One sine of one model: amplitude, frequency and damping by name, and its phases."""

    place: Place
    envelope: str
    learnable: tuple[str, ...]
    values: dict[str, Values]  # of numpy arrays
    phases: Phases  # of numpy float64


def has_sines(base: Base) -> bool:
    """Whether a model of this base holds a sine; computes nothing."""
    return bool(sine_paths(jax.eval_shape(lambda: _apart(LM(base, rngs=nnx.Rngs(0))))))


def measure(model: LM, base: Base, batches: Sequence[Batch]) -> list[MeasuredSine]:
    """Every sine that `model` passes these rows through, in the order in which it does.

    Args:
      base: what the model was made from.
      batches: rows [B, T] on the model's devices, all of the same shape; padding is left out.

    Raises:
      ValueError: a mixer calls its sine within a loop of its own.
    """
    apart = jax.eval_shape(_apart, model)
    paths = sine_paths(apart)
    places, values = sine_places(apart, base, paths), _values(model)
    phases: dict[int, list[Phases]] = {}
    try:
        for batch in batches:
            for index, sums in _heard(model, batch):
                phases.setdefault(int(index), []).append(sums)
    except jax.errors.UnexpectedTracerError:
        raise ValueError(
            "a mixer calls its sine within jax.lax.scan or jax.vmap, where its phases cannot be "
            "noted; call it on all tokens at once"
        ) from None
    return [
        _measured(places[index], at(apart, paths[index]), values[index], sums)
        for index, sums in phases.items()
    ]


def _measured(
    place: Place, sine: Sine, values: dict[str, Values], sums: Sequence[Phases]
) -> MeasuredSine:
    total = jax.tree.map(lambda *parts: sum(np.asarray(p, np.float64) for p in parts), *sums)
    on_host = jax.tree.map(np.asarray, values)
    return MeasuredSine(place, sine.envelope, tuple(sine.learnable), on_host, total)


def phase_sums(sine: Sine, z: jax.Array, real: jax.Array) -> Phases:
    """What `Phases` keeps of pre-activations.

    Args:
      z: [B, T, ..., F]; of another shape, each of its numbers counts.
      real: [B, T], False on padding.
    """
    z = z.astype(jnp.float32)  # as the sine computes it
    phase = jnp.abs(sine.value("frequency") * z)
    decay = jnp.exp(-sine.value("damping") * ENVELOPES[sine.envelope](z))
    fits = z.shape[:2] == real.shape
    real = real.reshape(real.shape + (1,) * (z.ndim - 2)) if fits else jnp.array(True)
    real = jnp.broadcast_to(real, z.shape)
    finite = real & jnp.isfinite(phase)
    bins = jnp.searchsorted(PHASE_EDGES[1:-1], phase, side="right")
    return Phases(
        counts=jnp.zeros(len(PHASE_EDGES) - 1, jnp.int32).at[bins].add(finite.astype(jnp.int32)),
        seen=jnp.sum(real),
        radians=jnp.sum(phase, where=finite),
        squares=jnp.sum(phase * phase, where=finite),
        beyond_half_pi=jnp.sum(finite & (phase > math.pi / 2)),
        beyond_pi=jnp.sum(finite & (phase > math.pi)),
        damping=jnp.sum(decay, where=finite),
    )


def parameter_values(sine: Sine, name: str) -> Values:
    """What the raw parameter `name` stands for, and what holds it there."""
    value = sine.value(name)
    low, high = sine.bounds[PARAMETERS.index(name)] or (None, None)
    held = jnp.zeros(value.shape, bool)
    held = held if low is None else held | (value <= low)
    held = held if high is None else held | (value >= high)
    slope = jax.nn.sigmoid(getattr(sine, name)[...])  # of softplus
    return Values(value, jnp.mean(held), jnp.mean(slope < _FLAT))


class _Recorder:
    """Stands in a sine's place: computes it, and notes the phases."""

    def __init__(self, sine: Sine, index: int, real: jax.Array, notes: list):
        self.sine, self.index, self.real, self.notes = sine, index, real, notes

    def __call__(self, z: jax.Array) -> jax.Array:
        self.notes.append((jnp.int32(self.index), phase_sums(self.sine, z, self.real)))
        return self.sine(z)

    def at(self, z: jax.Array, place: jax.Array) -> jax.Array:
        mine = jnp.take(z, place, axis=-1)
        self.notes.append((jnp.int32(self.index), phase_sums(self.sine, mine, self.real)))
        return self.sine.at(z, place)


@jax.jit
def _heard(model: LM, batch: Batch) -> list[tuple[jax.Array, Phases]]:
    """Each sine's number in `sine_paths` and its phases, in the order of the calls."""
    model, notes = _apart(model), []
    for index, path in enumerate(sine_paths(model)):
        recorder = _Recorder(at(model, path), index, batch.segments > 0, notes)
        put(model, path, recorder)
    # States of None within a state: the layers apart, computing as they do in training.
    layers = tuple((None,) * len(sublayers) for sublayers in model.stack.layers)
    states = LMState(jnp.zeros((batch.inputs.shape[0],), jnp.int32), layers)
    with keeping_all():
        model.features(batch.inputs, Seq(batch.positions, batch.segments), states)
    return notes


@jax.jit
def _values(model: LM) -> list[dict[str, Values]]:
    """The parameters of each sine, in the order of `sine_paths`."""
    apart = _apart(model)
    sines = [at(apart, path) for path in sine_paths(apart)]
    return [{name: parameter_values(sine, name) for name in PARAMETERS} for sine in sines]


def _apart(model: LM) -> LM:
    """A copy with layers of their own."""
    model = jax.tree.map(lambda a: a, model)
    model.stack = model.stack.unrolled()
    return model

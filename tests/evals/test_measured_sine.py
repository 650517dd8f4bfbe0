"""The sines of a model are all found, and measured as numpy would from their pre-activations."""

import dataclasses
from functools import partial

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import bases
from psann_jax.bases import ResPSANN
from psann_jax.evals.sine import PHASE_EDGES, has_sines, measure, parameter_values, phase_sums
from psann_jax.model import LM
from psann_jax.nn.mixed import MixedConfig
from psann_jax.nn.sine import Sine, SineConfig
from psann_jax.seq import Batch, Seq

SIZES = {"vocab_size": 32, "d_model": 16, "n_heads": 2, "d_mlp": 32, "dtype": "float32"}
B, T = 2, 12


def _batch(rows=B):
    """Two documents a row, and padding at its end."""
    tokens = np.random.default_rng(0).integers(0, 32, (rows, T)).astype(np.int32)
    segments = np.repeat(np.array([[1] * 5 + [2] * 4 + [0] * 3], np.int32), rows, axis=0)
    positions = np.repeat(np.array([[*range(5), *range(4), 0, 0, 0]], np.int32), rows, axis=0)
    return Batch(tokens, tokens, (segments > 0).astype(np.float32), positions, segments)


def _model(base):
    """Larger weights than those of a start, so that phases reach beyond pi."""
    return jax.tree.map(lambda a: 2 * a, LM(base, rngs=nnx.Rngs(0)))


def _measured(base, batches=None):
    return measure(_model(base), base, batches or [_batch()])


def _sine(features=64, **config):
    return Sine(features, SineConfig(**config), axis="mlp", rngs=nnx.Rngs(0))


def _expected(sine, z, real):
    """Mean, deviation, share beyond pi/2 and pi, and mean damping factor, by numpy."""
    f, d = (np.asarray(sine.value(n), np.float64) for n in ("frequency", "damping"))
    z = np.asarray(z, np.float64)[real]
    phase = np.abs(f * z)
    beyond = [(phase > np.pi / 2).mean(), (phase > np.pi).mean()]
    return [phase.mean(), phase.std(), *beyond, np.exp(-d * np.abs(z)).mean()]


def _found(sums):
    n, mean = sums.counts.sum(), sums.radians / sums.counts.sum()
    std = np.sqrt(sums.squares / n - mean**2)
    return [mean, std, sums.beyond_half_pi / n, sums.beyond_pi / n, sums.damping / n]


def test_phases_are_counted_as_numpy_counts_them():
    sine = _sine(frequency=2.0, frequency_std=0.5)
    z = jnp.asarray(np.random.default_rng(1).standard_normal((B, T, 64)) * 10, jnp.float32)
    real = _batch().segments > 0
    sums = jax.tree.map(np.asarray, phase_sums(sine, z, real))
    phase = np.abs(np.asarray(sine.value("frequency")) * np.asarray(z))[real]
    np.testing.assert_array_equal(sums.counts, np.histogram(phase, PHASE_EDGES)[0])
    assert sums.seen == real.sum() * 64


def test_phases_of_a_model_of_one_layer_are_those_of_numpy():
    base = ResPSANN(**SIZES, n_layers=1)
    model, batch = _model(base), _batch()
    attention, mlp = model.stack.unrolled().layers[0]
    x = model.embed.table[...][batch.inputs]
    x, _ = attention(x, Seq(batch.positions, batch.segments))
    z = mlp.mixer.up(mlp.norm(x))
    (found,) = measure(model, base, [batch])
    expected = _expected(mlp.mixer.act, z, batch.segments > 0)
    assert 0 < expected[3] < expected[2] < 1
    # Float32 sums over 576 phases; no phase is so near a bound that rounding moves it over.
    np.testing.assert_allclose(_found(found.phases), expected, rtol=1e-5)


def test_scanned_and_unrolled_layers_are_measured_alike():
    base = bases.get("waveresnet")(**SIZES, n_layers=2)
    one, other = (_measured(dataclasses.replace(base, scan_layers=s)) for s in (False, True))
    assert [m.place for m in one] == [m.place for m in other]
    for a, b in zip(one, other, strict=True):
        jax.tree.map(np.testing.assert_array_equal, (a.values, a.phases), (b.values, b.phases))


NAMES = {
    "respsann": ({}, ["layer 0 mlp", "layer 1 mlp"]),
    "waveresnet": ({}, ["layer 0 mlp", "layer 0 wave", "layer 1 mlp", "layer 1 wave"]),
    "dilated": (
        {"dilation_growth": 2},
        ["layer 0 mlp", "layer 0 wave", "layer 1 mlp", "layer 1 wave"],
    ),
    "replace": ({"wave": "replace"}, ["layer 0 wave", "layer 1 wave"]),
    "psannlm-replace": ({"wave": "psannlm-replace"}, ["layer 0 wave", "layer 1 wave"]),
}


@pytest.mark.parametrize("case", NAMES)
def test_every_sine_is_found_under_its_layer_and_mixer(case):
    options, names = NAMES[case]
    base = bases.get("respsann" if case == "respsann" else "waveresnet")(
        **SIZES, n_layers=2, **options
    )
    assert [m.place.name for m in _measured(base)] == names


class GatedPair(nnx.Module):
    """A mixer that nobody told the diagnostics of: sines in a list, called from last to first."""

    def __init__(self, d_model, *, rngs):
        self.gates = nnx.List(_sine(d_model, frequency=f) for f in (1.0, 3.0))

    def __call__(self, x, seq, state=None):
        for gate in reversed(self.gates):
            x = gate(x)
        return x, None


class Looping(nnx.Module):
    """A mixer that calls its sine token by token."""

    def __init__(self, d_model, *, rngs):
        self.act = _sine(d_model)

    def __call__(self, x, seq, state=None):
        _, y = jax.lax.scan(lambda c, token: (c, self.act(token)), None, x.swapaxes(0, 1))
        return y.swapaxes(0, 1), None


@dataclasses.dataclass(kw_only=True)
class Own(ResPSANN):
    """Mixers of its own in place of attention, between two MLPs."""

    mixer: type = GatedPair

    def pattern(self):
        return ((self.mlp(), self.residual(partial(self.mixer)), self.mlp()),)


def test_sines_of_an_unknown_mixer_are_found_in_the_order_of_their_calls():
    found = _measured(Own(**SIZES, n_layers=1))
    names = ["mlp 1", "gated pair gates 1", "gated pair gates 0", "mlp 2"]
    assert [m.place.name for m in found] == [f"layer 0 {name}" for name in names]
    _, last, first, _ = (m.values["frequency"].values.mean() for m in found)
    assert last > first  # made as 3 and 1


def test_a_sine_within_a_loop_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"within jax\.lax\.scan"):
        _measured(Own(**SIZES, n_layers=1, mixer=Looping))


def test_batches_add_up():
    base = ResPSANN(**SIZES, n_layers=1)
    both, halves = _batch(4), [Batch(*(a[i : i + 2] for a in _batch(4))) for i in (0, 2)]
    (one,), (other,) = _measured(base, [both]), _measured(base, halves)
    np.testing.assert_array_equal(one.phases.counts, other.phases.counts)
    assert one.phases.seen == other.phases.seen


def test_rows_of_padding_count_nothing():
    base = ResPSANN(**SIZES, n_layers=1)
    empty = Batch(*(np.concatenate([a, np.zeros_like(a)]) for a in _batch()))
    (one,), (other,) = _measured(base, [_batch()]), _measured(base, [empty])
    np.testing.assert_array_equal(one.phases.counts, other.phases.counts)


def test_the_share_at_a_bound_is_that_of_the_clamped_features():
    config = {"frequency": 1.0, "frequency_std": 0.5}
    free, bounded = _sine(1000, **config), _sine(1000, **config, frequency_bounds=(0.5, 1.2))
    bounded.frequency = free.frequency  # as training may carry it out of the bounds
    drawn, held = np.asarray(free.value("frequency")), parameter_values(bounded, "frequency")
    assert float(held.at_bound) == pytest.approx(np.mean((drawn <= 0.5) | (drawn >= 1.2)))
    assert 0.1 < float(held.at_bound) < 0.9


@pytest.mark.parametrize(("damping", "share"), [(0.01, 0.0), (0.0, 1.0)])
def test_a_damping_of_nothing_is_saturated(damping, share):
    assert float(parameter_values(_sine(damping=damping), "damping").saturated) == share


@pytest.mark.parametrize(
    ("name", "options", "holds"),
    [
        ("waveresnet", {}, True),
        ("respsann", {"mlp_activation": "gelu"}, False),
        ("transformer", {}, False),
    ],
)
def test_whether_a_base_has_sines(name, options, holds):
    assert has_sines(bases.get(name)(**SIZES, n_layers=2, **options)) == holds


@pytest.mark.parametrize("name", bases.names())
def test_every_registered_base_can_be_measured(name):
    base = bases.get(name)(**SIZES, n_layers=2)
    assert bool(_measured(base)) == has_sines(base)


def test_the_sines_among_mixed_activations_are_measured_on_their_own_features():
    mixed = MixedConfig(types=("relu", "sine"), ratios=(0.75, 0.25))
    base = bases.get("geosparse")(**SIZES, n_layers=1, mlp_activation="mixed", mixed=mixed)
    (sine,) = _measured(base)
    assert sine.values["frequency"].values.size == base.mlp_features // 4


def test_a_model_in_bfloat16_is_measured_in_float32():
    base = ResPSANN(**{**SIZES, "dtype": "bfloat16"}, n_layers=1)
    (narrow,), (wide,) = _measured(base), _measured(ResPSANN(**SIZES, n_layers=1))
    # z has 8 bits there: a hundredth of it at most, less in a mean.
    np.testing.assert_allclose(_found(narrow.phases)[:2], _found(wide.phases)[:2], rtol=1e-2)

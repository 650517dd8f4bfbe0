"""The schedule, what decays, and updates that are those of torch."""

import functools
import json
from pathlib import Path

from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from psann_jax.model import trainable
from psann_jax.nn.sine import Sine, SineConfig
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer, schedule
from psann_jax.train.state import named_arrays

GOLDEN = Path(__file__).parent.parent / "golden" / "psannlm"
SCHEDULES = json.loads((GOLDEN / "lr_schedule_public.json").read_text())

BASES = ("geosparse", "respsann", "sgrpsann", "transformer", "waveresnet")


def _name(case):
    return f"{case['warmup_steps']}of{case['total_steps']}"


@pytest.mark.parametrize("case", SCHEDULES, ids=_name)
def test_schedule_to_zero_equals_the_original(case):
    ours, expected = reference.of_schedule(case), reference.rates_given(case)
    # float32 against double: 1e-6 of the peak.
    np.testing.assert_allclose(ours, expected, atol=1e-6 * case["lr"])


@given(st.integers(1, 300))
def test_default_schedule_is_never_zero_and_reaches_its_peak(steps):
    rate = schedule(OptimizerConfig(learning_rate=1e-3), steps)
    rates = np.asarray(rate(np.arange(300)))[:steps]  # one shape, so nothing compiles anew
    assert rates.min() > 0
    np.testing.assert_allclose(rates.max(), 1e-3, rtol=1e-6)


def test_default_schedule_ends_at_a_tenth_of_the_peak_and_stays_there():
    rate = schedule(OptimizerConfig(learning_rate=1e-3), 100)
    np.testing.assert_allclose([rate(99), rate(100), rate(1000)], 1e-4, rtol=1e-5)


def test_warmup_is_a_twentieth_of_the_run():
    rate = schedule(OptimizerConfig(learning_rate=1.0), 100)
    np.testing.assert_allclose([rate(n) for n in range(5)], np.arange(1, 6) / 5, rtol=1e-6)
    assert float(rate(5)) < 1


def test_no_warmup_begins_at_the_peak():
    assert float(schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=0), 1000)(0)) > 0.999


SINES = ("amplitude", "frequency", "damping")


@pytest.fixture(scope="module")
def decayed_in(tiny):
    return functools.cache(lambda base, decay="matrices": _decayed(tiny(base), decay=decay))


def _decayed(model, **config):
    """Names of the parameters that move under a zero gradient (those that decay), and all."""
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=0.1, weight_decay=0.5, warmup_steps=0, **config), 10
    )

    @jax.jit
    def update(model):
        ones = jax.tree.map(jnp.ones_like, model)
        zero = jax.tree.map(jnp.zeros_like, model)
        return optimizer.update(zero, optimizer.init(ones), ones)[0]

    updates = update(model)
    moved = named_arrays(jax.tree.map(lambda u: bool(jnp.any(u != 0)), updates))
    return {name for name, moves in moved.items() if moves}, set(moved)


@pytest.mark.parametrize("base", BASES)
def test_matrices_alone_decay_in_stacked_layers(decayed_in, base):
    decayed, names = decayed_in(base)
    assert decayed == {n for n in names if n.endswith(("kernel", "table", "taps", "weight"))}


@pytest.mark.parametrize("part", [*SINES, "alpha", "bias", "scale"])
def test_no_vector_decays(decayed_in, part):
    decayed, names = decayed_in("waveresnet")
    assert any(n.endswith(part) for n in names)
    assert not any(n.endswith(part) for n in decayed)


def test_what_does_not_learn_stays_when_all_decays():
    """psannlm freezes them by requires_grad, and torch's AdamW passes them by."""
    config = SineConfig(learnable=("frequency",))
    frozen = Sine(4, config, axis="mlp", rngs=nnx.Rngs(0))
    assert _decayed(frozen, decay="all") == ({"frequency"}, set(SINES))


def test_all_parameters_decay_when_asked(decayed_in):
    decayed, names = decayed_in("respsann", decay="all")
    assert decayed == names


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_gradient_is_clipped_by_its_global_norm_unless_off(clip):
    optimizer = make_optimizer(OptimizerConfig(grad_clip=clip, b1=0.0, weight_decay=0), 10)
    model = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    gradient = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([0.0, 4.0])}
    _, state = optimizer.update(gradient, optimizer.init(model), model)
    moments = next(s for s in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(s)).mu
    norm = np.sqrt(sum(float(jnp.sum(m**2)) for m in jax.tree.leaves(moments)))
    np.testing.assert_allclose(norm, clip or 5.0, rtol=1e-6)


def _is_adam(node):
    return hasattr(node, "mu")


@pytest.fixture(scope="module", params=["respsann", "transformer"])
def trajectory(request, golden):
    """The reference's four updates, and ours from its weights with its optimizer."""
    given = golden(f"train_{request.param}")
    return given, reference.of_training(given)


def test_four_losses_are_those_of_torch(trajectory):
    data, ours = trajectory
    # Single losses agree within 1e-5; four updates carry the difference on.
    np.testing.assert_allclose(ours["losses"], data.case["losses"], atol=1e-4)


def test_gradient_norms_before_clipping_are_those_of_torch(trajectory):
    data, ours = trajectory
    name = "grad_norms_before_clip"
    np.testing.assert_allclose(ours[name], data.arrays[name], rtol=1e-4)


def test_weights_after_four_updates_are_those_of_torch(trajectory):
    data, ours = trajectory
    for name, expected in data.arrays.items():
        if name.startswith("w1/"):
            # Adam divides by the gradient's size, so the smallest gradients' rounding counts;
            # an update is 3e-3.
            np.testing.assert_allclose(ours[name], expected, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"learning_rate": 0.0}, "optimizer.learning_rate=0.0 must be positive"),
        ({"learning_rate": float("nan")}, "optimizer.learning_rate=nan"),
        ({"min_lr": 1.0}, "optimizer.min_lr=1.0 must be in"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps=-1"),
        ({"weight_decay": -0.1}, "optimizer.weight_decay=-0.1"),
        ({"b2": 1.0}, "optimizer.b2=1.0"),
        ({"grad_clip": -1.0}, "optimizer.grad_clip=-1.0"),
        ({"lr_factors": {"mamba": 0.5}}, r"lr_factors=\{'mamba': 0.5\} must be pairs .* as \(\("),
        ({"lr_factors": (("rwkv", 2), ("rwkv", 3))}, "lr_factors names 'rwkv' twice; give it one"),
        ({"lr_factors": (("mamba",),)}, r"lr_factors=\(\('mamba',\),\) must be pairs"),
        ({"lr_factors": (("mamba", "x"),)}, "lr_factors=.* must be pairs"),
        ({"decay": "some"}, "optimizer.decay='some' must be one of matrices, all"),
    ],
)
def test_a_bad_field_is_named(fields, said):
    with pytest.raises(ValueError, match=said):
        OptimizerConfig(**fields)


def _updates(tiny, **config):
    """Sizes of one update by name, from a gradient of ones."""
    model = trainable(tiny("transformer"))
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=0, weight_decay=0.0, **config), 10)
    ones = jax.tree.map(jnp.ones_like, model)
    updates, _ = optimizer.update(ones, optimizer.init(model), model)
    return {name: float(jnp.abs(u).max()) for name, u in named_arrays(updates).items()}


def test_parts_named_in_lr_factors_learn_at_their_own_rate(tiny):
    plain = _updates(tiny)
    scaled = _updates(tiny, lr_factors=(("embed", 0.5), ("norm", 3.0)))
    for name, size in plain.items():
        factor = 0.5 if name.startswith("embed/") else 3.0 if "/norm/" in f"/{name}" else 1.0
        assert scaled[name] == pytest.approx(factor * size, rel=1e-6)


def test_a_part_that_the_model_has_not_is_named(tiny):
    with pytest.raises(ValueError, match="lr_factors names 'embedd'.*did you mean 'embed'"):
        _updates(tiny, lr_factors=(("embedd", 0.5),))


def test_moments_in_bfloat16_take_half_the_room_and_change_little(tiny):
    start, ends = trainable(tiny()), {}
    for dtype in ("float32", "bfloat16"):
        config = OptimizerConfig(learning_rate=1e-2, moments_dtype=dtype)
        optimizer = make_optimizer(config, 20)
        state, weights = optimizer.init(start), start
        for n in range(20):
            grads = jax.tree.map(lambda w, n=n: jnp.sin(3 * w + n), weights)
            updates, state = optimizer.update(grads, state, weights)
            weights = jax.tree.map(jnp.add, weights, updates)
        ends[dtype] = np.concatenate([np.ravel(a) for a in jax.tree.leaves(weights)])
        assert {a.dtype for a in jax.tree.leaves(state) if a.ndim} == {jnp.dtype(dtype)}
    moved = np.abs(ends["float32"] - np.concatenate([np.ravel(a) for a in jax.tree.leaves(start)]))
    np.testing.assert_allclose(ends["bfloat16"], ends["float32"], atol=0.05 * moved.max())


@pytest.mark.parametrize("name", ["b1", "b2"])
def test_moments_in_bfloat16_need_to_move(name):
    said = rf"optimizer\.{name}=0\.999.*set optimizer\.{name}=0\.99"
    with pytest.raises(ValueError, match=said):
        OptimizerConfig(**{"moments_dtype": "bfloat16", "b2": 0.95, name: 0.999})

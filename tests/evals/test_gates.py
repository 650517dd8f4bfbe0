"""Each gate passes on a sound model and fails on one broken in what it looks at."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import bases
from psann_jax.evals import gates, gates_kernels, gates_run
from psann_jax.evals.gates import FAIL, PASS, SKIPPED, WARN
from psann_jax.model import LM
from psann_jax.nn.hybrid import Hybrid

V = 32
TOKENS = np.random.default_rng(0).integers(0, V, (2, 16)).astype(np.int32)
TARGETS = np.roll(TOKENS, -1, axis=1)


@pytest.fixture(scope="module")
def base():
    return bases.preset("1M", vocab_size=V, d_model=32, n_layers=2, n_heads=2, dtype="float32")


@pytest.fixture
def model(base):
    return LM(base, rngs=nnx.Rngs(0))


def test_kernels_agree_here():
    gate = gates_kernels.kernels(length=300)
    assert gate.status == PASS, gate.said
    assert set(gate.figures) == {"wkv6", "ssd"}


@pytest.mark.parametrize("op", ["wkv6", "ssd"])
def test_a_wrong_kernel_fails(monkeypatch, op):
    right = getattr(gates_kernels, op)
    monkeypatch.setattr(gates_kernels, op, lambda *a: jax.tree.map(lambda y: 1.001 * y, right(*a)))
    assert gates_kernels.kernels(length=20).status == FAIL


@pytest.mark.parametrize("op", ["wkv6", "ssd"])
def test_a_kernel_that_loses_a_state_or_a_reset_fails(monkeypatch, op):
    right = getattr(gates_kernels, op)

    def forgets(*a):
        return right(*a[:-2], jnp.zeros_like(a[-2]), a[-1])

    def ignores(*a):
        return right(*a[:-1], jnp.zeros_like(a[-1]))

    for wrong in (forgets, ignores):
        monkeypatch.setattr(gates_kernels, op, wrong)
        assert gates_kernels.kernels(length=20).status == FAIL


def test_a_causal_model_passes_forward(model):
    gate = gates.forward(model, TOKENS)
    assert gate.status == PASS, gate.said


def test_a_model_that_sees_the_future_fails_forward(model):
    class Peeking(nnx.Module):
        def __init__(self, mixer):
            self.mixer = mixer

        def __call__(self, x, seq, state=None):
            y, state = self.mixer(x, seq, state)
            return y + 0.1 * jnp.flip(x, axis=1), state

        def init_state(self, *size):
            return self.mixer.init_state(*size)

    stack = model.stack.unrolled()
    stack.layers[0][1].mixer = Peeking(stack.layers[0][1].mixer)
    model.stack = _Always(stack)
    gate = gates.forward(model, TOKENS)
    assert gate.status == FAIL
    assert gate.figures["leak"] > 1e-3


class _Always(nnx.Module):
    """Layers apart, with states or without."""

    def __init__(self, stack):
        self.stack = stack

    def __call__(self, x, seq, states=None):
        if states is not None:
            return self.stack(x, seq, states)
        for row in self.stack.layers:
            for sublayer in row:
                x, _ = sublayer(x, seq)
        return x, None

    def init_state(self, *size):
        return self.stack.init_state(*size)


def test_a_model_that_forgets_its_state_fails_forward(model, monkeypatch):
    whole = Hybrid.__call__

    def forgetful(self, x, seq, state=None):
        y, new = whole(self, x, seq, state)
        return y, None if state is None else jax.tree.map(jnp.zeros_like, new)

    monkeypatch.setattr(Hybrid, "__call__", forgetful)
    jax.clear_caches()
    gate = gates.forward(model, TOKENS)
    jax.clear_caches()
    assert gate.status == FAIL
    assert gate.figures["leak"] == 0
    assert gate.figures["stepwise"] > 1e-3


def test_not_a_number_fails_forward(model):
    model.norm.scale[...] = model.norm.scale[...].at[0].set(jnp.nan)
    gate = gates.forward(model, TOKENS)
    assert gate.status == FAIL
    assert "not finite" in gate.said


def test_a_fresh_model_passes_entropy(model):
    gate = gates.entropy(model, TOKENS, TARGETS)
    assert gate.status == PASS, gate.said


@pytest.mark.parametrize(("scale", "status"), [(15.0, WARN), (500.0, FAIL)])
def test_a_model_that_is_sure_of_itself_before_training_does_not_pass(model, scale, status):
    model.embed.table[...] = scale * model.embed.table[...]
    assert gates.entropy(model, TOKENS, TARGETS).status == status


def _rows(losses, norm=1.0, every=10):
    steps = range(every, every * len(losses) + 1, every)
    pairs = zip(steps, losses, strict=True)
    return [{"step": s, "loss": x, "grad_norm": norm} for s, x in pairs]


FALLING = list(np.linspace(3.4, 2.0, 30))


@pytest.mark.parametrize(
    ("losses", "norm", "status"),
    [
        (FALLING, 1.0, PASS),
        (FALLING, 0.1, WARN),
        (FALLING, 2.0, WARN),
        (FALLING, 6.0, FAIL),
        (FALLING[::-1], 1.0, FAIL),
        ([3.4] * 30, 1.0, FAIL),
        (list(np.linspace(3.4, 3.1, 30)), 1.0, FAIL),  # no better than counting letters
        ([*FALLING[:-1], float("nan")], 1.0, FAIL),
        (FALLING[:1], 1.0, SKIPPED),
    ],
)
def test_training_must_fall_below_the_unigrams_with_a_bounded_gradient(losses, norm, status):
    assert gates_run.training(_rows(losses, norm), unigram=3.0).status == status


def test_steps_that_were_skipped_are_told_and_do_not_fail_training():
    rows = _rows(FALLING)
    for row in rows[:2]:
        row["grad_norm"] = float("nan")
    gate = gates_run.training(rows, unigram=3.0)
    assert gate.status == WARN
    assert "2 steps were skipped" in gate.said
    assert gate.figures["grad_norm"] == 1.0
    assert gates_run.training(_rows(FALLING, float("nan")), unigram=3.0).status == FAIL
    unseen = [{**row, "skipped_steps": 3} for row in _rows(FALLING)]  # between the logged ones
    assert "3 steps were skipped" in gates_run.training(unseen, unigram=3.0).said


@pytest.mark.parametrize("part", [0, 1])
def test_a_kernel_of_which_one_number_is_none_fails(monkeypatch, part):
    """One that is not the first that is looked at, as the second state and its gradient are not."""
    right = gates_kernels.ssd

    def spoilt(*a):
        y, state = right(*a)
        nan = jnp.where(jnp.arange(state.shape[0])[:, None, None, None] == 1, jnp.nan, 1.0)
        return (y, state * nan) if part else (y + 0 * (state * nan).sum(), state)

    monkeypatch.setattr(gates_kernels, "ssd", spoilt)
    assert gates_kernels.kernels(length=20).status == FAIL


def test_a_state_that_is_no_number_fails(model, monkeypatch):
    real = gates._matrices

    def second_spoilt(state):
        first, *others = real(state)
        return [first, *(a * np.nan for a in others)]

    monkeypatch.setattr(gates, "_matrices", second_spoilt)
    gate = gates.states(model, TOKENS)
    assert gate.status == FAIL
    assert "nan" in gate.said


def test_states_of_different_texts_differ(model):
    gate = gates.states(model, TOKENS)
    assert gate.status in (PASS, WARN), gate.said


def test_states_that_say_nothing_of_the_text_fail(model, monkeypatch):
    monkeypatch.setattr(LM, "embedded", lambda self, tokens, seq: jnp.ones((*tokens.shape, 32)))
    jax.clear_caches()
    assert gates.states(model, TOKENS).status == FAIL
    jax.clear_caches()


def test_states_without_matrices_are_not_judged(waves):
    base = waves(vocab_size=V, d_model=16, n_layers=1, n_heads=2, dtype="float32")
    assert gates.states(LM(base, rngs=nnx.Rngs(0)), TOKENS).status == SKIPPED


def _balanced(ratio, every=10, n=10):
    rows = {"grad_rms_rwkv": ratio, "grad_rms_mamba": 1.0}
    return [{"step": every * (i + 1), **rows} for i in range(n)]


@pytest.mark.parametrize(
    ("ratio", "status"),
    [(1.0, PASS), (0.2, WARN), (5.0, WARN), (0.01, FAIL), (20.0, FAIL), (float("nan"), FAIL)],
)
def test_no_branch_may_starve(ratio, status):
    assert gates_run.balance(_balanced(ratio), ("rwkv", "mamba")).status == status


def test_balance_looks_at_the_last_fifty_steps_and_needs_as_many():
    rows = [*_balanced(100.0, n=5), *({**r, "step": r["step"] + 50} for r in _balanced(1.0, n=5))]
    gate = gates_run.balance(rows, ("rwkv", "mamba"))
    assert (gate.status, gate.figures["ratio"]) == (PASS, 1.0)
    assert gates_run.balance(_balanced(1.0, n=4), ("rwkv", "mamba")).status == SKIPPED
    assert gates_run.balance(_balanced(1.0), ()).status == SKIPPED

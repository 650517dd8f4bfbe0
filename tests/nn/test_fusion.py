"""Two branches joined: each formula, its start, what is dropped, what is reported."""

from functools import partial

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax.nn.fusion import FUSIONS, FusionConfig
from psann_jax.nn.hybrid import Hybrid
from psann_jax.nn.linear import Linear
from psann_jax.seq import Seq

D = 6
A, B = np.random.default_rng(0).standard_normal((2, 2, 3, D)).astype(np.float32)
SEQ = Seq(jnp.arange(3)[None])


class Scaled(nnx.Module):
    """A mixer of features that returns factor * x and counts calls in its state."""

    def __init__(self, d_model, *, factor, rngs):
        self.factor = factor

    def __call__(self, x, seq, state=None):
        return self.factor * x, None if state is None else state + 1

    def init_state(self, batch, max_len, dtype):
        return jnp.int32(self.factor)


def _fusion(name, **start):
    return FUSIONS[name][0](D, rngs=nnx.Rngs(0), **start)


def _hybrid(*, out_norm=False, dropout=(0.0, 0.0)):
    branches = {n: partial(Scaled, factor=f) for n, f in (("rwkv", 2.0), ("mamba", 3.0))}
    config = FusionConfig(gain_init=(0.5, 0.25), out_norm=out_norm, dropout=dropout)
    return Hybrid(D, **branches, config=config, rngs=nnx.Rngs(0))


def test_gains_scale_each_branch():
    np.testing.assert_allclose(_fusion("gains", start=(0.5, 0.2))(A, B), 0.5 * A + 0.2 * B, 1e-6)


@pytest.mark.parametrize("start", [0.3, 0.5, 0.7])
def test_a_gate_starts_at_its_share_for_every_token(start):
    expected = start * A + (1 - start) * B
    np.testing.assert_allclose(_fusion("gate", start=start)(A, B), expected, atol=1e-6)


def test_a_wide_gate_starts_near_its_share_in_every_feature():
    gate = _fusion("wide_gate", start=0.3).gate(A, B)
    assert gate.shape == A.shape
    np.testing.assert_allclose(gate, 0.3, atol=0.2)
    assert np.ptp(gate) > 0


@pytest.mark.parametrize(("name", "width"), [("gate", 1), ("wide_gate", D)])
def test_a_gate_is_the_sigmoid_of_both_branches(name, width):
    fusion = _fusion(name, start=0.6)
    kernel = jax.random.normal(jax.random.key(1), (2 * D, width))
    fusion.weigh.kernel[...] = kernel
    g = jax.nn.sigmoid(np.concatenate([A, B], -1) @ kernel + fusion.bias[...])
    np.testing.assert_allclose(fusion(A, B), g * A + (1 - g) * B, atol=1e-5)
    np.testing.assert_allclose(fusion.means(A, B)["gate"], np.mean(g), atol=1e-6)


def test_a_blend_is_one_number_that_may_leave_zero_to_one():
    fusion = _fusion("blend", start=0.5)
    fusion.share[...] = jnp.full((1,), 1.5)
    np.testing.assert_allclose(fusion(A, B), 1.5 * A - 0.5 * B, atol=1e-5)


def test_a_correction_adds_a_small_map_of_the_second():
    fusion = _fusion("correction")
    np.testing.assert_allclose(fusion(A, B), A + B @ fusion.turn.kernel[...], atol=1e-6)
    assert 0.002 < float(jnp.std(fusion.turn.kernel[...])) < 0.03


def test_a_projection_maps_both():
    fusion = _fusion("projection")
    expected = np.concatenate([A, B], -1) @ fusion.join.kernel[...]
    np.testing.assert_allclose(fusion(A, B), expected, atol=1e-5)


@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_keeps_the_dtype_and_reports_finite_means(name):
    fusion = FusionConfig(kind=name).make(D, rngs=nnx.Rngs(0))
    a, b = (jnp.asarray(x, jnp.bfloat16) for x in (A, B))
    assert fusion(a, b).dtype == jnp.bfloat16
    means = fusion.means(a, b)
    assert set(means) in ({"gate"}, {"gain_a", "gain_b"})
    assert all(np.isfinite(v) and np.shape(v) == () for v in means.values())
    # Padding, whatever is in it, is left out.
    real = jnp.arange(a.shape[1])[None, :, None] < a.shape[1] - 1
    spoilt = [jnp.where(real, x, 100 * x) for x in (a, b)]
    ours, theirs = fusion.means(*spoilt, real), fusion.means(a[:, :-1], b[:, :-1])
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-2)


def test_a_hybrid_feeds_both_the_same_input_and_keeps_both_states():
    y, state = _hybrid()(A, SEQ, (jnp.int32(0), jnp.int32(7)))
    np.testing.assert_allclose(y, (0.5 * 2 + 0.25 * 3) * A, atol=1e-5)
    assert [int(s) for s in state] == [1, 8]
    assert _hybrid()(A, SEQ)[1] is None


def test_out_norms_make_branches_equally_loud():
    (a, b), _ = _hybrid(out_norm=True).branches(A, SEQ)
    np.testing.assert_allclose(a, b, atol=1e-4)
    np.testing.assert_allclose(np.mean(np.square(a), -1), 1.0, atol=1e-3)


def test_branch_dropout_silences_a_branch_for_whole_rows_in_training_alone():
    hybrid, x = _hybrid(dropout=(0.5, 0.0)), np.ones((64, 3, D), np.float32)
    y, _ = hybrid(x, Seq(jnp.arange(3)[None], None, jax.random.key(0)))
    rows = {round(float(v), 4) for v in np.unique(y)}
    assert rows == {0.75, 2.75}  # mamba alone; with rwkv at twice its weight
    assert all(len(np.unique(row)) == 1 for row in y)
    np.testing.assert_allclose(hybrid(x, Seq(jnp.arange(3)[None]))[0], 1.75, atol=1e-6)


def test_fusions_are_cut_over_a_mesh_by_their_features():
    for name in ("projection", "correction"):
        matrices = [m for _, m in nnx.iter_modules(_fusion(name)) if isinstance(m, Linear)]
        assert [m.kernel.get_metadata()["axes"] for m in matrices] == [("heads", "embed")]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "sum"}, "base.fusion.kind='sum' must be one of gains, gate"),
        ({"gate_init": 0.4}, "fusion.gate_init=0.4 has no effect with base.fusion.kind='gains'"),
        ({"kind": "blend", "gain_init": (1.0, 0.0)}, "gain_init=.* has no effect"),
        ({"kind": "gate", "gate_init": 1.0}, r"gate_init=1.0 must be in \[0.01, 0.99\]"),
        ({"dropout": (0.0, 1.0)}, r"base.fusion.dropout=\(0.0, 1.0\)"),
        ({"gain_init": (0.5, float("nan"))}, "gain_init=.*finite"),
        ({"gain_init": (0.5,)}, r"gain_init=\(0.5,\) must be two finite .* as \(0.5, 0.5\)"),
        ({"gain_init": 0.5}, "gain_init=0.5 must be two finite numbers"),
        ({"dropout": (0.1,)}, r"dropout=\(0.1,\) must be two shares .* as \(0.1, 0.0\)"),
        ({"dropout": ("a", 0)}, "dropout=.* must be two shares"),
    ],
)
def test_a_bad_field_is_named(fields, said):
    with pytest.raises(ValueError, match=said):
        FusionConfig(**fields)


def test_a_list_is_as_good_as_a_tuple():
    assert FusionConfig(kind="gate", gain_init=[0.5, 0.5]) == FusionConfig(kind="gate")
    assert FusionConfig(dropout=[0.1, 0.0]).dropout == (0.1, 0.0)

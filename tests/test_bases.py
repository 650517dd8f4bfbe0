"""What every base must be: causal, the same in all its forms, blind across documents."""

import dataclasses
import functools
from pathlib import Path
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import bases, sharding
from psann_jax.infer.decode import decoding_model
from psann_jax.model import LM, trainable, with_trained
from psann_jax.nn.mamba2 import Mamba2Config
from psann_jax.nn.mixed import MixedConfig
from psann_jax.nn.sine import SineConfig
from psann_jax.nn.sparse import GeometryConfig
from psann_jax.seq import Batch, Seq
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import init_state
from psann_jax.train.step import jit_train_step, loss_fn

OWN_BASE = Path(__file__).parent.parent / "docs" / "own_base.md"
BASES = bases.names()
# The documented base of a user's own, as a notebook cell defines it.
exec(re.search(r"```python\n(.*?)```", OWN_BASE.read_text(), re.DOTALL)[1], {"__name__": "cell"})  # noqa: S102
SIZES = {"vocab_size": 32, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}
B, T = 2, 12
TOLERANCE = 2e-5  # float32 sums in another order, through two layers
VARIANTS = {
    **{name: (name, {}) for name in (*BASES, "gated_sine")},
    "respsann-alibi": ("respsann", {"positional_encoding": "alibi"}),
    "waveresnet-sinusoidal": ("waveresnet", {"positional_encoding": "sinusoidal"}),
    "waveresnet-dilated": ("waveresnet", {"dilation_growth": 3, "kernel": 4}),
    "waveresnet-replace": ("waveresnet", {"wave": "replace"}),
    "waveresnet-off": ("waveresnet", {"wave": "off"}),
    "transformer-alibi": ("transformer", {"positional_encoding": "alibi"}),
    "transformer-modern": ("transformer", {"norm": "rms", "mlp_activation": "swiglu"}),
    "respsann-no-norm": ("respsann", {"norm": "none", "mlp_activation": "tanh"}),
    "sgrpsann-short": ("sgrpsann", {"k_fft": 4, "gate_groups": "full", "gate_init": 1.0}),
    "sgrpsann-fourier": ("sgrpsann", {"k_fft": 7, "gate_type": "fourier_features"}),
    "mamba2-pure": ("mamba2", {"d_mlp": None}),
    "mamba2-groups": (
        "mamba2",
        {"n_heads": 4, "mamba": Mamba2Config(n_groups=2, d_state=8, dt_limit=(0.05, 0.5))},
    ),
    "geosparse-random": (
        "geosparse",
        {"geometry": GeometryConfig(pattern="random", k=3, depth=2, wrap_mode="wrap")},
    ),
    "geosparse-mixed": (
        "geosparse",
        {
            "mlp_activation": "mixed",
            "mixed": MixedConfig(types=("relu", "sine", "tanh"), ratios=(0.5, 0.3, 0.2)),
            "geometry": GeometryConfig(k=12, radius=2),
        },
    ),
}


def _perturbed(model):
    """Moves norms, biases, scales and sines off their start, so that each matters."""
    rng, weights = np.random.default_rng(1), trainable(model)
    moved = jax.tree.map(lambda a: a + 0.1 * rng.standard_normal(a.shape).astype("f"), weights)
    return with_trained(model, moved)


@jax.jit
def _gradients(model, batch):
    """Leaves of the gradient, in order."""
    loss = lambda weights: loss_fn(with_trained(model, weights), batch)  # noqa: E731
    return jax.tree.leaves(jax.grad(loss)(trainable(model)))


@functools.cache
def _made(variant, **options):
    name, fields = VARIANTS[variant]
    base = bases.get(name)(**{**SIZES, **fields}, dtype="float32", **options)
    return base, _perturbed(LM(base, rngs=nnx.Rngs(0)))


@jax.jit
def _logits(model, tokens, seq=None):
    return model(tokens, seq)[0]


@jax.jit
def _extend(model, tokens, seq, state):
    return model(tokens, seq, state)


@functools.cache
def _tokens(seed=0, shape=(B, T)):
    return np.random.default_rng(seed).integers(0, SIZES["vocab_size"], shape).astype(np.int32)


# What compiles long is asked of each base, and of one that stores tables with its weights.
PLAIN = (*BASES, "gated_sine", "geosparse-random")


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


def test_a_token_moves_no_logit_before_it(variant):
    _, model = _made(variant)
    tokens, changed = _tokens(), _tokens().copy()
    changed[:, 7] = (changed[:, 7] + 1) % SIZES["vocab_size"]
    before, after = _logits(model, tokens), _logits(model, changed)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.all(np.abs(before[:, 7] - after[:, 7]).max(-1) > 1e-4)


def test_prefill_and_decoding_one_by_one_equal_the_full_forward(variant):
    _, model = _made(variant)
    tokens, state = _tokens(), model.init_state(B, T)
    parts = []
    for start, end in ((0, 5), *((i, i + 1) for i in range(5, T))):
        logits, state = _extend(model, tokens[:, start:end], None, state)
        parts.append(logits)
    np.testing.assert_allclose(
        np.concatenate(parts, 1), _logits(model, tokens), atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("variant", PLAIN)
def test_the_weights_that_decoding_reads_give_the_same_logits_in_bfloat16(variant):
    name, fields = VARIANTS[variant]
    base = bases.get(name)(**{**SIZES, **fields}, dtype="bfloat16")
    like = jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))
    model = jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(_made(variant)[1]))

    @jax.jit
    def both(model, tokens):
        cast = decoding_model(model)
        model.stack = model.stack.unrolled()
        return [m(tokens, None, m.init_state(B, T))[0] for m in (model, cast)]

    np.testing.assert_array_equal(*both(model, _tokens()))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_prompts_decode_as_each_alone(variant, side):
    """Rows of 3 and 8 tokens in one prefill of 8, then two more tokens each."""
    _, model = _made(variant)
    tokens = _tokens()
    lengths, width = (3, 8), 8
    padded = np.zeros((B, width), np.int32)
    positions, segments = np.zeros_like(padded), np.zeros_like(padded)
    for row, n in enumerate(lengths):
        place = slice(width - n, None) if side == "left" else slice(0, n)
        padded[row, place] = tokens[row, :n]
        positions[row, place], segments[row, place] = np.arange(n), 1
    seq = Seq(jnp.asarray(positions), jnp.asarray(segments))
    _, state = _extend(model, padded, seq, model.init_state(B, width + 2))
    for step in range(2):
        now = np.stack([tokens[row, n + step] for row, n in enumerate(lengths)])[:, None]
        logits, state = _extend(model, now, None, state)
        full = _logits(model, tokens)
        for row, n in enumerate(lengths):
            np.testing.assert_allclose(logits[row, 0], full[row, n + step], atol=TOLERANCE, rtol=0)


def _packed():
    """Two documents of 5 and 4 tokens in one row of 12, the rest padding."""
    lengths = (5, 4)
    positions = np.concatenate([np.arange(n) for n in lengths] + [np.zeros(3)]).astype(np.int32)
    segments = np.repeat([1, 2, 0], [5, 4, 3]).astype(np.int32)
    return lengths, Seq(jnp.asarray(positions)[None], jnp.asarray(segments)[None])


def test_packed_documents_equal_each_alone(variant):
    _, model = _made(variant)
    tokens, (lengths, seq) = _tokens(shape=(1, T)), _packed()
    packed, start = _logits(model, tokens, seq), 0
    for n in lengths:
        alone = _logits(model, tokens[:, start : start + n])
        np.testing.assert_allclose(packed[:, start : start + n], alone, atol=TOLERANCE, rtol=0)
        start += n


def test_the_last_of_several_documents_in_a_prefill_goes_on(variant):
    _, model = _made(variant)
    tokens, (_, seq) = _tokens(shape=(1, T)), _packed()
    read = Seq(seq.positions[:, :8], seq.segments[:, :8])
    _, state = _extend(model, tokens[:, :8], read, model.init_state(1, 9))
    logits, _ = _extend(model, tokens[:, 8:9], None, state)
    expected = _logits(model, tokens, seq)[:, 8:9]
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("variant", PLAIN)
def test_packed_documents_have_no_gradient_into_each_other(variant):
    _, model = _made(variant, tie_embeddings=False)  # a head that reads the table moves it too
    tokens, (_, seq) = _tokens(shape=(1, T)), _packed()

    @jax.jit
    def second_document(table):
        changed = jax.tree.map(lambda a: a, model)
        changed.embed.table = nnx.Param(table, axes=("vocab", "embed"))
        return jnp.sum(changed(tokens, seq)[0][0, 5:9] ** 2)

    gradient = jax.grad(second_document)(model.embed.table[...])
    only_first = np.setdiff1d(tokens[0, :5], tokens[0, 5:9])
    assert only_first.size
    np.testing.assert_array_equal(gradient[only_first], 0)


def test_scanned_layers_equal_unrolled_ones(variant):
    _, model = _made(variant)
    _, scanned = _made(variant, scan_layers=True)
    np.testing.assert_allclose(
        _logits(scanned, _tokens()), _logits(model, _tokens()), atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("variant", PLAIN)
def test_scanned_gradients_equal_unrolled_ones(variant):
    batch, grads = _batch(B, T), []
    for scan in (False, True):
        _, model = _made(variant, scan_layers=scan)
        grads.append(_gradients(model, batch))
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4 * max(1.0, float(np.abs(b).max())), rtol=0)


def test_rematerialised_gradients_equal_saved_ones():
    batch, grads = _batch(B, T), []
    for remat in ("none", "dots", "full"):
        _, model = _made("waveresnet", remat=remat)
        grads.append(_gradients(model, batch))
    for none, dots, full in zip(*grads, strict=True):
        np.testing.assert_allclose(dots, none, atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(full, none, atol=1e-5, rtol=1e-4)


def _batch(rows, length):
    tokens = _tokens(seed=3, shape=(rows, length + 1))
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)).copy()
    segments = np.ones_like(positions)
    positions[:, length // 2 :] -= length // 2
    segments[:, length // 2 :] += 1
    weights = np.ones((rows, length), np.float32)
    weights[:, length // 2 - 1] = 0
    return Batch(tokens[:, :-1], tokens[:, 1:], weights, positions, segments)


@functools.cache
def _losses(name, mesh_shape):
    """Losses of three steps, with dropout and accumulation, on a mesh.

    Some bases have one layer, which compiles in half the time.
    """
    sizes = SIZES | {"n_layers": 2 if name in ("respsann", "geosparse", "rwkv6") else 1}
    options = {"drop_path": 0.2} if "drop_path" in vars(bases.get(name)) else {}
    base = bases.get(name)(**sizes, dtype="float32", dropout=0.1, **options)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, warmup_steps=0), 10)
    devices = jax.devices()[: int(np.prod(mesh_shape))]
    mesh = sharding.make_mesh(*mesh_shape, devices=devices)
    with jax.set_mesh(mesh):
        state, where = init_state(lambda r: LM(base, rngs=r), optimizer, mesh, seed=0)
        step = jit_train_step(optimizer, where)
        batch = jax.tree.map(lambda a: a.reshape(2, 8, T), _batch(16, T))
        batch = jax.device_put(batch, sharding.batch_sharding(mesh, leading=1))
        losses = []
        for _ in range(3):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
    return losses, state.model


# A mesh with all three axes for every base, and each axis alone for two of them.
MESHES = [(name, (2, 2, 2)) for name in BASES] + [
    (name, mesh) for name in ("respsann", "sgrpsann") for mesh in ((8, 1, 1), (1, 8, 1))
]


@pytest.mark.mesh
@pytest.mark.parametrize(("name", "mesh"), MESHES, ids=str)
def test_meshes_train_as_one_device(name, mesh):
    one, model = _losses(name, (1, 1, 1))
    many, sharded = _losses(name, mesh)
    np.testing.assert_allclose(many, one, atol=2e-5, rtol=0)
    assert one[0] > one[-1]
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(sharded), strict=True):
        # Adam's first steps are lr * sign(g): a gradient near zero may flip under rounding.
        assert np.mean(np.abs(np.asarray(a) - np.asarray(b)) > 1e-4) < 0.01


@pytest.mark.mesh
@pytest.mark.parametrize("name", BASES)
def test_fsdp_spreads_weights_and_moments(name):
    base = bases.get(name)(**SIZES)
    optimizer = make_optimizer(OptimizerConfig(), 10)
    mesh = sharding.make_mesh(1, 8, 1)
    state, _ = init_state(lambda r: LM(base, rngs=r), optimizer, mesh, seed=0)
    for tree in (state.model, state.opt_state[1][0].mu):
        kernel = max(jax.tree.leaves(tree.stack.layers[0].mixer), key=lambda a: a.size)
        assert kernel.addressable_shards[0].data.size * 8 == kernel.size


def test_a_base_of_ones_own_is_known_by_its_name():
    @bases.register("a_test_base")
    @dataclasses.dataclass(kw_only=True)
    class Own(bases.ResPSANN):
        def pattern(self):
            return ((self.mlp(), self.residual(self.attention())),)

    assert bases.get("a_test_base") is Own
    with pytest.raises(ValueError, match="already"):
        bases.register("a_test_base")(bases.ResPSANN)


def test_a_cell_run_twice_leaves_its_first_models_usable():
    def cell():
        @bases.register("a_base_run_twice")
        @dataclasses.dataclass(kw_only=True)
        class Twice(bases.ResPSANN):
            pass

        return Twice()

    first, _ = cell(), cell()
    assert bases.to_tree(first)["name"] == "a_base_run_twice"


def test_an_unknown_base_names_the_nearest_and_all():
    with pytest.raises(ValueError, match="waveresnet.*known: .*respsann"):
        bases.get("wavresnet")


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("respsann", {"d_model": 36, "n_heads": 8}, "d_model=36.*n_heads=8.*n_heads=9"),
        ("respsann", {"d_model": 12, "n_heads": 4}, "head size.*3 is odd"),
        ("respsann", {"n_layers": 0}, "base.n_layers=0"),
        ("respsann", {"positional_encoding": "rotary"}, "rope, alibi, sinusoidal"),
        ("respsann", {"dtype": "float8"}, "base.dtype='float8'"),
        ("respsann", {"dropout": 1.0}, r"base.dropout=1.0 must be in \[0, 1\)"),
        ("respsann", {"remat": "some"}, "base.remat='some'"),
        ("transformer", {"mlp_activation": "sine"}, "gelu, relu, tanh"),
        ("waveresnet", {"wave": "on"}, "interleave"),
        ("waveresnet", {"kernel": 0}, "base.kernel=0"),
        ("respsann", {"alpha_init": float("nan")}, "base.alpha_init=nan must be a finite"),
        ("mamba2", {"n_heads": 15}, "base.n_heads=15 does not divide .* = 1024; n_heads=16 does"),
        ("mamba2", {"mamba": Mamba2Config(head_dim=32)}, "head_dim=32 and base.n_heads=16 do not"),
        (
            "mamba2",
            {"positional_encoding": "rope"},
            "positional_encoding='rope' must be one of none",
        ),
        ("geosparse", {"geometry": GeometryConfig(k=33)}, "k=33 is more than base.d_mlp=32"),
        (
            "geosparse",
            {"mlp_activation": "gelu", "sine": SineConfig(frequency=2.0)},
            "no effect with base.mlp_activation='gelu'",
        ),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_what_is_allowed(name, fields, said):
    with pytest.raises(ValueError, match=said):
        bases.get(name)(**{"d_mlp": 32, **fields})

"""What a token sees, what a state holds, and what layers are made of."""

from flax import nnx
import jax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import psannLM
from psann_jax.infer.decode import generate
from psann_jax.infer.sampling import Sampling
from psann_jax.interop.folder import SavedModel, load_folder, save_folder
from psann_jax.model import LM
from psann_jax.nn.sine import Sine, SineConfig
from psann_jax.nn.wave import Wave
from psann_jax.ops.attention import alibi_bias, attention
from psann_jax.seq import Seq
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import named_arrays

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}
TOLERANCE = 2e-5  # float32 sums in another order, through two layers
WAVES = [{"kernel": 4, "dilation_growth": 3}, {"wave": "replace"}]
GATES = [{"k_fft": 4, "gate_groups": "full"}, {"k_fft": 16}]  # shorter and longer than the text


def _assert_causal(forward, model, tokens):
    changed = tokens.copy()
    changed[:, 7] = (changed[:, 7] + 1) % 32
    before, after = forward(model, tokens), forward(model, changed)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.abs(before[:, 7:] - after[:, 7:]).max() > 1e-2


def _assert_decodes(forward, extend, model, tokens):
    """A prefill of 5 tokens and single ones after it equal the full forward."""
    state, parts = model.init_state(*tokens.shape), []
    for start, end in ((0, 5), *((i, i + 1) for i in range(5, tokens.shape[1]))):
        logits, state = extend(model, tokens[:, start:end], state)
        parts.append(logits)
    full = forward(model, tokens)
    np.testing.assert_allclose(np.concatenate(parts, 1), full, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("options", WAVES, ids=str)
def test_d01_the_wave_sees_no_future(moved, forward, tokens, options):
    _assert_causal(forward, moved("waveresnet", **options), tokens)


@pytest.mark.parametrize("options", WAVES, ids=str)
def test_d02_the_cached_wave_is_the_full_forward(moved, forward, extend, tokens, options):
    _assert_decodes(forward, extend, moved("waveresnet", **options), tokens)


@pytest.mark.parametrize("options", GATES, ids=str)
def test_d03_the_spectral_gate_sees_no_future(moved, forward, tokens, options):
    _assert_causal(forward, moved("sgrpsann", **options), tokens)


@pytest.mark.parametrize("options", GATES, ids=str)
def test_d03_the_cached_spectral_gate_is_the_full_forward(moved, forward, extend, tokens, options):
    _assert_decodes(forward, extend, moved("sgrpsann", **options), tokens)


def test_d03_a_text_that_goes_on_moves_no_gate_before(tiny, forward, tokens):
    """At its start too, where the mask is the same at every frequency and k_fft is short."""
    model = tiny("sgrpsann", k_fft=4)
    short, long = forward(model, tokens[:, :7]), forward(model, tokens)
    np.testing.assert_allclose(long[:, :7], short, atol=TOLERANCE, rtol=0)


def test_d04_two_generations_in_turns_are_those_apart(moved, forward, extend, tokens):
    model = moved("waveresnet")
    states, said = [model.init_state(1, 12) for _ in range(2)], [[], []]
    for t in range(tokens.shape[1]):
        for i in range(2):
            logits, states[i] = extend(model, tokens[i : i + 1, t : t + 1], states[i])
            said[i].append(logits)
    full = forward(model, tokens)
    for i in range(2):
        np.testing.assert_allclose(np.concatenate(said[i], 1)[0], full[i], atol=TOLERANCE, rtol=0)


def test_d04_one_state_can_be_continued_in_two_ways(moved, extend, tokens):
    model = moved("waveresnet")
    _, state = extend(model, tokens[:, :5], model.init_state(2, 12))
    first, _ = extend(model, tokens[:, 5:6], state)
    extend(model, tokens[:, 9:10], state)
    again, _ = extend(model, tokens[:, 5:6], state)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("asked", [{"wave_replace": True}, {"wave": "replace"}], ids=str)
def test_d05_a_wave_in_the_mlps_place_keeps_the_stream(asked):
    lm = psannLM(vocab_size=8, dtype="float32", **asked, **SIZES)
    _, wave = LM(lm.config, rngs=nnx.Rngs(0)).stack.unrolled().layers[0]
    x, seq = jax.random.normal(jax.random.key(0), (1, 4, 16)), Seq(jnp.arange(4)[None])
    assert isinstance(wave.mixer, Wave)
    assert np.abs(wave(x, seq)[0] - x).max() > 1e-2
    wave.mixer = jax.tree.map(jnp.zeros_like, wave.mixer)
    np.testing.assert_array_equal(wave(x, seq)[0], x)


def test_d23_sines_scales_norms_and_biases_do_not_decay(tiny):
    model = tiny("waveresnet")
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.5, warmup_steps=0), 10)

    @jax.jit
    def decay(model):
        ones, zeros = (jax.tree.map(f, model) for f in (jnp.ones_like, jnp.zeros_like))
        return optimizer.update(zeros, optimizer.init(ones), ones)[0]

    moves = {name: bool(np.any(a)) for name, a in named_arrays(decay(model)).items()}
    for name in ("act/amplitude", "act/frequency", "act/damping", "alpha", "scale", "bias"):
        found = [moves[n] for n in moves if n.endswith(name)]
        assert found and not any(found), name
    assert all(moves[n] for n in moves if n.endswith("kernel"))


def test_d23_a_sine_starts_at_large_values_and_refuses_those_that_are_none():
    config = SineConfig(amplitude=1e4, frequency=100.0, damping=1e30)
    sine = Sine(3, config, axis="mlp", rngs=nnx.Rngs(0))
    for value, wanted in zip(sine.values(), (1e4, 100.0, 1e30), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-6)
    with pytest.raises(ValueError, match=r"sine\.frequency=nan"):
        SineConfig(frequency=float("nan"))


def test_d23_alibi_in_bfloat16_tells_far_tokens_apart():
    """Neighbours 300 tokens back differ by the factor of one slope, where bfloat16 sees pairs."""
    length, slope = 300, 0.25
    q = jnp.zeros((1, length, 1, 4), jnp.bfloat16)
    v = jnp.eye(length, 4, dtype=jnp.bfloat16)[None, :, None]  # [B, T, H, K]
    weights = attention(q, q, v, slopes=(slope,))[0, -1, 0].astype(np.float32)
    np.testing.assert_allclose(weights[1:] / weights[:-1], np.exp(slope), rtol=0.01)
    bias = alibi_bias((slope,), jnp.full((1, 1), 299), jnp.arange(4)[None])[0, 0, 0]
    np.testing.assert_array_equal(np.diff(bias), slope)


def test_d24_a_given_state_is_never_ignored(moved, forward, extend, tokens):
    model = moved("respsann")
    _, state = extend(model, tokens[:, :6], model.init_state(2, 12))
    continued, _ = extend(model, tokens[:, 6:], state)
    full, alone = forward(model, tokens)[:, 6:], forward(model, tokens[:, 6:])
    np.testing.assert_allclose(continued, full, atol=TOLERANCE, rtol=0)
    assert np.abs(continued - alone).max() > 1e-2


def _shapes(jaxpr):
    """Shapes of every intermediate of a program, those of its inner programs too."""
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars if hasattr(v.aval, "shape"))
        for inner in jaxprs_in_params(equation.params):
            yield from _shapes(inner)


@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_d26_a_decoded_token_costs_no_square_of_the_context(tiny, position):
    model, context = tiny("respsann", positional_encoding=position), 67
    state = jax.eval_shape(lambda: model.init_state(1, context))
    step = jax.make_jaxpr(lambda token, state: model(token, None, state))
    program = step(jnp.zeros((1, 1), jnp.int32), state)
    squares = [s for s in _shapes(program.jaxpr) if s.count(context) > 1]
    assert not squares
    after = jax.eval_shape(lambda t, s: model(t, None, s)[1], jnp.zeros((1, 1), jnp.int32), state)
    assert after == state  # filled in place, not grown


def test_d26_training_holds_no_square_of_the_length(tiny):
    model, length = tiny("respsann", positional_encoding="alibi"), 2053
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
    program = jax.make_jaxpr(jax.grad(lambda m, ids: m(ids)[0].sum()))(model, ids)
    assert not [s for s in _shapes(program.jaxpr) if s.count(length) > 1]


def test_d26_generation_reads_the_prompt_once(tiny, monkeypatch):
    """Compiled are one call on the prompt, and one on a single token."""
    widths, features = [], LM.features

    def spy(self, tokens, *rest):
        widths.append(tokens.shape[1])
        return features(self, tokens, *rest)

    monkeypatch.setattr(LM, "features", spy)
    generate(
        tiny("respsann", vocab_size=31), [[1, 2]], max_new_tokens=40, sampling=Sampling(top_p=None)
    )
    assert sorted(widths) == [1, 16]  # a prompt is padded to a power of two, at least 16


def test_d27_layouts_and_graphs_differ_by_layer_and_are_saved(tmp_path):
    options = {"geosparse_pattern": "random", "geosparse_activation": "mixed"}
    base = psannLM(base="geosparse", vocab_size=8, **options, **SIZES).config
    model = LM(base, rngs=nnx.Rngs(3))
    save_folder(tmp_path, SavedModel(base, model, None, 8))
    loaded = load_folder(tmp_path).model

    def tables(model):
        pair = model.stack.layers[1].mixer.blocks[0].mixer
        return pair.choice[...], pair.act.order[...]

    for kept, table in zip(tables(loaded), tables(model), strict=True):
        assert not np.array_equal(table[0], table[1])  # of two layers
        np.testing.assert_array_equal(kept, table)


@pytest.mark.parametrize("base", ["respsann", "waveresnet", "sgrpsann"])
def test_d19_packed_documents_do_not_attend_to_each_other(moved, forward, tokens, base):
    positions = np.concatenate([np.arange(7), np.arange(5)])[None].astype(np.int32)
    segments = np.repeat([1, 2], [7, 5])[None].astype(np.int32)
    seq = Seq(jnp.asarray(positions), jnp.asarray(segments))
    other = tokens.copy()
    other[:, :7] = tokens[::-1, :7]
    model = moved(base)
    before, after = (forward(model, t, seq) for t in (tokens, other))
    np.testing.assert_array_equal(before[:, 7:], after[:, 7:])
    assert np.abs(before[:, :7] - after[:, :7]).max() > 1e-2

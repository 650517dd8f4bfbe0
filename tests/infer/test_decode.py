"""Generation: each row as if it were alone, up to its end and no further."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import bases
from psann_jax.infer import decode
from psann_jax.infer.decode import _generate, _rounded, decoding_model, generate, prefill
from psann_jax.infer.sampling import Sampling

GREEDY = Sampling(temperature=0)
PROMPTS = [[3, 1, 4], [1] * 9, [5], [9, 2, 6, 5, 3, 5, 8, 9, 7]]
NEW = 6


@functools.cache
def _model(make, name, **options):
    """Weights large enough that no two tokens tie for the first place."""
    model = make(name, **options)
    leaves, tree = jax.tree.flatten(model)
    rng = np.random.default_rng(2)
    moved = [a + 0.3 * rng.standard_normal(a.shape).astype("f") for a in leaves]
    return tree.unflatten(moved)


@jax.jit
def _next(model, tokens, n):
    return jnp.argmax(model(tokens)[0][0, n - 1])


def _by_hand(model, prompt):
    """Greedy continuation, the whole text read again for each token."""
    row = list(prompt)
    for _ in range(NEW):
        padded = np.zeros((1, 16), np.int32)
        padded[0, : len(row)] = row
        row.append(int(_next(model, padded, len(row))))
    return row[len(prompt) :]


@pytest.mark.parametrize("name", bases.names())
def test_a_batch_of_mixed_lengths_equals_each_prompt_read_anew(tiny, name):
    model = _model(tiny, name)
    together = generate(model, PROMPTS, max_new_tokens=NEW, sampling=GREEDY)
    assert together == [_by_hand(model, p) for p in PROMPTS]
    assert len({tuple(row) for row in together}) > 1


LONG = np.random.default_rng(3).integers(0, 32, (4, 32)).astype(np.int32)
LENGTHS = np.array([3, 31, 16, 9], np.int32)  # of chunks of 8: not begun, begun in, or between


def _long():
    """The first LENGTHS tokens of LONG, padded on the left."""
    rows = zip(LONG, LENGTHS, strict=True)
    return np.stack([np.roll(row, -n) * (np.arange(32) >= 32 - n) for row, n in rows])


@pytest.mark.parametrize(
    "name", ["transformer", "respsann-alibi", "waveresnet", "sgrpsann", "rwkv6", "mamba2"]
)
def test_a_prompt_read_in_chunks_says_what_the_whole_one_does(tiny, name, monkeypatch):
    monkeypatch.setattr(decode, "CHUNK", 8)
    name, *alibi = name.split("-")
    model = _model(tiny, name, **({"positional_encoding": "alibi"} if alibi else {}))

    @jax.jit
    def two(model, tokens, lengths, then):
        model = decoding_model(model)
        first, state = prefill(model, tokens, lengths, model.init_state(4, 33))
        return jnp.stack([first, model(then[:, None], None, state)[0][:, 0]], 1)

    then = LONG[np.arange(4), LENGTHS]
    found = two(model, _long(), LENGTHS, then)
    full = jax.jit(lambda model, tokens: model(tokens)[0])(model, LONG)
    for row, n in enumerate(LENGTHS):
        # float32 sums in another order; the logits are of size 1 to 10
        np.testing.assert_allclose(found[row], full[row, n - 1 : n + 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", bases.names())
def test_every_base_takes_its_states_from_chunk_to_chunk(tiny, name, dtype):
    model = tiny(name, dtype=dtype)
    state = jax.eval_shape(lambda: model.init_state(2, 2048))
    tokens, lengths = np.zeros((2, 1536), np.int32), np.ones((2,), np.int32)
    after = jax.eval_shape(prefill, decoding_model(model), tokens, lengths, state)[1]
    assert jax.tree.map(lambda a: a.dtype, after) == jax.tree.map(lambda a: a.dtype, state)


def test_what_attention_scores_of_a_long_prompt_is_never_whole(tiny):
    model, n = decoding_model(tiny("transformer")), 2048
    state = jax.eval_shape(lambda: model.init_state(1, n))
    tokens, lengths = np.zeros((1, n), np.int32), np.ones((1,), np.int32)
    program = jax.jit(prefill).lower(model, tokens, lengths, state).compile()
    assert program.memory_analysis().temp_size_in_bytes < 2 * n * n * 4  # of two heads


def test_prompts_are_read_in_equal_chunks():
    assert {n: decode._chunks(n) for n in (16, 512, 768, 1024, 1536, 2048, 3072)} == {
        16: 1,
        512: 1,
        768: 2,
        1024: 2,
        1536: 3,
        2048: 4,
        3072: 6,
    }


@pytest.fixture(scope="module")
def greedy(tiny):
    """The model, and what it says after PROMPTS when nothing ends a row."""
    model = _model(tiny, "respsann")
    return model, generate(model, PROMPTS, max_new_tokens=NEW, sampling=GREEDY)


@pytest.mark.parametrize("name", ["waveresnet-dilated", "respsann-alibi", "respsann-sinusoidal"])
def test_positions_and_dilations_decode_in_batches_too(tiny, name):
    options = {
        "waveresnet-dilated": {"dilation_growth": 3},
        "respsann-alibi": {"positional_encoding": "alibi"},
        "respsann-sinusoidal": {"positional_encoding": "sinusoidal"},
    }[name]
    model = _model(tiny, name.split("-")[0], **options)
    two = [PROMPTS[0], PROMPTS[3]]
    together = generate(model, two, max_new_tokens=NEW, sampling=GREEDY)
    assert together == [_by_hand(model, p) for p in two]


def test_lengths_are_rounded_to_few_that_waste_a_third_at_most():
    rounded = [_rounded(n) for n in range(33, 2000)]
    assert sorted(set(rounded)) == [64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048]
    assert all(n <= r <= 2 * n for n, r in zip(range(33, 2000), rounded, strict=True))
    assert all(r < 1.5 * n for n, r in zip(range(65, 2000), rounded[32:], strict=True))


def test_a_row_ends_before_its_eos_and_the_others_go_on(greedy):
    model, free = greedy
    eos = free[0][2]
    ended = generate(model, PROMPTS, max_new_tokens=NEW, sampling=GREEDY, eos_id=eos)
    assert ended == [row[: row.index(eos)] if eos in row else row for row in free]
    assert len(ended[0]) == free[0].index(eos) < NEW


def test_a_row_that_ends_at_once_is_empty(greedy):
    model, free = greedy
    ended = generate(model, PROMPTS, max_new_tokens=NEW, sampling=GREEDY, eos_id=free[1][0])
    assert ended[1] == []


@pytest.mark.parametrize("n", [1, 5, 6])
def test_no_row_is_longer_than_asked(greedy, n):
    model, free = greedy
    short = generate(model, PROMPTS, max_new_tokens=n, sampling=GREEDY)
    assert short == [row[:n] for row in free]


def test_rows_do_not_see_each_other(greedy):
    model, free = greedy
    changed = [PROMPTS[0], [7, 7], PROMPTS[2], [1, 2, 3]]
    other = generate(model, changed, max_new_tokens=NEW, sampling=GREEDY)
    assert other[0] == free[0]
    assert other[2] == free[2]


@pytest.fixture(scope="module")
def drawn(greedy):
    """Draws of seeds 0, 0 again, and 1."""
    return [
        generate(greedy[0], PROMPTS, max_new_tokens=NEW, sampling=Sampling(seed=s, top_p=None))
        for s in (0, 0, 1)
    ]


def test_the_same_seed_draws_the_same(drawn):
    assert drawn[0] == drawn[1]


def test_another_seed_draws_otherwise(drawn):
    assert drawn[0] != drawn[2]


def test_another_seed_compiles_nothing(greedy, drawn):
    before = _generate._cache_size()
    sampling = Sampling(seed=99, top_p=None)
    generate(greedy[0], PROMPTS, max_new_tokens=NEW, sampling=sampling)
    assert _generate._cache_size() == before


def test_equal_prompts_in_one_batch_draw_differently(greedy):
    # A flat distribution over 32 tokens: six equal draws have probability 1e-9.
    sampling = Sampling(temperature=100.0, top_p=None)
    rows = generate(greedy[0], [[3]] * 4, max_new_tokens=NEW, sampling=sampling)
    assert rows[0] != rows[1]


def test_penalty_counts_the_prompt_and_what_was_generated(greedy):
    """So large a penalty repeats nothing, be it of the prompt or its own."""
    model, _ = greedy
    sampling = Sampling(temperature=0, repetition_penalty=1e6)
    for prompt, row in zip(
        PROMPTS, generate(model, PROMPTS, max_new_tokens=NEW, sampling=sampling), strict=True
    ):
        assert len(set(row)) == NEW
        positive = set(row) & set(prompt)
        assert not positive


def test_no_prompts_give_no_texts(greedy):
    assert generate(greedy[0], [], max_new_tokens=3) == []


@pytest.mark.parametrize(
    ("prompts", "n", "said"),
    [
        ([[1], []], 3, r"prompts\[1\] has no tokens; begin it with BOS"),
        ([[1]], 0, "max_new_tokens=0 must be at least 1"),
        ([[1]], -2, "max_new_tokens=-2"),
        ([[1]], 3_000_000_000, "max_new_tokens=3000000000 must be .* at most 16777216"),
    ],
)
def test_what_cannot_be_continued_is_refused(greedy, prompts, n, said):
    with pytest.raises(ValueError, match=said):
        generate(greedy[0], prompts, max_new_tokens=n)


def test_decoding_casts_matrices_and_leaves_vectors_float32(tiny):
    model = decoding_model(tiny("respsann", dtype="bfloat16"))
    assert model.head.kernel.dtype == jnp.bfloat16
    assert model.norm.scale.dtype == jnp.float32


def test_decoding_leaves_the_model_as_it_was(tiny):
    model = tiny("respsann", dtype="bfloat16")
    generate(model, [[1]], max_new_tokens=1, sampling=GREEDY)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("float32")}


def test_another_temperature_top_k_or_seed_compiles_nothing(tiny):
    model, prompts = tiny(), [[1, 2, 3]]
    options = {"max_new_tokens": 4}
    generate(model, prompts, sampling=Sampling(temperature=0.5, top_k=5, top_p=0.5), **options)
    compiled = _generate._cache_size()
    for other in (
        Sampling(temperature=2.0, top_k=7, top_p=0.9, seed=3),
        Sampling(temperature=0.1, top_k=1, top_p=0.1, seed=4),
    ):
        generate(model, prompts, sampling=other, **options)
    assert _generate._cache_size() == compiled


def test_ids_that_are_no_pieces_are_never_drawn(tiny):
    new = generate(
        tiny(),
        [[1, 2]] * 16,
        max_new_tokens=16,
        sampling=Sampling(temperature=5.0, top_p=None),
        never=(0, 1),
        n_tokens=10,
    )
    assert {t for row in new for t in row} == set(range(2, 10))


def test_a_row_ends_where_its_eos_is_also_the_padding(greedy):
    """Vocabularies without a pad or BOS of their own use their EOS for it."""
    model, free = greedy
    eos = free[0][2]
    ended = generate(
        model, PROMPTS, max_new_tokens=NEW, sampling=GREEDY, eos_id=eos, never=(eos, eos)
    )
    assert ended[0] == free[0][: free[0].index(eos)]

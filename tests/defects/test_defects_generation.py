"""From a prompt to the text after it: where it begins, how it is drawn, where it ends."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import psannLM, psannLMDataPrep
from psann_jax.data import load_tokenizer
from psann_jax.infer.decode import generate
from psann_jax.infer.sampling import Sampling, filtered
from psann_jax.interop.folder import SavedModel, save_folder
from psann_jax.interop.psannlm_tokenizer import from_state
from psann_jax.train.step import loss_fn

GREEDY = Sampling(temperature=0)
PROMPTS = [[3, 1, 4], [1] * 9, [5]]
SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}


def test_d07_a_prompt_is_not_ended_before_it_is_continued(whole, monkeypatch):
    (lm, _), given = whole, []
    monkeypatch.setattr(
        "psann_jax.lm.generate", lambda _, prompts, **__: given.extend(prompts) or [[]]
    )
    lm.generate("the wave")
    tokenizer = lm._tokenizer
    assert given == [[tokenizer.bos_id, *tokenizer.encode("the wave")]]
    assert tokenizer.eos_id not in given[0]


def test_d08_each_row_ends_at_its_own_end(moved):
    model, options = moved("respsann"), {"max_new_tokens": 6, "sampling": GREEDY}
    free = generate(model, PROMPTS, **options)
    eos = free[0][2]  # the first row says it third, or before
    ended = generate(model, PROMPTS, eos_id=eos, **options)
    assert ended == [row[: row.index(eos)] if eos in row else row for row in free]
    assert len({len(row) for row in ended}) > 1


def test_d08_nothing_follows_an_end_that_comes_at_once(constant):
    model = constant({2: 5.0, 7: 4.0})
    assert generate(model, PROMPTS, max_new_tokens=6, sampling=GREEDY, eos_id=2) == [[], [], []]


@pytest.mark.parametrize(("p", "n"), [(0.39, 1), (0.41, 2), (0.75, 3), (0.95, 4)])
def test_d09_top_p_keeps_the_token_that_crosses_p(p, n):
    logits = jnp.log(jnp.asarray([[0.4, 0.3, 0.2, 0.1]]))
    assert np.flatnonzero(np.isfinite(filtered(logits, None, p)[0])).tolist() == list(range(n))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_d09_top_k_keeps_k_of_equal_tokens(k):
    assert np.isfinite(filtered(jnp.zeros((1, 4)), k, None)).sum() == k


@pytest.mark.parametrize(
    ("prompt", "penalty", "said"),
    [
        # 2.0 / 1.2 stays above 1.5 however often token 3 is said: it counts once, and divides.
        ([3, 3, 3], 1.2, [3, 3, 3]),
        # 2.0 / 1.5 falls below 1.5 from the start: the prompt counts.
        ([3, 3, 3], 1.5, [5, 3, 3]),
        ([4], 1.5, [3, 5, 3]),
        # Below 1 it favours what was said: 1.5 / 0.5 exceeds 2.0.
        ([5], 0.5, [5, 5, 5]),
        # Either at once, so that a third is likelier.
        ([3, 5], 20.0, [6, 3, 3]),
    ],
)
def test_d10_the_penalty_divides_once_and_counts_the_prompt(constant, prompt, penalty, said):
    model = constant({3: 2.0, 5: 1.5, 6: 0.11})
    sampling = Sampling(temperature=0, repetition_penalty=penalty)
    assert generate(model, [prompt], max_new_tokens=3, sampling=sampling) == [said]


def test_d10_a_negative_logit_is_multiplied_and_becomes_less_likely_too(constant):
    sampling = Sampling(temperature=0, repetition_penalty=2.0)
    model = constant({3: -1.0, 5: -1.5})
    assert generate(model, [[3]], max_new_tokens=3, sampling=sampling) == [[5, 3, 3]]


def test_padding_before_a_short_prompt_was_not_said(constant):
    """Rows are padded with id 0, which is a token like any other."""
    sampling = Sampling(temperature=0, repetition_penalty=1.5)
    rows = generate(
        constant({0: 2.0, 7: 1.5}), [[5], [5, 6, 6]], max_new_tokens=3, sampling=sampling
    )
    assert rows == [[0, 7, 0]] * 2


def _foreign(path, vocab):
    """A tokenizer.json of words that was not made here."""
    words = {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    parts = {"version": "1.0", "pre_tokenizer": {"type": "Whitespace"}, "model": words}
    path.write_text(json.dumps({**parts, "added_tokens": []}))
    return path


@pytest.mark.parametrize(
    "vocab",
    [
        {"hello": 0, "[UNK]": 1, "[PAD]": 2, "<s>": 3, "</s>": 4},
        {"hello": 0, "[UNK]": 1, "<|endoftext|>": 2},  # which is the padding and the BOS too
    ],
    ids=["four specials", "one special"],
)
def test_d20_a_foreign_vocabularys_own_end_ends_documents_and_generation(constant, tmp_path, vocab):
    eos = len(vocab) - 1
    data = psannLMDataPrep(
        ["hello"], tokenizer_model_path=_foreign(tmp_path / "t.json", vocab), max_length=8
    )
    assert data.tokenizer.eos_id == eos
    assert data.dataset.batch([0]).targets[0, :2].tolist() == [0, eos]
    lm = psannLM(base="transformer", vocab_size=len(vocab), **SIZES, dtype="float32")
    model = constant({eos: 5.0, 0: 4.0}, vocab_size=len(vocab))
    save_folder(tmp_path / "model", SavedModel(lm.config, model, data.tokenizer, 8))
    said = psannLM.load(tmp_path / "model").generate("hello", temperature=0.0, max_new_tokens=4)
    assert said == ""


def test_a_piece_of_text_that_has_the_number_of_a_special_is_said(constant, tmp_path):
    """A vocabulary without specials, in which psannlm takes 0 for the padding and 1 for BOS."""
    vocab = {"the": 0, "cat": 1, "sat": 2, "[UNK]": 3}
    words = {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    parts = {"version": "1.0", "pre_tokenizer": {"type": "Whitespace"}, "added_tokens": []}
    special_ids = dict(zip(("pad", "bos", "eos", "unk"), range(4), strict=True))
    state = {"backend": "tokenizers", "model": json.dumps({**parts, "model": words})}
    tokenizer = from_state({**state, "passthrough_ids": True, "special_ids": special_ids})
    assert not tokenizer.silent_ids
    lm = psannLM(base="transformer", vocab_size=4, **SIZES, dtype="float32")
    for piece in ("the", "cat"):
        model = constant({vocab[piece]: 5.0}, vocab_size=4)
        save_folder(tmp_path / piece, SavedModel(lm.config, model, tokenizer, 8))
        lm = psannLM.load(tmp_path / piece)
        assert lm.generate("sat", temperature=0.0, max_new_tokens=2) == f" {piece} {piece}"


def test_the_space_between_a_prompt_and_what_follows_is_said(constant, tmp_path):
    """Whatever begins a text by a space, as Llama's tokenizer, drops the first one in decoding."""
    vocab = {"<unk>": 0, "</s>": 1, "\u2581": 2, "a": 3, "b": 4, "\u2581b": 5}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}
    model = {"type": "BPE", "vocab": vocab, "merges": [["\u2581", "b"]], "unk_token": "<unk>"}
    parts = {"version": "1.0", "added_tokens": [], "pre_tokenizer": metaspace}
    content = {**parts, "decoder": metaspace, "model": model}
    (tmp_path / "t.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path / "t.json")
    lm = psannLM(base="transformer", vocab_size=6, **SIZES, dtype="float32")
    save_folder(tmp_path / "m", SavedModel(lm.config, constant({5: 5.0}, 6), tokenizer, 8))
    lm = psannLM.load(tmp_path / "m")
    said = lm.generate_batch(["a", ""], temperature=0.0, max_new_tokens=2)
    assert said == [" b b", "b b"]


def test_d24_generating_leaves_training_as_it_is(tiny, data):
    """Whether anything is dropped is said by the call that drops, and not kept in the model."""
    model = tiny("respsann", dropout=0.5, n_layers=1, vocab_size=data.vocab_size)
    rows, loss = data.dataset.batch(range(4)), jax.jit(loss_fn)
    before = loss(model, rows, key=jax.random.key(0))
    generate(model, PROMPTS, max_new_tokens=3, sampling=GREEDY)
    after = loss(model, rows, key=jax.random.key(0))
    assert float(before) == float(after) != float(loss(model, rows))


def test_d24_texts_that_name_files_are_texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text("what is in the file")
    with pytest.warns(UserWarning, match="taken as texts"):
        data = psannLMDataPrep(["secret.txt"], tokenizer="char", max_length=16)
    assert data.tokenizer.decode(data.dataset.batch([0]).inputs[0]) == "secret.txt"

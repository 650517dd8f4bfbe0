"""The needle test asks what it says it asks, and tells a model that finds from one that guesses."""

import dataclasses
import json
from pathlib import Path
import re
import runpy
import string

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import bases
from psann_jax.cli import verbs
from psann_jax.data import fit_tokenizer
from psann_jax.evals.needle import Form, Haystack
from psann_jax.evals.needle_read import said_right
from psann_jax.evals.needle_report import (
    ACCEPTANCE,
    FAIL,
    NOT_MEASURED,
    PASS,
    acceptance,
    cell,
    promotion,
    wilson,
)
from psann_jax.interop.folder import SavedModel, save_folder
from psann_jax.model import LM

ROOT = Path(__file__).parent.parent.parent
FILLER = "the grass is green. the sky is blue. the sun is yellow. room 101 is taken. "
TEXTS = [FILLER + string.digits + "\nAB=1234\n" + string.ascii_uppercase] * 20
DEPTHS = (0, 25, 50, 75, 100)
SIZES = {"char": 300, "sentencepiece": 290, "hf": 290}


@pytest.fixture(scope="module", params=SIZES)
def tokenizer(request):
    return fit_tokenizer(request.param, TEXTS, SIZES[request.param])


@pytest.fixture(scope="module")
def char():
    return fit_tokenizer("char", TEXTS, 300)


def _haystack(tokenizer, digits=3):
    return Haystack(tokenizer, tokenizer.encode(FILLER), digits)


@pytest.mark.parametrize("length", [40, 129, 1024])
def test_a_prompt_has_exactly_the_length_asked_for(tokenizer, length):
    for prompt in _haystack(tokenizer).prompts(length, DEPTHS, trials=3, seed=0):
        assert len(prompt.tokens) == length
        assert prompt.tokens[0] == tokenizer.bos_id


def test_the_needle_comes_wholly_before_the_query_and_holds_the_answer(tokenizer):
    for prompt in _haystack(tokenizer).prompts(64, DEPTHS, trials=3, seed=0):
        assert prompt.needle.stop <= prompt.query.start
        assert prompt.query.stop == 64
        needle, query = prompt.tokens[prompt.needle], prompt.tokens[prompt.query]
        assert needle[: len(query) + len(prompt.answer)] == query + prompt.answer


def test_depth_0_is_the_start_and_depth_100_the_query(char):
    first, *_, last = _haystack(char).prompts(100, DEPTHS, trials=1, seed=0)
    assert first.needle.start == 1
    assert last.needle.stop == last.query.start


def test_the_needle_goes_deeper_in_even_steps(char):
    starts = [p.needle.start for p in _haystack(char).prompts(100, DEPTHS, trials=1, seed=0)]
    assert np.ptp(np.diff(starts)) <= 1


def test_the_value_and_the_key_are_nowhere_else(tokenizer):
    for prompt in _haystack(tokenizer).prompts(200, DEPTHS, trials=5, seed=0):
        text, value = tokenizer.decode(prompt.tokens), tokenizer.decode(prompt.answer)
        assert text.count(value) == 1
        assert text.count(tokenizer.decode(prompt.tokens[prompt.query])) == 2


def test_a_value_of_the_filler_is_not_drawn_and_counts_for_chance(char):
    haystack = _haystack(char)
    assert "101" not in haystack.values
    assert haystack.chance == 1 / 999


def test_prompts_are_the_same_for_the_same_seed_only(char):
    haystack = _haystack(char)

    def tokens(seed):
        return [p.tokens for p in haystack.prompts(64, (50,), trials=4, seed=seed)]

    assert tokens(0) == tokens(0) != tokens(1)
    assert len(set(map(tuple, tokens(0)))) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [({"length": 12}, "--lengths=12"), ({"digits": 0}, "--digits=0"), ({"digits": 1}, "every")],
)
def test_what_cannot_be_asked_is_refused(char, change, said):
    filler = char.encode(FILLER + string.digits)
    with pytest.raises(ValueError, match=said):
        haystack = Haystack(char, filler, change.get("digits", 3))
        list(haystack.prompts(change.get("length", 64), DEPTHS, 1, 0))


def test_the_experiment_trains_on_prompts_of_the_task():
    experiment = runpy.run_path(str(ROOT / "experiments" / "needle" / "run.py"))
    rng = np.random.default_rng(0)
    for _ in range(50):
        text = experiment["document"](rng)
        found = re.fullmatch(r"[a-z. ]*(\n[A-Z]{2}=)(\d\d)\n[a-z. ]*\1\2", text)
        assert found, text
        assert len(text) + 1 <= experiment["LENGTH"] + experiment["DIGITS"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Copier:
    """No model: after the second "=" it says what came after the first one, `right` tokens long."""

    equals: int
    right: int

    def init_state(self, batch, max_len):
        return jnp.zeros((batch, max_len), jnp.int32), jnp.int32(0)

    def features(self, tokens, seq, state):
        seen, n = state
        seen = jax.lax.dynamic_update_slice(seen, tokens, (0, n))
        here = n + jnp.arange(tokens.shape[1])  # [T]
        equals = jnp.where(seen == self.equals, jnp.arange(seen.shape[1]), -1)[:, None]  # [B, 1, S]
        after = here - jnp.where(equals <= here[:, None], equals, -1).max(-1)  # [B, T] the last "="
        first = jnp.argmax(seen == self.equals, axis=1)[:, None]  # [B, 1]
        said = jnp.take_along_axis(seen, jnp.minimum(first + 1 + after, seen.shape[1] - 1), axis=1)
        said = jnp.where(after < self.right, said, 0)
        return jax.nn.one_hot(said, 300), (seen, n + tokens.shape[1])

    def logits(self, x):
        return x


def _right(model, char, **options):
    prompts = list(_haystack(char).prompts(100, DEPTHS, trials=6, seed=0))
    return said_right(model, prompts, **options)


def _copier(char, right=9):
    return Copier(char.encode("=")[0], right)


def test_a_model_that_copies_finds_every_needle(char):
    assert cell(100, 0, _right(_copier(char), char)).score == 1.0


def test_a_value_counts_only_as_a_whole(char):
    found = cell(100, 0, _right(_copier(char, right=2), char))
    assert (found.score, found.token_accuracy) == (0.0, pytest.approx(2 / 3))


@pytest.fixture(scope="module")
def untrained(char):
    base = bases.get("waveresnet")(
        vocab_size=char.vocab_size, d_model=16, n_layers=2, n_heads=2, d_mlp=32, dtype="float32"
    )
    return LM(base, rngs=nnx.Rngs(0))


def test_an_untrained_model_finds_about_as_many_as_a_guess(char, untrained):
    found = cell(100, 0, _right(untrained, char))
    assert found.low <= _haystack(char).chance
    assert found.score < 0.1


@pytest.mark.parametrize("chunk", [16, 33])
def test_reading_in_chunks_says_what_reading_at_once_does(char, untrained, chunk):
    """Scored against the whole reading's own words, so that answers are right and not all wrong."""
    prompts = list(_haystack(char).prompts(100, (50,), trials=6, seed=0))
    tokens = jnp.array([p.tokens for p in prompts])
    first = jnp.argmax(untrained(tokens)[0][:, -1], axis=-1)
    said = [
        dataclasses.replace(p, answer=[int(t), *p.answer])
        for p, t in zip(prompts, first, strict=True)
    ]
    right = np.stack(said_right(untrained, said, chunk=chunk))
    assert right[:, 0].all()
    np.testing.assert_array_equal(right, np.stack(said_right(untrained, said)))


def test_a_model_without_room_for_all_rows_reads_them_in_turn(char, monkeypatch):
    monkeypatch.setattr("psann_jax.evals.needle_read._TOKENS_AT_ONCE", 400)
    assert all(right.all() for right in _right(_copier(char), char))


def _cells(scores, trials=50):
    return [
        cell(length, 50, [np.array([i < score * trials]) for i in range(trials)])
        for length, score in scores.items()
    ]


def test_the_interval_is_wilsons():
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_acceptance_and_promotion_are_told_apart():
    cells = _cells({**dict.fromkeys(ACCEPTANCE, 0.9), 16384: 0.5, 32768: 0.1})
    assert acceptance(cells, 1e-3).verdict == PASS
    assert promotion(cells, 1e-3).verdict == FAIL


def test_a_level_has_to_be_exceeded():
    verdicts = [c.verdict for c in acceptance(_cells({1024: 0.8, 8192: 0.62}), 1e-3).conditions]
    assert verdicts == [FAIL, NOT_MEASURED, NOT_MEASURED, PASS, NOT_MEASURED, NOT_MEASURED]


def test_no_more_than_chance_at_32k_fails_acceptance():
    assert acceptance(_cells({**dict.fromkeys(ACCEPTANCE, 1.0), 32768: 0.0}), 1e-3).verdict == FAIL


def test_what_was_not_measured_is_no_pass():
    assert acceptance(_cells({1024: 1.0}), 1e-3).verdict == NOT_MEASURED
    assert promotion(_cells({1024: 0.0}), 1e-3).verdict == NOT_MEASURED


@pytest.fixture
def saved(char, untrained, tmp_path):
    """A saved model, and a text for its haystack."""
    base = bases.get("waveresnet")(
        vocab_size=char.vocab_size, d_model=16, n_layers=2, n_heads=2, d_mlp=32, dtype="float32"
    )
    save_folder(tmp_path / "model", SavedModel(base, untrained, char, 64))
    (tmp_path / "text.txt").write_text(FILLER)
    return tmp_path


def test_the_command_prints_a_table_and_writes_json_and_a_picture(saved, capsys):
    flags = ["--lengths", "40,80", "--depths", "0,50,100", "--trials", "4", "--digits", "3"]
    where = ["--text", str(saved / "text.txt"), "--out", str(saved / "out")]
    assert verbs.main(["needle", str(saved / "model"), *flags, *where]) == 0
    said = capsys.readouterr().out
    assert "acceptance: not measured" in said
    assert "promotion: not measured" in said
    tree = json.loads((saved / "out" / "needle.json").read_text())
    assert [(c["length"], c["depth"]) for c in tree["cells"]] == [
        (length, depth) for length in (40, 80) for depth in (0, 50, 100)
    ]
    assert tree["chance"] == 1 / 999
    assert (saved / "out" / "needle.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--lengths", "8"], "--lengths=8"),
        (["--digits", "7"], "--digits=7"),
        (["--text", "none.txt"], "none.txt"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(saved, flags, said, capsys):
    flags = ["--text", str(saved / "text.txt"), "--lengths", "64", *flags]
    assert verbs.main(["needle", str(saved / "model"), *flags]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(err) == 1
    assert said in err[0]


def _written(alphabet):
    """A tokenizer that can write these characters alone, and a haystack of them."""
    tokenizer = fit_tokenizer("groundthink-char", [alphabet], 200)
    return tokenizer, Haystack(tokenizer, tokenizer.encode("and so to bed. "), 3)


def test_a_vocabulary_without_digits_has_other_values():
    letters = string.ascii_letters
    tokenizer, haystack = _written(f"\n !$&',-.3:;?{letters}")  # Shakespeare's, without "="
    assert (haystack.form.digits, haystack.form.sign) == ("abcdefghij", ":")
    assert haystack.chance == 1 / len(haystack.values) == 1 / 999  # "bed" is there
    for prompt in haystack.prompts(64, DEPTHS, trials=3, seed=0):
        text = tokenizer.decode([*prompt.tokens, *prompt.answer])
        assert re.fullmatch(r"(?s).*\n([A-Z]{2}):([a-j]{3})\n.*\n\1:\2", text)
        assert tokenizer.unk_id not in prompt.tokens


def test_values_of_letters_are_not_those_of_the_filler():
    tokenizer, _ = _written(string.ascii_letters + " =\n.")
    haystack = Haystack(tokenizer, tokenizer.encode("a bed and a cab "), 3)
    assert {"bed", "cab"}.isdisjoint(haystack.values)
    assert haystack.chance == 1 / 998


def test_keys_are_small_letters_where_no_capital_can_be_written():
    _, haystack = _written(string.ascii_lowercase + string.digits + " =.")
    assert haystack.form == Form(letters=string.ascii_lowercase, edge=" ")


@pytest.mark.parametrize(
    ("alphabet", "lacking"),
    [
        ("ab .=\n", "cannot write letters, of which"),
        (string.ascii_letters, "cannot write a sign as =, a newline or space, of which"),
    ],
)
def test_a_vocabulary_that_cannot_write_needles_is_refused(alphabet, lacking):
    with pytest.raises(ValueError, match=lacking):
        _written(alphabet)


def test_a_filler_with_every_key_is_refused_and_not_searched_forever():
    letters = "AB"
    tokenizer = fit_tokenizer("groundthink-char", [letters + string.digits + "=\n"], 200)
    filler = "".join(f"{a}{b}=" for a in letters for b in letters)
    with pytest.raises(ValueError, match="holds every key of 2 of the letters AB with '='.*--text"):
        Haystack(tokenizer, tokenizer.encode(filler), 3)


def test_the_usual_characters_are_used_where_they_can_be(tokenizer):
    assert _haystack(tokenizer).form == Form()

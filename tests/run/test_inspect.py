"""A description names the base, its options, its parameters by part, and where they came from."""

from flax import nnx
import jax
import pytest

from psann_jax import bases, psannLM
from psann_jax.cli import verbs
from psann_jax.model import LM, parameter_count
from psann_jax.run.inspect import describe, parameters_by_part

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}


def _abstract(name, **options):
    base = bases.get(name)(**SIZES, vocab_size=32, **options)
    return jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("name", bases.names())
def test_the_parts_are_the_whole(name):
    model = _abstract(name)
    assert sum(parameters_by_part(model).values()) == parameter_count(model)


@pytest.mark.parametrize("wave", ["interleave", "psannlm-replace"])
def test_parameters_are_counted_by_part(wave):
    parts = parameters_by_part(_abstract("waveresnet", wave=wave))
    mlp = {"mlp": 2 * (2 * 16 * 32 + 32 + 16)} if wave == "interleave" else {}
    norms = 3  # of a layer; also where the wave's residual stands within another
    assert parts == {
        "attention": 2 * 4 * 16 * 16,
        "embedding": 32 * 16,
        "head": 16 * 32,
        "wave": 2 * (3 * 16 + 16 * 16 + 16),
        "sine": 2 * 3 * (32 + 16 if mlp else 16),
        "norm": (2 * norms + 1) * 16,
        "scale": 2,
        **mlp,
    }


def test_the_largest_part_comes_first():
    counts = list(parameters_by_part(_abstract("respsann")).values())
    assert counts == sorted(counts, reverse=True)


def test_a_run_is_described(kept_run):
    said = describe(kept_run)
    for expected in (
        "waveresnet: vocab_size=",
        "sine.frequency=2.0",
        "attention 2,048",
        "steps kept  2, 4 of 4",
        "best        step 4, validation loss ",
        "tokenizer   char, ",
        "corpus.txt; train 90 documents",
        "val 10 documents",
    ):
        assert expected in said
    options = said.splitlines()[1:6]
    assert max(map(len, options)) <= 100


def test_a_saved_model_is_described(kept_run, tmp_path):
    psannLM.load(kept_run).save(tmp_path)
    said = describe(tmp_path)
    assert "sine.frequency=2.0" in said
    assert "rows        32 tokens" in said
    assert "tokenizer   char, " in said


def test_a_run_without_a_checkpoint_has_none_yet(kept_run, tmp_path):
    for name in ("config.json", "tokenizer.model"):
        (tmp_path / name).write_bytes((kept_run / name).read_bytes())
    said = describe(tmp_path)
    assert "steps kept  none yet" in said
    assert "data        not prepared yet" in said
    assert not (tmp_path / "checkpoints").exists()


def test_the_command_prints_the_description(kept_run, capsys):
    assert verbs.main(["inspect", str(kept_run)]) == 0
    assert capsys.readouterr().out == describe(kept_run) + "\n"


@pytest.mark.parametrize("flag", ["--out", "--text"])
def test_what_belongs_to_the_sines_is_refused_without_them(flag, kept_run, capsys):
    assert verbs.main(["inspect", str(kept_run), flag, "x"]) == 2
    assert "give --sine as well" in capsys.readouterr().err

"""The sines of a run are measured at each checkpoint it kept, on the text it was kept_run on."""

import json
from pathlib import Path
import shutil

from flax import nnx
import pytest

from psann_jax import bases
from psann_jax.cli import verbs
from psann_jax.data import fit_tokenizer
from psann_jax.interop.folder import SavedModel, save_folder
from psann_jax.model import LM
from psann_jax.run.report import Report
from psann_jax.run.sine import measure_sines

SIZES = {"vocab_size": 300, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}
QUIET = Report(quiet=True)


class Heard(Report):
    """Keeps the lines that it is given."""

    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def line(self, text):
        self.lines.append(text)


@pytest.fixture
def embedded(monkeypatch, tmp_path):
    """A small text in place of the embedded one, which takes long to encode."""
    path = tmp_path / "embedded.txt"
    path.write_text("import sine\n" * 200)
    monkeypatch.setattr("psann_jax.data.files.embedded", lambda: [path])
    return path


@pytest.fixture
def changed(kept_run, tmp_path):
    """changed(base={...}, data={...}): a copy of the run with other values in its config."""
    folder = Path(shutil.copytree(kept_run, tmp_path / "run"))

    def change(**sections):
        tree = json.loads((folder / "config.json").read_text())
        tree |= {name: tree[name] | values for name, values in sections.items()}
        (folder / "config.json").write_text(json.dumps(tree))
        return folder

    return change


def test_the_sines_are_measured_at_each_checkpoint_that_was_kept(kept_run):
    found = measure_sines(kept_run, QUIET)
    assert found.steps == [2, 4]
    assert found.text.endswith("tokens of validation text")
    names = [sine.name for sine in found.sines]
    assert names == ["layer 0 mlp", "layer 0 wave", "layer 1 mlp", "layer 1 wave"]
    first, last = found.sines[0].frequency.steps
    assert first.mean != last.mean


def test_without_validation_the_training_rows_are_read_and_it_is_said(changed):
    folder = changed(data={"val_split": 0.0})
    (folder / "data.json").unlink()  # which knows of other rows
    found = measure_sines(folder, QUIET, tokens=64)
    assert found.text == "64 tokens of training text, since there is no validation text"


def test_a_damaged_checkpoint_is_passed_over(changed, caplog):
    folder = changed()
    (folder / "checkpoints" / "2" / "MANIFEST.json").unlink()
    assert measure_sines(folder, QUIET, tokens=64).steps == [4]
    assert "checkpoint 2 is passed over" in caplog.text


def test_where_the_text_is_gone_another_is_read_and_it_is_said(changed, embedded):
    heard = Heard()
    folder = changed(data={"sources": ["gone.txt"]})
    assert measure_sines(folder, heard, tokens=64).text == "64 tokens of the embedded text"
    (line,) = heard.lines
    assert "gone.txt" in line and "--text FILE" in line


def test_where_the_text_is_another_one_it_is_not_read(changed, embedded):
    heard = Heard()
    folder = changed(data={"sources": [str(embedded)]})
    assert measure_sines(folder, heard, tokens=64).text.endswith("the embedded text")
    assert "has changed" in heard.lines[0]


def test_where_the_texts_were_in_memory_another_is_read_and_it_is_said(changed, embedded):
    folder, heard = changed(), Heard()
    identity = json.loads((folder / "data.json").read_text())
    (folder / "data.json").write_text(json.dumps(identity | {"texts_in_memory": True}))
    assert measure_sines(folder, heard, tokens=64).text.endswith("the embedded text")
    assert "texts in memory" in heard.lines[0]


def test_the_command_prints_a_table_and_writes_json_and_a_picture(kept_run, tmp_path, capsys):
    out = tmp_path / "out"
    assert verbs.main(["inspect", str(kept_run), "--sine", "--out", str(out)]) == 0
    assert "layer 1 wave" in capsys.readouterr().out
    assert [s["name"] for s in json.loads((out / "sine.json").read_text())["sines"]]
    assert (out / "sine.png").stat().st_size > 1000
    assert not (kept_run / "sine.json").exists()


@pytest.fixture
def saved(tmp_path):
    """saved("respsann", ...): the folder of an unkept_run model."""

    def save(name, **options):
        base = bases.get(name)(**SIZES, **options)
        tokenizer = fit_tokenizer("char", ["the sine wave"], 300)
        saved = SavedModel(base, LM(base, rngs=nnx.Rngs(0)), tokenizer, 32)
        save_folder(tmp_path / "model", saved)
        return tmp_path / "model"

    return save


def test_a_saved_model_is_measured_once_on_files_of_choice(saved, embedded):
    found = measure_sines(saved("respsann"), QUIET, text=(str(embedded),), tokens=64)
    assert found.steps == [None]
    assert found.text == f"64 tokens of {embedded}"
    assert [sine.name for sine in found.sines] == ["layer 0 mlp", "layer 1 mlp"]


def test_a_saved_model_is_measured_on_the_embedded_text(saved, embedded):
    found = measure_sines(saved("respsann"), QUIET, tokens=64)
    assert found.text == "64 tokens of the embedded text"


def test_a_saved_model_without_a_tokenizer_is_refused(saved):
    folder = saved("respsann")
    (folder / "tokenizer.model").unlink()
    with pytest.raises(ValueError, match=r"holds no tokenizer\.model"):
        measure_sines(folder, QUIET)


def test_a_model_without_sines_is_refused_in_one_line(saved, capsys):
    folder = saved("respsann", mlp_activation="gelu")
    assert verbs.main(["inspect", str(folder), "--sine"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "has no sines to inspect: its base is respsann with mlp_activation='gelu'" in line
    assert not (folder / "sine.json").exists()


def test_a_run_without_sines_is_refused_before_its_text_is_read(changed):
    folder = changed(base={"mlp_activation": "relu", "sine": {}}, data={"sources": ["gone.txt"]})
    with pytest.raises(ValueError, match=r"its base is waveresnet with mlp_activation='relu'"):
        measure_sines(folder, QUIET)


def test_fewer_tokens_than_one_are_refused(kept_run):
    with pytest.raises(ValueError, match="--tokens=0 must be at least 1"):
        measure_sines(kept_run, QUIET, tokens=0)

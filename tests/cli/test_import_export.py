"""import and export: files of psannlm to folders here and back; whole, and over nothing unasked."""

from pathlib import Path
import shutil

import numpy as np
import pytest

from psann_jax.cli import verbs
from psann_jax.interop.folder import TOKENIZER, load_folder
from psann_jax.interop.torch_file import read

GOLDEN = Path(__file__).parent.parent / "golden" / "torch"
MODEL = str(GOLDEN / "residual_rope.pt")
TRAINER = str(GOLDEN / "trainer_final.pt")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _error(argv, capsys):
    assert verbs.main(argv) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1, err
    return err


def _names():
    return sorted(path.name for path in Path().iterdir())


def test_a_model_goes_in_and_out_unchanged(capsys):
    assert verbs.main(["import", MODEL, "model"]) == 0
    assert verbs.main(["export", "model", "back.pt"]) == 0
    assert capsys.readouterr() == ("ResPSANN, 1,594 parameters: model\nback.pt\n", "")
    back, before = read("back.pt"), read(MODEL)
    assert back["tokenizer"] == before["tokenizer"]
    for name, array in before["state_dict"].items():
        np.testing.assert_array_equal(back["state_dict"][name], array)
    assert _names() == ["back.pt", "model"]


def test_an_imported_model_generates(capsys):
    verbs.main(["import", MODEL, "model"])
    capsys.readouterr()
    assert verbs.main(["generate", "model", "a sine", "--max-new-tokens", "4"]) == 0
    assert len(capsys.readouterr().out) <= 5


@pytest.mark.parametrize("argv", [["--step", "best"], ["--force"], ["--no-tokenizer"]])
def test_a_file_of_psannlm_is_exported_like_a_folder(argv):
    assert verbs.main(["export", MODEL, "back.pt", *argv]) == 0
    assert (read("back.pt")["tokenizer"] is None) == (argv == ["--no-tokenizer"])


def test_what_is_computed_otherwise_is_said_both_ways(capsys):
    assert verbs.main(["import", str(GOLDEN / "wave_interleave.pt"), "model"]) == 0
    assert "so the logits differ" in capsys.readouterr().err
    assert verbs.main(["export", "model", "back.pt"]) == 0
    assert "so the logits differ" in capsys.readouterr().err


def test_what_a_trainer_file_lacks_is_said(capsys):
    assert verbs.main(["import", TRAINER, "model", "--max-length", "32"]) == 0
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2
    assert "a training begins anew" in notes[0]
    assert "give one by --tokenizer" in notes[1]
    assert load_folder("model").max_length == 32
    assert "import it again with --tokenizer" in _error(["generate", "model", "a"], capsys)


def test_a_tokenizer_may_be_given(capsys):
    verbs.main(["import", MODEL, "model"])
    argv = ["import", TRAINER, "other", "--tokenizer", f"model/{TOKENIZER}"]
    assert verbs.main(argv) == 0
    tokenizers = [load_folder(folder).tokenizer for folder in ("model", "other")]
    assert tokenizers[0].encode("a sine") == tokenizers[1].encode("a sine")


def test_a_given_tokenizer_that_is_too_large_is_refused(capsys):
    Path("t.txt").write_text("some text\n" * 9)
    verbs.main(["tokenizer", "fit", "t.model", "t.txt", "--kind", "char", "--vocab-size", "300"])
    capsys.readouterr()
    assert "the model knows" in _error(["import", TRAINER, "m", "--tokenizer", "t.model"], capsys)
    assert _names() == ["t.model", "t.txt"]


def test_safetensors_lack_the_tokenizer_and_say_so(capsys):
    assert verbs.main(["export", MODEL, "m.safetensors"]) == 0
    assert "no tokenizer" in capsys.readouterr().err


def test_nothing_is_replaced_unless_asked(capsys):
    for argv in (["import", MODEL, "model"], ["export", MODEL, "back.pt"]):
        assert verbs.main(argv) == 0
        capsys.readouterr()
        assert "--force" in _error(argv, capsys)
        assert verbs.main([*argv, "--force"]) == 0


def test_a_forced_import_leaves_nothing_of_the_last_model():
    verbs.main(["import", MODEL, "model"])
    verbs.main(["import", TRAINER, "model", "--force"])
    assert load_folder("model").tokenizer is None
    assert _names() == ["model"]


def test_a_folder_of_something_else_is_never_replaced(capsys):
    Path("data").mkdir()
    Path("data/text.txt").write_text("mine")
    assert "no saved model" in _error(["import", MODEL, "data", "--force"], capsys)
    assert Path("data/text.txt").read_text() == "mine"


def test_an_empty_folder_and_new_parents_are_taken():
    Path("empty").mkdir()
    assert verbs.main(["import", MODEL, "empty"]) == 0
    assert verbs.main(["import", MODEL, "new/model"]) == 0


@pytest.mark.parametrize("argv", [["--max-length", "0"], ["--dtype", "float8"]])
def test_a_wrong_option_is_one_line_and_writes_nothing(argv, capsys):
    assert argv[1] in _error(["import", MODEL, "model", *argv], capsys)
    assert _names() == []


def test_a_damaged_file_writes_nothing(capsys):
    Path("cut.pt").write_bytes(Path(MODEL).read_bytes()[:5000])
    assert "cut.pt" in _error(["import", "cut.pt", "model"], capsys)
    assert "cut.pt" in _error(["export", "cut.pt", "back.pt"], capsys)
    assert _names() == ["cut.pt"]


def test_a_full_disk_leaves_the_old_model(capsys, monkeypatch):
    verbs.main(["import", MODEL, "model"])
    capsys.readouterr()

    def fail(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("psann_jax.interop.folder.save_file", fail)
        assert "no space left" in _error(["import", TRAINER, "model", "--force"], capsys)
    assert load_folder("model").tokenizer is not None
    assert _names() == ["model"]


def test_a_folder_cannot_be_an_exported_file(capsys):
    Path("m.pt").mkdir()
    assert "m.pt is there" in _error(["export", MODEL, "m.pt", "--force"], capsys)
    shutil.rmtree("m.pt")

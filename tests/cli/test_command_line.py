"""The commands: bad input is two lines and exit code 2, help is help."""

import os
from pathlib import Path
import signal
import subprocess
import sys

from flax import nnx
import pytest

from psann_jax import bases
from psann_jax.bases import registry
from psann_jax.cli import train, verbs
from psann_jax.interop.folder import SavedModel, save_folder
from psann_jax.model import LM

ROOT = Path(__file__).parent.parent.parent
QUICKSTART = str(ROOT / "configs" / "quickstart.py")
VERBS = (
    "train",
    "generate",
    "eval",
    "needle",
    "inspect",
    "tokenizer",
    "import",
    "export",
    "config",
    "dry-run",
)


OWN_BASE = """
from __future__ import annotations
import dataclasses
from psann_jax import register
from psann_jax.bases import Base

@register("imported")
@dataclasses.dataclass(kw_only=True)
class Imported(Base):
    depth: int = 3

    def pattern(self):
        return ((self.residual(self.attention()),),)
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _config(*flags):
    return ["--config", QUICKSTART, *(f"--config.{f}" for f in flags)]


BAD = {
    "no config": ([], "--config is missing"),
    "no such file": (["--config", "configs/quikstart.py"], "no such file"),
    "a near file": (["--config", QUICKSTART.replace("quick", "quik")], "did you mean"),
    "a preset where there is none": (["--config", QUICKSTART + ":large"], "get_config()"),
    "an unknown field": (_config("train.stpes=3"), "did you mean 'train.steps'"),
    "an unknown base field": (_config("base.wavy=1"), "no field 'base.wavy'"),
    "an unknown flag": ([*_config(), "--wrkdir=x"], "did you mean '--workdir'"),
    "a stray word": ([*_config(), "train"], "train is no flag"),
    "a word for a number": (_config("train.steps=ten"), "train.steps"),
    "a fraction for a whole number": (_config("train.steps=2.5"), "train.steps"),
    "a word for a truth": (_config("base.scan_layers=perhaps"), "base.scan_layers"),
    "a negative rate": (_config("optimizer.learning_rate=-1"), "optimizer.learning_rate=-1"),
    "heads that do not divide": (_config("base.n_heads=5"), "base.n_heads=5"),
    "an unknown choice": (_config("base.positional_encoding=rotary"), "rope, alibi, sinusoidal"),
    "no steps": (_config("train.steps=0"), "train.steps=0 must be at least 1"),
    "less than one row a step": (_config("train.batch_tokens=64"), "train.batch_tokens=64"),
    "a bad tuple": (_config("data.sources=a.txt"), "data.sources"),
    "a source that is not there": (_config("data.sources=('none.txt',)"), "none.txt"),
    "a mesh that does not fit": (_config("mesh.data=3"), "mesh (data=3"),
    "an address for a folder": ([*_config(), "--workdir", "gs://b/x"], "workdir='gs://b/x'"),
    "None for a number": (_config("train.epochs=None"), "train.epochs=None"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, capsys):
    argv, said = BAD[case]
    assert train.main(argv) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) <= 3, err
    assert said in err
    assert "error: " in err
    assert "Traceback" not in err


def test_too_little_text_is_said_after_its_count(capsys, tmp_path):
    (tmp_path / "t.txt").write_text("a few words\n" * 20)
    flags = ("data.tokenizer=char", "data.sources=('t.txt',)", "data.max_length=2048")
    assert train.main(_config(*flags)) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: the training text has ")
    assert "fewer than one row of data.max_length=2048" in last


CONFIG_FILES = {
    "a file that is no Python": ("def get_config(:\n", "SyntaxError"),
    "a file without get_config": ("x = 1\n", "has no function get_config()"),
    "a file of something else": ("def get_config():\n    return 3\n", "no psann_jax Config"),
}


@pytest.mark.parametrize("case", CONFIG_FILES)
def test_a_config_file_that_makes_no_config_is_bad_input(case, capsys, tmp_path):
    text, said = CONFIG_FILES[case]
    (tmp_path / "own.py").write_text(text)
    assert train.main(["--config", "own.py"]) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) <= 3, err
    assert said in err


@pytest.mark.parametrize(
    "flags", [(*_config("base.n_heads=5"), "--workdir", "w"), (*_config(), "--workdir", "gs://b/x")]
)
def test_bad_input_leaves_no_workdir(flags, capsys, tmp_path):
    train.main([*flags])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["generate", "nowhere", "hello"], "nowhere"),
        (["eval", "nowhere"], "nowhere"),
        (["needle", "nowhere"], "nowhere"),
        (["needle", "nowhere", "--lengths", "1k"], "--lengths='1k'"),
        (["needle", "nowhere", "--lengths", "0"], "--lengths=0"),
        (["needle", "nowhere", "--depths", "0,101"], "--depths=101"),
        (["needle", "nowhere", "--trials", "0"], "--trials=0"),
        (["needle", "nowhere", "--seed=-1"], "--seed=-1"),
        (["inspect", "nowhere"], "nowhere"),
        (["inspect", "nowhere", "--sine"], "nowhere"),
        (["config", "--config", "none.py"], "none.py"),
        (["tokenizer", "show", "none.model", "text"], "none.model"),
        (["tokenizer", "fit", "out.model", "none.txt"], "none.txt"),
        (["import", "none.pt", "out"], "none.pt"),
        (["export", "nowhere", "out.pt"], "nowhere"),
        (["export", "nowhere", "out.bin"], "out.bin"),
    ],
)
def test_bad_input_of_a_verb_is_one_line_and_exit_code_2(argv, said, capsys):
    assert verbs.main(argv) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) <= 2, err
    assert said in err


@pytest.mark.parametrize(
    "argv", [["tran"], [], ["generate"], ["eval", "x", "--stpe", "3"], ["tokenizer"]]
)
def test_a_wrong_command_says_its_usage_and_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        verbs.main(argv)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "train"])
def test_a_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        verbs.main([verb, "--help"])
    assert stop.value.code == 0
    assert verb in capsys.readouterr().out


def test_help_lists_every_verb(capsys):
    with pytest.raises(SystemExit):
        verbs.main(["--help"])
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


def test_train_has_help(capsys):
    assert verbs.main(["train", "--help"]) == 0
    assert "--config FILE" in capsys.readouterr().out


def test_train_help_with_a_config_lists_its_fields(capsys):
    assert train.main([*_config(), "--help"]) == 0
    assert "--config.base.sine.frequency=1.0" in capsys.readouterr().out


def test_config_prints_what_a_run_would_use(capsys):
    assert verbs.main(["config", *_config("train.steps=3")]) == 0
    assert "--config.train.steps=3\n" in capsys.readouterr().out


def test_config_prints_json_that_reads_back(capsys):
    from psann_jax.config import from_json

    assert verbs.main(["config", "--json", *_config("train.steps=3")]) == 0
    assert from_json(capsys.readouterr().out).train.steps == 3


def test_tokenizer_is_fitted_saved_and_shown(capsys, tmp_path):
    (tmp_path / "t.txt").write_text("abba abba\n" * 10)
    fit = ["tokenizer", "fit", "t.model", "t.txt", "--kind", "char", "--vocab-size", "300"]
    assert verbs.main(fit) == 0
    assert verbs.main(["tokenizer", "show", "t.model", "ab"]) == 0
    shown = capsys.readouterr().out.strip().splitlines()
    assert [line.split("\t")[1] for line in shown] == ["'a'", "'b'"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["environment.set_up", "main.run"])
def test_a_signal_before_the_first_step_is_a_stop(monkeypatch, capsys, where, number):
    monkeypatch.setattr("psann_jax.run.environment.set_up", lambda: None)
    monkeypatch.setattr(f"psann_jax.run.{where}", lambda *_: signal.raise_signal(number))
    assert train.main(_config()) == 75
    assert "start it again to go on" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("module", ["psann_jax.main", "psann_jax"])
def test_the_modules_run_as_programs(module, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
    assert done.stderr == ""


@pytest.fixture
def as_before(monkeypatch):
    """Bases, modules and their path are as they were."""
    monkeypatch.setattr(registry, "_BASES", dict(registry._BASES))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("own", None)


@pytest.mark.usefixtures("as_before")
def test_a_base_of_a_users_file_is_known_to_a_command(tmp_path, capsys):
    file, folder = tmp_path / "own.py", tmp_path / "saved"
    file.write_text(OWN_BASE)
    assert verbs.main(["--import", str(file), "config", "--config", QUICKSTART]) == 0
    capsys.readouterr()
    config = bases.get("imported")(vocab_size=300, d_model=16, n_layers=1, n_heads=2)
    save_folder(folder, SavedModel(config, LM(config, rngs=nnx.Rngs(0)), None, 32))
    del registry._BASES["imported"]
    assert verbs.main(["inspect", str(folder)]) == 2
    assert "python -m psann_jax --import FILE" in capsys.readouterr().err
    del sys.modules["own"]
    assert verbs.main([f"--import={file.name}", "inspect", str(folder)]) == 0
    assert "imported" in capsys.readouterr().out
    (tmp_path / "time.py").touch()
    assert verbs.main(["--import=time.py", "inspect", str(folder)]) == 2
    assert "another module is named time; rename" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "own.py").touch()
    assert verbs.main(["--import=other/own.py", "inspect", str(folder)]) == 2
    assert "another module is named own; rename" in capsys.readouterr().err


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("1 / 0\n", "own.py, line 1: ZeroDivisionError"),
        ("x = (\n", "own.py, line 1: SyntaxError"),
    ],
)
def test_a_file_to_import_that_does_not_run_is_one_line(tmp_path, capsys, text, said):
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    assert verbs.main(["--import", file.name, "inspect", "runs/x"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_text_that_begins_with_a_dash_is_told_where_it_stands(capsys):
    with pytest.raises(SystemExit) as ended:
        verbs.main(["generate", "run", "-a"])
    assert ended.value.code == 2
    assert "unknown argument '-a'; a text that begins with - stands last, after --" in (
        capsys.readouterr().err
    )

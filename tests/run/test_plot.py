"""The verb plot: curves of runs in one picture, and what each came to."""

import csv
import json
import math

import pytest

from psann_jax import bases
from psann_jax.cli import verbs
from psann_jax.config import Config, from_json, to_json
from psann_jax.run.environment import describe
from psann_jax.run.plot import write_report

ROWS = [
    {"step": 1, "loss": 3.0, "lr": 0.1, "grad_norm": 1.0, "tokens": 64, "step_seconds": 2.0},
    {"step": 4, "loss": 2.0, "lr": 0.1, "grad_norm": 1.0, "tokens": 64, "step_seconds": 1.0},
    {"step": 5, "loss": "nan", "lr": 0.1, "grad_norm": "inf", "tokens": 40, "step_seconds": 1.0},
]
VALIDATED = {
    "val_loss": math.log(8),
    "val_ppl": 8.0,
    "val_bits_per_byte": 1.5,
    "val_top1_acc": 0.25,
}


@pytest.fixture
def run(tmp_path):
    """run(name, rows): the workdir of a run that has logged these."""

    def run(name, rows):
        folder = tmp_path / name
        folder.mkdir()
        sizes = {"d_model": 8, "n_layers": 1, "n_heads": 1, "vocab_size": 11}
        config = Config(base=bases.get("respsann")(**sizes), workdir=str(folder))
        (folder / "config.json").write_text(to_json(config))
        (folder / "data.json").write_text(json.dumps({"train_tokens": 128, "train_sha256": "t"}))
        (folder / "env.json").write_text(json.dumps(describe()))
        lines = (json.dumps({"tokens_per_s": 50.0, **row}) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text("".join(lines))
        return folder

    return run


def test_a_report_has_the_curves_and_what_each_run_came_to(run, tmp_path):
    rows = [ROWS[0], {**ROWS[1], **VALIDATED}]
    folders = [run("one", rows), run("other", rows)]
    text = write_report(folders, tmp_path / "report", "step")
    assert "| one | 1,105 | 256 | 2.0000 | 2.0794 | 8.00 | 1.5000 | 50 | 0.00 |" in text
    report = tmp_path / "report"
    names = {"curves.png", "curves.csv", "report.md", "one", "other"}
    assert {path.name for path in report.iterdir()} == names
    found = json.loads((report / "one" / "metrics.json").read_text())
    assert found["perplexity"] == pytest.approx(8.0) and found["bits_per_byte"] == 1.5
    assert found["top1_accuracy"] == 0.25
    assert found["train_loss"] == 2.0 and found["machine"]["date"] == describe()["date"]
    used = from_json((report / "other" / "config_used.json").read_text())
    assert used.workdir == str(tmp_path / "other")


def test_unlogged_steps_count_as_the_logged_one_after_them(run, tmp_path):
    write_report([run("one", ROWS)], tmp_path / "report")
    with (tmp_path / "report" / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["tokens"] for row in rows] == ["64", "256", "296"]
    assert [row["seconds"] for row in rows] == ["2.0", "5.0", "6.0"]
    assert [row["epoch"] for row in rows] == ["0.5", "2.0", "2.3125"]


def test_one_run_has_its_report_in_its_workdir(run, capsys):
    folder = run("one", ROWS)
    assert verbs.main(["plot", str(folder), "--x", "seconds"]) == 0
    assert "| one |" in capsys.readouterr().out
    found = json.loads((folder / "report" / "one" / "metrics.json").read_text())
    assert found["train_loss"] is None and found["val_loss"] is None


BAD = {
    "no folder for several": (["one", "two"], "--out is missing"),
    "one twice": (["one", "one", "--out", "x"], "two runs are called one"),
    "no run": (["none"], "is no run: it has no config.json"),
    "no step": (["two"], "metrics.jsonl has no step yet; train the run first"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_plotted_is_one_line(run, monkeypatch, capsys, tmp_path, arguments, said):
    run("one", ROWS)
    run("two", [])
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert verbs.main(["plot", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]
    assert sorted(tmp_path.rglob("*")) == before

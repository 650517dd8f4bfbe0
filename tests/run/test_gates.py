"""The gates of a run, and of a preset, as the command prints them; what a hybrid's run logs."""

import json
import math

import numpy as np
import pytest

from psann_jax import bases
from psann_jax.cli.verbs import main
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.evals.gates import gate
from psann_jax.run import gates
from psann_jax.run.main import run
from psann_jax.run.meters import Balance
from psann_jax.run.report import Report
from psann_jax.train.config import TrainConfig
from psann_jax.train.metrics import read_metrics
from psann_jax.train.optimizer import OptimizerConfig

NAMES = ["G0 kernels", "G1 forward", "G2 fresh model", "G3 training", "G3.5 states", "G4 balance"]
SMALL = {"d_model": 16, "n_layers": 1, "n_heads": 2, "dtype": "float32"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    words = np.random.default_rng(0).choice(["sine", "wave", "amplitude", "the"], 900)
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text(" ".join(words))
    return path


@pytest.fixture(scope="module")
def workdir(text, tmp_path_factory):
    """A finished run of the smallest hybrid, on tracks with carried states."""
    folder = tmp_path_factory.mktemp("run") / "run"
    config = Config(
        base=bases.preset("GF", **SMALL),
        data=DataConfig(
            sources=(str(text),),
            tokenizer="groundthink-char",
            max_length=16,
            val_split=0.2,
            split="tail",
            order="tracks",
        ),
        optimizer=OptimizerConfig(learning_rate=2e-2, lr_factors=(("mamba", 0.5),)),
        train=TrainConfig(
            steps=60,
            batch_tokens=8 * 16,
            log_interval_steps=10,
            eval_interval_steps=30,
            save_interval_steps=0,
            sample_tokens=0,
        ),
        workdir=str(folder),
    )
    run(config)
    return folder


def test_a_run_passes_every_gate(workdir, capsys):
    assert main(["gates", str(workdir)]) == 0
    printed = capsys.readouterr().out
    found = json.loads((workdir / gates.JSON).read_text())
    assert [gate["name"] for gate in found] == NAMES
    assert all(gate["name"] in printed and gate["said"] in printed for gate in found)
    assert {gate["status"] for gate in found} <= {"pass", "warn"}


@pytest.mark.mesh
def test_a_run_of_several_devices_passes_every_gate(workdir):
    assert main(["gates", str(workdir)]) == 0


def test_a_skipped_step_is_not_in_the_balance():
    balance = Balance(("rwkv", "mamba"))
    for rms in ((1.0, 2.0), (math.nan, math.nan), (3.0, 6.0)):
        balance.add(dict(zip(balance.names, rms, strict=True)))
    assert balance.taken() == {"grad_rms_rwkv": 2.0, "grad_rms_mamba": 4.0, "grad_ratio": 0.5}
    assert balance.taken() == {}


def test_figures_that_are_no_number_are_null(tmp_path):
    gates.write([gate("G3 training", "fail", "loss nan", loss=math.nan)], tmp_path / gates.JSON)
    assert json.loads((tmp_path / gates.JSON).read_text())[0]["figures"] == {"loss": None}


def test_a_failing_gate_is_the_exit_code(workdir, tmp_path, capsys):
    rows = (workdir / "metrics.jsonl").read_text()
    for name in ("config.json", "tokenizer.model", "data.json"):
        (tmp_path / name).write_bytes((workdir / name).read_bytes())
    (tmp_path / "checkpoints").symlink_to(workdir / "checkpoints")
    starved = rows.replace('"grad_rms_rwkv": ', '"grad_rms_rwkv": 1000')
    (tmp_path / "metrics.jsonl").write_text(starved)
    assert main(["gates", str(tmp_path), "--out", str(tmp_path / "out.json")]) == 1
    statuses = {g["name"]: g["status"] for g in json.loads((tmp_path / "out.json").read_text())}
    assert statuses["G4 balance"] == "fail"


def test_gates_of_another_text_are_refused(workdir, tmp_path, capsys):
    names = ("config.json", "tokenizer.model", "metrics.jsonl")
    for name in names:
        (tmp_path / name).write_bytes((workdir / name).read_bytes())
    (tmp_path / "checkpoints").symlink_to(workdir / "checkpoints")
    was = json.loads((workdir / "data.json").read_text())
    (tmp_path / "data.json").write_text(json.dumps(was | {"train_tokens": 5}))
    assert main(["gates", str(tmp_path)]) == 2
    assert "has changed since the run" in capsys.readouterr().err


def test_metrics_tell_the_branches_apart(workdir):
    rows = read_metrics(workdir / "metrics.jsonl")
    for row in rows:
        assert row["grad_ratio"] == pytest.approx(row["grad_rms_rwkv"] / row["grad_rms_mamba"])
        assert 0 < row["grad_ratio"] < math.inf
    evaluated = [row for row in rows if "val_loss" in row]
    assert [row["step"] for row in evaluated] == [30, 60]
    for row in evaluated:
        assert 0 < row["gate_mean"] < 1
        assert row["rms_rwkv_mean"] == pytest.approx(1.0, abs=0.1)  # behind the out norm
        assert row["val_loss_carried"] < row["val_loss"]


def test_a_preset_is_trained_for_its_gates(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(bases.presets._PRESETS, "1M", SMALL)
    monkeypatch.setattr(gates, "_LENGTH", 16)
    monkeypatch.chdir(tmp_path)
    assert main(["gates", "1m", "--steps", "2", "--text", str(text)]) == 1
    found = {g["name"]: g["status"] for g in json.loads((tmp_path / gates.JSON).read_text())}
    assert [found[name] for name in NAMES[:3]] == ["pass"] * 3
    assert found["G3 training"] == "fail"  # two steps do not beat the counts of letters
    assert found["G4 balance"] == "skipped"  # it wants fifty steps


def test_what_is_neither_a_run_nor_a_preset_is_named():
    with pytest.raises(ValueError, match="'6M' is no folder.*unknown.*known: 1M, 5M"):
        gates.check("6M", Report(quiet=True))
    with pytest.raises(ValueError, match="--steps=0 must be at least 1"):
        gates.check("5M", Report(quiet=True), steps=0)

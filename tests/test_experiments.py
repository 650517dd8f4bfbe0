"""The sweeps of the experiments: whole, of equal sizes, and those that the results came from."""

import dataclasses
import functools
import json
import os
from pathlib import Path
import runpy
import shutil
import sys

import pytest

from psann_jax.cli.sweep import load_sweep
from psann_jax.config import from_json, leaves
from psann_jax.run.sweep_report import write_summary
from psann_jax.run.sweep_result import run_job

ROOT = Path(__file__).parent.parent
SWEEPS = ("sine/sweep.py", "sine/start.py", "bases/sweep.py", "waves/sweep.py")
ALL = (*SWEEPS, "tokenizers/sweep.py", "bases/equal_time.py")
ASKED = {"search": "SEARCH", "speed": "SPEED"}  # the folder of results -> what its command sets
RESULTS = sorted(ROOT.glob("experiments/*/*/summary.json"))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Where the commands of the experiments are given."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delenv("TEXT", raising=False)
    for name in ASKED.values():
        monkeypatch.setenv(name, "")


@functools.cache
def _sweep(file, asked=""):
    for name in ASKED.values():
        os.environ[name] = "1" if name == asked else ""  # put back by the fixture
    return load_sweep(str(ROOT / "experiments" / file))


@pytest.mark.parametrize("file", ALL)
def test_a_sweep_has_three_seeds_or_more_of_each_variant(file):
    sweep = _sweep(file)
    assert len(list(sweep.jobs())) == len(sweep.seeds) * len(sweep.variants) >= 18
    assert len(sweep.seeds) >= 3
    assert sweep.compared_with in sweep.variants


@pytest.mark.parametrize("file", SWEEPS)
def test_its_models_have_equal_parameters_within_a_hundredth(file):
    ablation = runpy.run_path(str(ROOT / "configs" / "ablation.py"))
    bases = {repr(job.config.base): job.config.base for job in _sweep(file).jobs()}
    counts = {ablation["parameters"](base) for base in bases.values()}
    middle = ablation["parameters"](ablation["get_config"]().base)
    assert {n for n in counts if abs(n / middle - 1) > 0.01} == set()


@pytest.mark.parametrize("file", SWEEPS[:3:2])
def test_a_search_tries_rates_with_one_seed(file):
    sweep = _sweep(file, "SEARCH")
    jobs = list(sweep.jobs())
    assert len(jobs) == len(sweep.variants) >= 20 and jobs[0].config.train.steps == 300
    assert len({job.config.optimizer.learning_rate for job in jobs}) >= 3


def _file_of(results):
    own = results.parent.name
    names = {"results": "sweep.py", "search": "sweep.py", "speed": "equal_time.py"}
    name = names.get(own, f"{own}.py")
    return f"{results.parent.parent.name}/{name}"


@pytest.mark.parametrize("results", RESULTS, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_results_are_of_the_sweep_as_it_stands(results):
    """With its configs, but for the text, which a clone lacks; and all runs, but of a search."""
    asked = ASKED.get(results.parent.name, "")
    jobs = {job.name: job.config for job in _sweep(_file_of(results), asked).jobs()}
    runs = {path.stem: json.loads(path.read_text()) for path in results.parent.glob("runs/*.json")}
    assert runs.keys() == jobs.keys() or (runs.keys() < jobs.keys() and asked == "SEARCH")
    for name, run in runs.items():
        found, asked = leaves(from_json(json.dumps(run["config"]))), leaves(jobs[name])
        for free in ("data.sources", "workdir"):
            del found[free], asked[free]
        assert found == asked, name


@pytest.mark.parametrize("experiment", ["bases", "tiny_corpus"])
def test_its_models_take_the_best_rates_of_the_search(experiment):
    folder = ROOT / "experiments" / experiment
    found = json.loads((folder / "search" / "summary.json").read_text())
    best = {}
    for run in found["runs"]:
        name, rate = run["variant"].rsplit("-", 1)
        best[name] = min(best.get(name, (9.0, "")), (run["value"], rate))
    rates = runpy.run_path(str(folder / "sweep.py"))["RATES"]
    assert {name: float(rate) for name, (_, rate) in best.items()} == rates


def _shakespeare(monkeypatch, folder, *options):
    """run.py of the experiment with a text of its own; the results that are there lie in folder."""
    own = ROOT / "experiments" / "groundthink_shakespeare"
    monkeypatch.syspath_prepend(str(own))
    monkeypatch.delitem(sys.modules, "report", raising=False)
    (folder / "text.txt").write_text("the sine wave")
    argv = ["run.py", "long", "--text", str(folder / "text.txt"), *options]
    monkeypatch.setattr(sys, "argv", argv)
    module = runpy.run_path(str(own / "run.py"))
    measure = module["measure"].__globals__
    monkeypatch.setitem(measure, "RESULTS", folder)
    monkeypatch.setitem(measure, "set_up", lambda: None)
    monkeypatch.setitem(measure, "write_report", lambda _: None)
    measure["measure"](measure["arguments"]())


OTHER_SETTINGS = {
    "--steps": "steps 2500 -> 7",
    "--rows": "tokens_per_step 2048 -> 3584",
    "--learning-rate": "learning_rate 0.0015 -> 7.0",
    "--dropout": r"dropout 0\.15 -> 7\.0",
}


@pytest.mark.parametrize("option", OTHER_SETTINGS)
def test_a_result_with_other_settings_is_not_taken_for_this_one(tmp_path, monkeypatch, option):
    results = ROOT / "experiments" / "groundthink_shakespeare" / "results"
    shutil.copy(results / "long-5M-HY-0.json", tmp_path)
    with pytest.raises(ValueError, match=f"HY-0.json has other settings: {OTHER_SETTINGS[option]}"):
        _shakespeare(monkeypatch, tmp_path, option, "7", "--models", "GF")


def test_a_result_of_another_text_is_not_taken_for_this_one(tmp_path, monkeypatch):
    (tmp_path / "long-5M-HY-0.json").write_text(json.dumps({"text": "0" * 64}))
    with pytest.raises(ValueError, match="has other settings: text '0000"):
        _shakespeare(monkeypatch, tmp_path)


def test_a_result_that_is_there_is_said_to_be(tmp_path, monkeypatch, capsys):
    results = ROOT / "experiments" / "groundthink_shakespeare" / "results"
    shutil.copy(results / "long-5M-HY-0.json", tmp_path)
    _shakespeare(monkeypatch, tmp_path)
    assert (
        "long-5M-HY-0.json is already there, and is not measured again" in capsys.readouterr().out
    )


def test_a_small_share_runs_to_its_table(tmp_path, monkeypatch):
    """Two of the sine ablation's variants, small, for two steps, on the text of this Python."""
    monkeypatch.setenv("TEXT", str(tmp_path / "text.txt"))
    (tmp_path / "text.txt").write_text("\n".join(f"the sine wave number {i}" for i in range(400)))
    sweep = _sweep("sine/sweep.py")
    small = {"base.d_model": 12, "base.n_layers": 1, "base.d_mlp": 24, "data.tokenizer": "char"}
    small |= {"data.document": "line", "data.max_length": 32, "data.cache_dir": str(tmp_path)}
    small |= {"train.steps": 2, "train.batch_tokens": 64, "train.eval_batches": 1}
    variants = {name: {**sweep.variants[name], **small} for name in ("A-f-d", "gelu")}
    config = dataclasses.replace(sweep.config, workdir=str(tmp_path / "sweep"))
    sweep = dataclasses.replace(sweep, config=config, variants=variants, seeds=(0,))
    results = [run_job(job) for job in sweep.jobs()]
    assert "| gelu | 1 |" in write_summary(sweep, results)
    rates = {r["variant"]: r["config"]["optimizer"]["learning_rate"] for r in results}
    assert rates == {"A-f-d": 8e-3, "gelu": 4e-3}

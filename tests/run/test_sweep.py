"""A sweep runs each run once, goes on where it was broken, and compares what is done."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest

from psann_jax import bases
from psann_jax.cli import sweep as verb
from psann_jax.cli import verbs
from psann_jax.config import Config, to_json
from psann_jax.data import DataConfig
from psann_jax.evals.comparison import compare, mean_interval, paired_p
from psann_jax.run.report import Report
from psann_jax.run.sweep import RESULT, Sweep, run_job, with_fields
from psann_jax.run.sweep_report import write_summary
from psann_jax.train.config import TrainConfig

QUIET = Report(quiet=True)


@pytest.fixture
def sweep(tmp_path):
    words = np.random.default_rng(0).choice(["sine", "wave", "damped", "the"], 1000)
    text = tmp_path / "corpus.txt"
    text.write_text("\n".join(" ".join(line) for line in words.reshape(-1, 10)))
    config = Config(
        base=bases.get("respsann")(d_model=8, n_layers=1, n_heads=1, d_mlp=16, dtype="float32"),
        data=DataConfig(
            sources=(str(text),), document="line", tokenizer="char", max_length=32, val_split=0.1
        ),
        train=TrainConfig(steps=3, batch_tokens=64, log_interval_steps=1, sample_tokens=0),
        workdir=str(tmp_path / "sweep"),
    )
    variants = {"sine": {}, "fast": {"base.sine.frequency": 3.0}}
    return Sweep(config=config, variants=variants, seeds=(0, 1))


def _results(sweep):
    return [run_job(job, sweep.metric, QUIET) for job in sweep.jobs()]


def test_every_variant_runs_with_every_seed_one_seed_after_the_other(sweep):
    jobs = list(sweep.jobs())
    assert [(j.variant, j.seed) for j in jobs] == [
        ("sine", 0),
        ("fast", 0),
        ("sine", 1),
        ("fast", 1),
    ]
    assert jobs[1].config.base.sine.frequency == 3.0
    assert jobs[2].config.train.seed == 1
    assert len({j.config.workdir for j in jobs}) == 4


def test_a_sweep_broken_in_the_middle_ends_with_the_same_table(sweep, tmp_path):
    table = write_summary(sweep, _results(sweep))
    broken = dataclasses.replace(
        sweep, config=dataclasses.replace(sweep.config, workdir=str(tmp_path / "broken"))
    )

    class Crash(Exception):
        pass

    class Crashing(Report):
        def step(self, step):
            if step == 2:
                raise Crash

    first, second, *_ = broken.jobs()
    run_job(first, broken.metric, QUIET)
    with pytest.raises(Crash):
        run_job(second, broken.metric, Crashing(quiet=True))
    written = first.result_path.stat().st_mtime_ns
    again = write_summary(broken, _results(broken))
    assert first.result_path.stat().st_mtime_ns == written  # not run again

    def without_speed(text):
        return [line.rpartition("|")[0].rpartition("|")[0] for line in text.splitlines()]

    assert without_speed(again) == without_speed(table)


def test_the_verb_runs_prints_and_writes(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("psann_jax.run.environment.set_up", lambda: None)
    file = tmp_path / "sweep.py"
    file.write_text(
        "from psann_jax.config import from_json\nfrom psann_jax.run.sweep import Sweep\n"
        f"def get_sweep():\n    config = from_json({to_json(sweep.config)!r})\n"
        f"    return Sweep(config=config, variants={sweep.variants!r}, seeds=(0, 1))\n"
    )
    assert verbs.main(["sweep", str(file), "--only", "sine"]) == 0
    assert "| sine | 2 |" in capsys.readouterr().out
    assert verbs.main(["sweep", str(file)]) == 0
    out = capsys.readouterr().out
    folder = sweep.folder
    assert out.strip() == (folder / "leaderboard.md").read_text().strip()
    summary = json.loads((folder / "summary.json").read_text())
    assert {row["variant"] for row in summary["variants"]} == {"sine", "fast"}
    with (folder / "summary.csv").open() as rows:
        assert len(list(csv.DictReader(rows))) == 4
    assert (folder / "means.png").stat().st_size and (folder / "curves.png").stat().st_size
    assert verbs.main(["sweep", str(file), "--only", "slow"]) == 2
    assert "--only=slow is none of sine, fast" in capsys.readouterr().err


def test_runs_in_processes_of_their_own_say_why_they_fail(sweep, tmp_path):
    file = tmp_path / "sweep.py"
    file.write_text("raise ValueError('of no use')\n")
    args = verbs.argparse.Namespace(file=str(file), workdir=None, parallel=2)
    jobs = list(sweep.jobs())[:2]
    with pytest.raises(ValueError, match=r"-0 \(exit code \d\): .*of no use; and 1 more"):
        verb._in_parallel(args, jobs)


def test_a_result_of_another_config_is_refused(sweep):
    job = next(sweep.jobs())
    run_job(job, sweep.metric, QUIET)
    other = dataclasses.replace(job, config=with_fields(job.config, {"train.steps": 4}))
    with pytest.raises(ValueError, match="is of another config"):
        other.result()
    assert job.result_path.name == RESULT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": {}}, "at least one of its variants"),
        ({"seeds": (1, 1)}, "names one twice"),
        ({"variants": {"a/b": {}}}, "cannot name a folder"),
        ({"baseline": "sin"}, "baseline='sin' is none of the variants"),
    ],
)
def test_a_sweep_that_makes_no_sense(sweep, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(sweep, **change)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base.sine.frequencey": 3.0}, "no field 'base.sine.frequencey'"),
        ({"base.sine.frequency": -3.0}, "base.sine.frequency=-3.0"),
        ({"base.sine.frequency.x": 3.0}, "no field 'base.sine.frequency.x'"),
    ],
)
def test_fields_are_checked_before_the_first_run(sweep, fields, message):
    bad = dataclasses.replace(sweep, variants={"good": {}, "bad": fields})
    with pytest.raises(ValueError, match=message):
        list(bad.jobs())


def test_an_unknown_metric_is_named(sweep):
    with pytest.raises(ValueError, match="metric='val_los'"):
        run_job(next(sweep.jobs()), "val_los", QUIET)


def test_a_base_may_be_a_variant(sweep):
    other = bases.get("transformer")(d_model=8, n_layers=1, n_heads=1, d_mlp=16)
    made = with_fields(sweep.config, {"base.dropout": 0.5, "base": other})
    assert made.base == dataclasses.replace(other, dropout=0.5)


def test_intervals_are_those_of_student():
    mean, half = mean_interval([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.302653 / math.sqrt(3), rel=1e-6))
    assert math.isnan(mean_interval([1.0])[1])


def test_differences_are_paired_by_seed():
    values = {"base": {0: 1.0, 1: 5.0, 2: 9.0}, "same": {0: 1.0, 1: 5.0, 2: 9.0}}
    values |= {"lower": {0: 0.9, 1: 4.8, 2: 8.9}, "one": {0: 0.5}}
    rows = {row.variant: row for row in compare(values, "base")}
    assert rows["lower"].difference == pytest.approx(-0.4 / 3)
    assert rows["lower"].p == pytest.approx(
        0.0572, abs=1e-3
    )  # though the spread is thirty times that
    assert math.isnan(rows["same"].p) and rows["one"].difference == -0.5
    assert math.isnan(paired_p([0.1]))
    assert [row.variant for row in compare(values, "base")][0] == "one"

"""A sweep runs each run once, goes on where it was broken, and compares what is done."""

import contextlib
import csv
import dataclasses
import io
import json
import logging
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from psann_jax import bases
from psann_jax.cli import verbs
from psann_jax.config import Config, to_json
from psann_jax.data import DataConfig
from psann_jax.run.figures import METRICS, totals
from psann_jax.run.report import Report
from psann_jax.run.sweep import TIMINGS, Sweep, with_fields
from psann_jax.run.sweep_report import write_summary
from psann_jax.run.sweep_result import measured, run_job
from psann_jax.run.sweep_text import refuse_other_text
from psann_jax.run.workdir import Workdir
from psann_jax.train.config import TrainConfig
from psann_jax.train.metrics import read_metrics

WILD = {"optimizer.learning_rate": 1e38, "optimizer.grad_clip": 0.0, "train.max_skipped_steps": 1}
VARIANTS = {"wild": WILD, "sine": {}, "fast": {"base.sine.frequency": 3.0}}


def _sweep(folder):
    words = np.random.default_rng(0).choice(["sine", "wave", "damped", "the"], 1000)
    text = folder / "corpus.txt"
    text.write_text("\n".join(" ".join(line) for line in words.reshape(-1, 10)))
    config = Config(
        base=bases.get("respsann")(d_model=8, n_layers=1, n_heads=1, d_mlp=16, dtype="float32"),
        data=DataConfig(
            sources=(str(text),), document="line", tokenizer="char", max_length=32, val_split=0.1
        ),
        train=TrainConfig(
            steps=4, batch_tokens=64, log_interval_steps=1, save_interval_steps=2, sample_tokens=0
        ),
        workdir=str(folder / "sweep"),
    )
    return Sweep(config=config, variants=VARIANTS, seeds=(0,), baseline="sine")


def _file(sweep, folder):
    file = folder / "sweep.py"
    file.write_text(
        "from psann_jax.config import from_json\nfrom psann_jax.run.sweep import Sweep\n"
        f"def get_sweep():\n    config = from_json({to_json(sweep.config)!r})\n"
        f"    return Sweep(config=config, variants={sweep.variants!r}, seeds={sweep.seeds!r}, "
        f"baseline={sweep.baseline!r})\n"
    )
    return str(file)


@pytest.fixture
def sweep(tmp_path):
    """Nothing of it is run."""
    return _sweep(tmp_path)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of three runs, the first of which diverges, and what its verb printed."""
    folder = tmp_path_factory.mktemp("swept")
    sweep, log = _sweep(folder), logging.getLogger("psann_jax")
    handlers, propagate, level = list(log.handlers), log.propagate, log.level
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as out,
    ):
        patch.setattr("psann_jax.run.environment.set_up", lambda: None)
        assert verbs.main(["sweep", _file(sweep, folder)]) == 0
    log.handlers, log.propagate = handlers, propagate
    log.setLevel(level)
    return sweep, out.getvalue()


def _results(sweep):
    return [job.result() for job in sweep.jobs()]


def test_every_variant_runs_with_every_seed_one_seed_after_the_other(sweep):
    jobs = list(dataclasses.replace(sweep, seeds=(0, 1)).jobs())
    named = [(name, seed) for seed in (0, 1) for name in ("wild", "sine", "fast")]
    assert [(j.variant, j.seed) for j in jobs] == named
    assert jobs[2].config.base.sine.frequency == 3.0
    assert jobs[3].config.train.seed == 1
    assert len({j.config.workdir for j in jobs}) == 6


def test_an_address_for_the_folder_of_a_sweep_is_refused(sweep):
    config = dataclasses.replace(sweep.config, workdir="gs://b/x")
    with pytest.raises(ValueError, match="^workdir='gs://b/x' is an address"):
        list(dataclasses.replace(sweep, config=config).jobs())


def test_a_table_two_pictures_and_the_figures_of_each_run_are_written(swept):
    sweep, out = swept
    folder = sweep.folder
    assert out.strip() == (folder / "leaderboard.md").read_text().strip()
    summary = json.loads((folder / "summary.json").read_text())
    assert {row["variant"] for row in summary["variants"]} == set(VARIANTS)
    with (folder / "summary.csv").open() as rows:
        assert {row["seed"] for row in csv.DictReader(rows)} == {"0"}
    assert (folder / "means.png").stat().st_size and (folder / "curves.png").stat().st_size


def test_a_run_that_diverged_ranks_last_and_does_not_keep_the_others_from_it(swept):
    sweep, out = swept
    rows = [line.split(" | ") for line in out.splitlines()[2:]]
    assert {row[0] for row in rows[:2]} == {"| sine", "| fast"}
    assert rows[2][:3] == ["| wild", "1", "diverged (1 of 1)"]
    wild = measured(_results(sweep)[0], sweep.metric)
    assert "in a row that were skipped" in wild["diverged"] and math.isnan(wild["value"])


def test_a_run_is_not_run_again(swept):
    sweep, _ = swept
    for job in sweep.jobs():
        written = job.result_path.stat().st_mtime_ns
        assert run_job(job) == job.result()
        assert job.result_path.stat().st_mtime_ns == written


def test_a_broken_run_ends_with_the_figures_of_an_unbroken_one_but_for_timings(swept, tmp_path):
    class Crash(Exception):
        pass

    class Crashing(Report):
        def step(self, step):
            if step == 3:
                raise Crash

    job = list(swept[0].jobs())[1]
    config = dataclasses.replace(job.config, workdir=str(tmp_path / "broken"))
    broken = dataclasses.replace(job, config=config)
    with pytest.raises(Crash):
        run_job(broken, Crashing(quiet=True))
    again = run_job(broken, Report(quiet=True))

    def figures(result):
        kept = {k: v for k, v in result.items() if k not in (*TIMINGS, "config", "curve")}
        timed = (*TIMINGS, "memory_bytes")
        curve = [{k: v for k, v in row.items() if k not in timed} for row in result["curve"]]
        return kept, curve

    assert figures(again) == figures(job.result())


def test_tokens_are_those_of_every_step(swept):
    job = list(swept[0].jobs())[1]
    rows = read_metrics(Workdir(job.config.workdir).metrics)
    assert job.result()["tokens"] == sum(row["tokens"] for row in rows) > 0


def test_unlogged_steps_have_the_median_of_tokens_and_the_seconds_of_the_logged_one_after_them():
    logged = ((1, 64, 9.0), (50, 64, 1.0), (100, 10, 2.0))
    rows = [{"step": step, "tokens": n, "step_seconds": s} for step, n, s in logged]
    assert totals(rows) == [(64, 9.0), (50 * 64, 58.0), (99 * 64 + 10, 158.0)]
    assert totals([]) == []


def test_metrics_are_names_that_a_run_logs(swept):
    logged = {name for row in _results(swept[0])[1]["curve"] for name in row}
    # The other one is of data.order="tracks".
    assert logged == {"step", *METRICS, "val_top1_acc", "memory_bytes"} - {"val_loss_carried"}


def test_another_metric_takes_its_own_values_from_the_runs_that_are_done(swept, tmp_path):
    sweep = dataclasses.replace(swept[0], metric="loss")
    result = _results(sweep)[1]
    last = read_metrics(Workdir(result["config"]["workdir"]).metrics)[-1]
    assert measured(result, "loss")["value"] == last["loss"]
    assert measured(result, "val_loss")["value"] == last["val_loss"]
    config = dataclasses.replace(sweep.config, workdir=str(tmp_path))
    table = write_summary(dataclasses.replace(sweep, config=config), _results(sweep))
    assert f"| sine | 1 | {last['loss']:.4f} |" in table


def test_a_table_of_runs_on_different_text_is_refused(swept):
    results = _results(swept[0])
    results[1]["data"] = {"train_sha256": "0", "val_sha256": "0"}
    with pytest.raises(ValueError, match="has changed between the runs wild-0 and sine-0; bring"):
        write_summary(swept[0], results)


def test_text_that_was_edited_is_refused_before_the_next_run(swept, tmp_path):
    sweep = swept[0]
    edited = tmp_path / "corpus.txt"
    edited.write_text("quite another text\n" * 100)
    results = _results(sweep)
    for result in results:
        result["config"]["data"]["sources"] = [str(edited)]
    fields = {"data.sources": (str(edited),), "train.seed": 1}
    job = next(sweep.jobs())
    job = dataclasses.replace(job, seed=1, config=with_fields(job.config, fields))
    with pytest.raises(ValueError, match="has changed between the runs wild-0 and wild-1; bring"):
        refuse_other_text([job], results, sweep.metric)


def test_variants_may_read_their_text_in_different_ways(swept):
    sweep = swept[0]
    job = next(sweep.jobs())
    job = dataclasses.replace(job, config=with_fields(job.config, {"data.max_length": 16}))
    refuse_other_text([job], _results(sweep), sweep.metric)


def test_a_single_document_has_no_validation_for_the_metric(sweep, tmp_path):
    (tmp_path / "corpus.txt").write_text("one line of text")
    with pytest.raises(ValueError, match="metric='val_bits_per_byte' needs validation text"):
        refuse_other_text(list(sweep.jobs()), [], sweep.metric)


def test_runs_of_different_code_are_told_under_the_table(swept, tmp_path):
    sweep, out = swept
    results = _results(sweep)
    results[2]["code"] = "f00dfeed" * 8
    sweep = dataclasses.replace(
        sweep, config=dataclasses.replace(sweep.config, workdir=str(tmp_path))
    )
    last = write_summary(sweep, results).splitlines()[-1]
    assert last.startswith("The code changed between these runs")
    assert "wild-0, sine-0; f00dfeed: fast-0." in last
    assert "The code changed" not in out


def test_the_process_that_starts_the_runs_touches_no_device(swept, tmp_path):
    sweep, out = swept
    more = dataclasses.replace(sweep, variants={**VARIANTS, "slow": {"base.sine.frequency": 0.5}})
    said = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import sys; from psann_jax.cli.verbs import main; sys.executable = '/bin/true'; "
            "sys.exit(main(sys.argv[1:]))",
            *("sweep", _file(more, tmp_path), "--parallel", "2"),
        ],
        env={**os.environ, "JAX_PLATFORMS": "none"},  # whoever asks for a device fails
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert "slow-0 begins" in said.stderr
    assert said.stdout == out


def test_a_result_of_another_config_is_refused(swept):
    job = next(swept[0].jobs())
    other = dataclasses.replace(job, config=with_fields(job.config, {"train.steps": 5}))
    with pytest.raises(ValueError, match="is of another config: train.steps 4 -> 5; choose"):
        other.result()


def test_a_result_whose_folder_is_named_otherwise_stays_good(sweep, tmp_path):
    job = next(sweep.jobs())
    job.result_path.parent.mkdir(parents=True)
    job.keep({"value": 1.0})
    shutil.move(sweep.folder, tmp_path / "moved")
    config = dataclasses.replace(sweep.config, workdir=str(tmp_path / "moved"))
    data = dataclasses.replace(config.data, cache_dir=str(tmp_path / "cache"))
    moved = dataclasses.replace(sweep, config=dataclasses.replace(config, data=data))
    assert next(moved.jobs()).result()["value"] == 1.0


def test_a_metric_that_a_run_did_not_log_is_named():
    run = {"variant": "sine", "seed": 0, "diverged": None, "curve": [{"step": 1, "loss": 2.0}]}
    with pytest.raises(ValueError, match="metric='val_loss': run sine-0 logged none; it has loss"):
        measured(run, "val_loss")
    assert measured(run, "loss")["value"] == 2.0
    assert measured(run, "loss")["val_loss"] is None
    curve = [{"loss": 3.0, "val_loss": 2.5}, {"loss": 2.0, "program_bytes": 7}]
    found = measured({**run, "curve": curve}, "loss")
    assert (found["val_loss"], found["val_ppl"], found["program_bytes"]) == (2.5, None, 7)
    assert math.isnan(measured({**run, "diverged": "at once"}, "val_loss")["value"])


def test_a_result_from_before_a_field_was_there_stays_good(sweep):
    job = next(sweep.jobs())
    job.result_path.parent.mkdir(parents=True)
    job.keep({"value": 1.0})
    result = json.loads(job.result_path.read_text())
    del result["config"]["optimizer"]["offload"]
    job.result_path.write_text(json.dumps(result))
    assert job.result()["value"] == 1.0


def test_a_result_of_an_earlier_format_counts_as_none(sweep):
    job = next(sweep.jobs())
    job.result_path.parent.mkdir(parents=True)
    job.result_path.write_text(json.dumps({"config": json.loads(to_json(job.config))}))
    assert job.result() is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": "quickstart"}, "config='quickstart' must be a psann_jax Config"),
        ({"variants": {}}, "at least one of its variants"),
        ({"variants": ["fast"]}, r"variants=\['fast'\] must be a dict"),
        ({"variants": {"fast": 3.0}}, "variants: 'fast': 3.0 must be a name and a dict"),
        ({"variants": {"fast": {3: 4}}}, "must be a name and a dict of fields"),
        ({"variants": {"a/b": {}}}, "cannot name a folder"),
        ({"variants": {"a": {"train.seed": 9}}}, "'a' sets train.seed, which each run"),
        ({"variants": {"a": {"workdir": "x"}}}, "'a' sets workdir, which each run"),
        ({"seeds": 3}, r"seeds=3 must be a tuple of whole numbers, as \(0, 1, 2\)"),
        ({"seeds": (0, 1.5)}, "must be a tuple of whole numbers"),
        ({"seeds": (1, 1)}, "names one twice"),
        ({"baseline": "sin"}, "baseline='sin' is none of the variants; did you mean 'sine'"),
        ({"metric": "val_los"}, "metric='val_los' must be one of .*; did you mean 'val_loss'"),
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
        ({"train.steps": "ten"}, "train.steps='ten' must be a whole number"),
        ({"base": "respsann"}, "base='respsann' must be a Base"),
        ({"data.val_split": 0}, "needs validation text, and variant 'bad' has data.val_split=0"),
    ],
)
def test_fields_are_checked_before_the_first_run(sweep, fields, message):
    bad = dataclasses.replace(sweep, variants={"good": {}, "bad": fields}, baseline=None)
    with pytest.raises(ValueError, match=message):
        list(bad.jobs())


def test_carried_loss_is_the_metric_of_tracks_alone(sweep):
    with pytest.raises(ValueError, match="metric='val_loss_carried' needs data.order='tracks'"):
        list(dataclasses.replace(sweep, metric="val_loss_carried").jobs())


def test_a_base_may_be_a_variant(sweep):
    other = bases.get("transformer")(d_model=8, n_layers=1, n_heads=1, d_mlp=16)
    made = with_fields(sweep.config, {"base.dropout": 0.5, "base": other})
    assert made.base == dataclasses.replace(other, dropout=0.5)

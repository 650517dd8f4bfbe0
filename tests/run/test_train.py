"""A run survives being stopped anywhere: what it ends with is what an unbroken one ends with."""

import dataclasses
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from psann_jax import bases
from psann_jax.cli.exits import exit_code
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.run.load import load_run
from psann_jax.run.main import run
from psann_jax.run.report import Report
from psann_jax.run.stop import EXIT_FAILED, MachineFailed
from psann_jax.run.workdir import Workdir
from psann_jax.train.checkpoint import Checkpoints
from psann_jax.train.config import TrainConfig
from psann_jax.train.metrics import read_metrics
from psann_jax.train.optimizer import OptimizerConfig

TIMES = {"tokens_per_s", "step_seconds", "memory_bytes"}  # what two runs may differ in


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    words = np.random.default_rng(0).choice(["sine", "wave", "amplitude", "damped", "the"], 4000)
    lines = [" ".join(line) for line in words.reshape(-1, 10)]
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def config(text, tmp_path):
    return _config(text, tmp_path / "run")


def _config(text, workdir, **train):
    defaults = {
        "steps": 8,
        "batch_tokens": 256,
        "log_interval_steps": 1,
        "eval_interval_steps": 4,
        "save_interval_steps": 2,
        "sample_tokens": 8,
    }
    return Config(
        base=bases.get("waveresnet")(
            d_model=16, n_layers=2, n_heads=2, d_mlp=32, dtype="float32", dropout=0.1
        ),
        data=DataConfig(
            sources=(str(text),), document="line", tokenizer="char", max_length=32, val_split=0.1
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=TrainConfig(**defaults | train),
        workdir=str(workdir),
    )


def _quiet(config):
    return run(config, Report(quiet=True))


def _rows(workdir):
    rows = read_metrics(Workdir(workdir).metrics)
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def _assert_same_end(one, other):
    """Bitwise the same metrics and parameters."""
    assert _rows(one) == _rows(other)
    a, b = (load_run(path, "newest") for path in (one, other))
    assert a.step == b.step
    import jax

    for x, y in zip(jax.tree.leaves(a.model), jax.tree.leaves(b.model), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture(scope="module")
def straight(text, tmp_path_factory):
    """The workdir of an unbroken run."""
    config = _config(text, tmp_path_factory.mktemp("straight") / "run")
    _quiet(config)
    return config.workdir


def test_a_run_leaves_what_its_workdir_promises(straight):
    names = {p.name for p in Path(straight).iterdir()}
    assert names == {
        "checkpoints",
        "config.json",
        "data.json",
        "env.json",
        "loss_curve.png",
        "metrics.jsonl",
        "run.lock",
        "samples.txt",
        "tokenizer.model",
    }
    rows = read_metrics(Workdir(straight).metrics)
    assert [row["step"] for row in rows] == list(range(1, 9))
    wanted = {"step", "loss", "ppl", "lr", "grad_norm", "tokens_per_s", "step_seconds"}
    assert all(wanted <= row.keys() for row in rows)
    assert [row["step"] for row in rows if "val_bits_per_byte" in row] == [4, 8]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert "▸" in (Path(straight) / "samples.txt").read_text()


def _first_part(config, stop_at):
    """Runs the first steps of a run by raising within it, as a crash would."""

    class Crash(Exception):
        pass

    class Crashing(Report):
        def step(self, step):
            if step == stop_at:
                raise Crash

    with pytest.raises(Crash):
        run(config, Crashing(quiet=True))


@pytest.mark.parametrize("stop_at", [1, 8])
def test_a_crashed_run_goes_on_to_the_same_end(config, straight, stop_at):
    _first_part(config, stop_at)
    _quiet(config)
    _assert_same_end(config.workdir, straight)


def test_a_run_resumes_from_the_step_before_a_damaged_one(config, straight, monkeypatch):
    _first_part(config, 7)
    # What is restored takes all the memory that a state takes: no other one is made before.
    monkeypatch.delattr("psann_jax.run.train.init_state")
    newest = max(Path(config.workdir, "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))
    victim = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    _quiet(config)
    _assert_same_end(config.workdir, straight)


def test_a_run_whose_every_checkpoint_is_damaged_is_refused_and_kept(config, straight):
    shutil.copytree(straight, config.workdir)
    for step in Path(config.workdir, "checkpoints").glob("[0-9]*"):
        (step / "state" / "_METADATA").write_text("{")
    saved = Path(config.workdir, "checkpoints")
    before = {p: p.read_bytes() for p in saved.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="no checkpoint in .* is whole any more, of steps"):
        _quiet(config)
    assert {p: p.read_bytes() for p in saved.rglob("*") if p.is_file()} == before
    assert _rows(config.workdir) == _rows(straight)


def test_a_disk_that_fails_in_a_run_is_worth_another_start(config, monkeypatch, capsys):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("psann_jax.train.checkpoint.seal", full)
    assert exit_code(lambda: _quiet(config)) == EXIT_FAILED
    said = capsys.readouterr().err
    assert "No space left on device; start it again to go on" in said
    assert len(said.strip().splitlines()) == 1


def test_a_finished_run_started_again_changes_nothing(config, straight):
    _quiet(config)
    before = Workdir(config.workdir).metrics.read_bytes()
    _quiet(config)
    assert Workdir(config.workdir).metrics.read_bytes() == before


def test_more_saves_and_logs_change_no_number(config, straight):
    train = dataclasses.replace(config.train, save_interval_steps=3, keep_checkpoints=1)
    _quiet(dataclasses.replace(config, train=train))
    _assert_same_end(config.workdir, straight)


def test_last_checkpoints_and_the_best_are_kept(straight):
    checkpoints = Checkpoints(Workdir(straight).checkpoints)
    assert checkpoints.steps()[0] == 8
    assert len(checkpoints.steps()) <= 4
    losses = {r["step"]: r["val_loss"] for r in _rows(straight) if "val_loss" in r}
    assert checkpoints.best() == min((v, k) for k, v in losses.items())[::-1]
    checkpoints.close()


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("optimizer", "learning_rate", 2e-2),
        ("base", "d_mlp", 64),
        ("data", "seed", 7),
        ("train", "batch_tokens", 512),
        ("train", "label_smoothing", 0.1),
    ],
)
def test_another_config_is_refused_by_the_name_of_the_field(config, part, field, value):
    _first_part(config, 2)
    changed = dataclasses.replace(getattr(config, part), **{field: value})
    with pytest.raises(ValueError, match=rf"{part}\.{field} .*-> {value}") as error:
        _quiet(dataclasses.replace(config, **{part: changed}))
    assert "\n" not in str(error.value)


def test_edited_text_is_refused(config, tmp_path):
    """The same path and config, other text: going on would not be the same run."""
    source = Path(config.data.sources[0])
    own = tmp_path / "own.txt"
    own.write_bytes(source.read_bytes())
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, sources=(str(own),)))
    _first_part(config, 2)
    own.write_text(own.read_text() + "\nthe wave")
    with pytest.raises(ValueError, match=r"data\.sources has changed.*train_"):
        _quiet(config)


def test_a_folder_that_is_no_run_is_refused(config):
    Path(config.workdir).mkdir()
    Path(config.workdir, "thesis.tex").write_text("irreplaceable")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        _quiet(config)
    assert Path(config.workdir, "thesis.tex").read_text() == "irreplaceable"


def test_a_corpus_shorter_than_a_row_is_refused(config, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("a b\nc d\n")
    data = dataclasses.replace(config.data, sources=(str(short),))
    with pytest.raises(ValueError, match=r"fewer than one row of data\.max_length=32"):
        _quiet(dataclasses.replace(config, data=data))
    assert not Path(config.workdir).exists()


def test_a_tokenizer_that_cannot_be_read_is_bad_input_and_no_failure_of_the_machine(config):
    """A restart, which a failed machine asks for, would not mend it."""
    config.data.tokenizer_path = "x" * 300  # longer than a file's name may be
    with pytest.raises(OSError, match="too long") as told:
        _quiet(config)
    assert not isinstance(told.value, MachineFailed)


def test_a_vocabulary_that_the_corpus_cannot_fill_is_refused(config):
    data = dataclasses.replace(config.data, tokenizer="sentencepiece", vocab_size=5000)
    with pytest.raises(ValueError, match=r"data\.vocab_size=5000 is too large.*which yields \d+"):
        _quiet(dataclasses.replace(config, data=data))


def test_accumulated_micro_batches_train_as_one_batch(config, straight):
    """Without dropout, whose masks follow the micro-batches."""
    base = dataclasses.replace(config.base, dropout=0.0)
    ends = []
    for accum in (1, 4):
        train = dataclasses.replace(
            config.train, batch_tokens=1024, grad_accum_steps=accum, sample_tokens=0
        )
        workdir = f"{config.workdir}{accum}"
        ends.append(_quiet(dataclasses.replace(config, base=base, train=train, workdir=workdir)))
    losses = [[row["loss"] for row in end.rows] for end in ends]
    np.testing.assert_allclose(*losses, atol=1e-4)  # float32 sums in another order, 8 steps


def _start(config, tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        "from psann_jax.config import from_json\n"
        f"def get_config():\n    return from_json({_json(config)!r})\n"
    )
    # As a user's, the child is compiled with every optimisation.
    environment = {**os.environ, "XLA_FLAGS": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "psann_jax.main", "--config", str(file)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def _json(config):
    from psann_jax.config import to_json

    return to_json(config)


def _wait_for_step(process, config, step):
    metrics = Workdir(config.workdir).metrics
    while process.poll() is None and len(read_metrics(metrics)) < step:
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_end(text, tmp_path):
    """kill -9 at a step between two saves, twice; the ends are bitwise equal."""
    long = {"steps": 60, "save_interval_steps": 7, "eval_interval_steps": 20}
    whole, broken = (_config(text, tmp_path / name, **long) for name in ("whole", "broken"))
    process = _start(whole, tmp_path)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    for step in (10, 31):
        process = _start(broken, tmp_path)
        _wait_for_step(process, broken, step)
        process.kill()
        process.communicate()
    process = _start(broken, tmp_path)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert "resumed at step" in said
    _assert_same_end(broken.workdir, whole.workdir)


@pytest.mark.slow
def test_a_terminated_process_saves_its_step_and_exits_75(text, tmp_path):
    config = _config(text, tmp_path / "run", steps=100_000, save_interval_steps=0)
    process = _start(config, tmp_path)
    _wait_for_step(process, config, 5)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 75, said
    saved = Checkpoints(Workdir(config.workdir).checkpoints)
    assert saved.newest() == read_metrics(Workdir(config.workdir).metrics)[-1]["step"]
    saved.close()
    assert json.loads(Workdir(config.workdir).config.read_text())["train"]["steps"] == 100_000


@pytest.mark.slow
def test_a_second_process_is_refused_and_the_first_one_goes_on(text, tmp_path, capsys):
    config = _config(text, tmp_path / "run", steps=100_000, save_interval_steps=0)
    process = _start(config, tmp_path)
    _wait_for_step(process, config, 5)
    assert exit_code(lambda: _quiet(config)) == 2
    said = capsys.readouterr().err
    assert f"is in use: process {process.pid} on " in said and len(said.splitlines()) == 1
    reached = len(_rows(config.workdir))
    _wait_for_step(process, config, reached + 5)
    process.send_signal(signal.SIGTERM)
    assert process.communicate() and process.returncode == 75
    rows = _rows(config.workdir)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)) and len(rows) > reached


def test_given_steps_are_profiled(text, tmp_path):
    run(_config(text, tmp_path / "run", steps=3, profile_steps="2:3"), Report(quiet=True))
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("steps", ["20", "5:2", "0:2", "a:b", "-1:3"])
def test_steps_to_profile_are_two(steps):
    with pytest.raises(ValueError, match="train.profile_steps=.* as 20:25"):
        TrainConfig(profile_steps=steps)


@pytest.fixture
def of_epochs(config):
    """of_epochs(epochs=1, ...): trains on, steps of 64 rows, the last of them not full."""

    def train(**changed):
        chosen = {"steps": None, "batch_tokens": 2048, "sample_tokens": 0} | changed
        run(dataclasses.replace(config, train=dataclasses.replace(config.train, **chosen)))
        return read_metrics(Workdir(config.workdir).metrics)

    return train


def test_tokens_per_second_are_those_of_the_steps_they_are_timed_over(of_epochs):
    first, last = of_epochs(log_interval_steps=99, eval_interval_steps=0, save_interval_steps=0)
    steps = last["step"] - first["step"]
    assert last["tokens"] < 0.9 * first["tokens"] and steps > 3
    expected = (first["tokens"] * (steps - 1) + last["tokens"]) / steps
    # Rows differ by a few tokens.
    assert last["tokens_per_s"] * last["step_seconds"] == pytest.approx(expected, rel=0.02)


def test_a_longer_run_says_what_its_last_step_leaves_out(of_epochs, config, capsys):
    of_epochs()
    assert "passed over" not in capsys.readouterr().err
    of_epochs(epochs=2)
    said = capsys.readouterr().err
    n_rows = json.loads(Workdir(config.workdir).data.read_text())["train_rows"]
    assert f"the {-n_rows % 64} rows of the next epoch that would have filled it are passed" in said
    assert "train.epochs has changed: the learning rate follows" in said

"""Runs on tracks: they resume exactly within an epoch, and say both validation losses."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from psann_jax import bases, psannLM, psannLMDataPrep
from psann_jax.config import Config, from_json, to_json
from psann_jax.data import DataConfig, prepare
from psann_jax.evals.perplexity import evaluate_carried
from psann_jax.run.evaluate import evaluate_run
from psann_jax.run.load import load_run
from psann_jax.run.main import run
from psann_jax.run.plan import make_plan
from psann_jax.run.report import Report
from psann_jax.run.workdir import Workdir
from psann_jax.seq import Batch
from psann_jax.train.config import TrainConfig
from psann_jax.train.metrics import read_metrics
from psann_jax.train.optimizer import OptimizerConfig
from psann_jax.train.step import carried_eval_step, loss_fn

TIMES = {"tokens_per_s", "step_seconds", "memory_bytes"}  # what two runs may differ in
STEPS = 9
ROWS = 4  # tracks; the text makes 22 rows, so that an epoch has 5 steps


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    words = np.random.default_rng(0).choice(["sine", "wave", "amplitude", "the"], 160)
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text(" ".join(words)[:840])
    return path


def _config(waves, text, workdir, **train):
    defaults = {"steps": STEPS, "batch_tokens": ROWS * 32, "log_interval_steps": 1}
    defaults |= {"eval_interval_steps": 4, "save_interval_steps": 2, "sample_tokens": 4}
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}
    return Config(
        base=waves(**sizes, dtype="float32", dropout=0.1),
        data=DataConfig(
            sources=(str(text),),
            tokenizer="groundthink-char",
            max_length=32,
            split="tail",
            val_split=0.2,
            order="tracks",
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=TrainConfig(**defaults | train),
        workdir=str(workdir),
    )


@pytest.fixture
def config(waves, text, tmp_path):
    return _config(waves, text, tmp_path / "run")


@pytest.fixture(scope="module")
def straight(waves, text, tmp_path_factory):
    """The workdir of an unbroken run."""
    config = _config(waves, text, tmp_path_factory.mktemp("straight") / "run")
    run(config, Report(quiet=True))
    return config.workdir


def _rows(workdir):
    rows = read_metrics(Workdir(workdir).metrics)
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def _crash(config, stop_at):
    class Crash(Exception):
        pass

    class Crashing(Report):
        def step(self, step):
            if step == stop_at:
                raise Crash

    with pytest.raises(Crash):
        run(config, Crashing(quiet=True))


@pytest.mark.parametrize("stop_at", [4, 8])  # within an epoch of 5 steps, both times
def test_a_crashed_run_goes_on_to_the_same_end(config, straight, stop_at):
    _crash(config, stop_at)
    run(config, Report(quiet=True))
    assert _rows(config.workdir) == _rows(straight)
    models = [load_run(path, "newest").model for path in (config.workdir, straight)]
    for a, b in zip(*map(jax.tree.leaves, models), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_an_epoch_has_the_steps_of_a_track(config):
    corpus = prepare(config.data)
    assert len(corpus.train) // ROWS == 5
    train = dataclasses.replace(config.train, steps=None, epochs=3)
    config = dataclasses.replace(config, train=train)
    base = dataclasses.replace(config.base, vocab_size=corpus.tokenizer.vocab_size)
    assert make_plan(dataclasses.replace(config, base=base), corpus).steps == 15


def test_validation_is_told_with_and_without_states(straight):
    told = [row for row in _rows(straight) if "val_loss" in row]
    assert [row["step"] for row in told] == [4, 8, STEPS]
    assert all(row["val_loss"] != row["val_loss_carried"] for row in told)


def test_a_few_batches_are_the_same_text_for_both_losses(config):
    """Row by row from zero states, since each track has one; and bits of the bytes of that text."""
    train = dataclasses.replace(config.train, steps=1, eval_batches=1)
    run(config := dataclasses.replace(config, train=train), Report(quiet=True))
    told = _rows(config.workdir)[-1]
    np.testing.assert_allclose(told["val_loss"], told["val_loss_carried"], rtol=1e-6)
    corpus = prepare(config.data)
    batch = corpus.val.batch(range(ROWS))
    assert len(corpus.val) > ROWS
    n_bytes = len(corpus.tokenizer.decode(batch.targets[batch.weights > 0]))  # all ASCII
    bits = told["val_loss"] * batch.weights.sum() / np.log(2) / n_bytes
    np.testing.assert_allclose(told["val_bits_per_byte"], bits, rtol=1e-6)


def test_validation_leaves_the_training_as_it_is(config, straight):
    train = dataclasses.replace(config.train, eval_interval_steps=1)
    run(dataclasses.replace(config, train=train), Report(quiet=True))
    losses = [[row["loss"] for row in _rows(path)] for path in (config.workdir, straight)]
    assert losses[0] == losses[1]


def test_eval_tells_the_loss_with_states_that_the_run_logged(straight):
    told = evaluate_run(straight, step="newest")
    logged = _rows(straight)[-1]
    for name in ("val_loss", "val_loss_carried"):
        np.testing.assert_allclose(told[name], logged[name], rtol=1e-5)
    assert json.dumps(told)


def test_states_carried_along_one_track_give_the_loss_of_one_long_row(straight, one_device):
    model, config = load_run(straight, "newest").model, Workdir(straight).saved_config()
    val = prepare(config.data).val
    rows = val.batch(np.arange(len(val)))
    assert (rows.positions == 0).sum() == len(val) + (rows.segments == 0).sum()  # one document
    long = Batch(*(a.reshape(1, -1) for a in rows))
    positions = np.arange(long.inputs.size, dtype=np.int32)[None]
    nats = loss_fn(model, long._replace(positions=positions, segments=(long.segments > 0) * 1))
    carried = evaluate_carried(jax.jit(carried_eval_step), model, val, one_device, tracks=1)
    # float32 sums in another order
    np.testing.assert_allclose(carried["val_loss_carried"], nats / long.weights.sum(), rtol=1e-5)


def test_few_rows_are_evaluated_as_fewer_tracks(straight, one_device):
    model, config = load_run(straight, "newest").model, Workdir(straight).saved_config()
    val = prepare(config.data).val
    step = jax.jit(carried_eval_step)
    many = evaluate_carried(step, model, val, one_device, tracks=1000)
    as_rows = evaluate_carried(step, model, val, one_device, tracks=len(val))
    one = evaluate_carried(step, model, val, one_device, tracks=1)
    assert many == as_rows
    assert one != many


def test_a_base_whose_states_grow_is_refused(config):
    base = bases.get("transformer")(d_model=16, n_layers=2, n_heads=2)
    said = r"data\.order='tracks'.*base='transformer'.*: groundthink, mamba2"
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(config, base=base)


def test_more_tracks_than_rows_are_refused(config):
    train = dataclasses.replace(config.train, batch_tokens=32 * 100)
    with pytest.raises(ValueError, match=r"22 rows do not make 100 tracks; lower train\.batch_t"):
        run(dataclasses.replace(config, train=train), Report(quiet=True))


def test_another_order_is_another_run(config):
    _crash(config, 3)
    data = dataclasses.replace(config.data, order="shuffled")
    with pytest.raises(ValueError, match=r"data\.order 'tracks' -> 'shuffled'"):
        run(dataclasses.replace(config, data=data), Report(quiet=True))


def test_the_config_comes_back_from_json(config):
    assert from_json(to_json(config)) == config


@pytest.mark.mesh
def test_a_run_resumes_on_other_devices(config, straight):
    """Eight devices fill the four tracks up; a saved state has four in either case."""
    _crash(config, 4)
    mesh = dataclasses.replace(config.mesh, data=2, fsdp=4)
    run(dataclasses.replace(config, mesh=mesh), Report(quiet=True))
    losses = [[row["loss"] for row in _rows(path)] for path in (config.workdir, straight)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_fit_trains_on_tracks(waves):
    texts = ["the sine of a wave " * 20, "a damped wave " * 20]
    data = psannLMDataPrep(
        texts, tokenizer="char", max_length=16, val_split=0.2, split="tail", order="tracks"
    )
    model = psannLM("waves", d_model=16, n_layers=2, n_heads=2, d_mlp=32)
    model.fit(data, steps=3, batch_tokens=64, ddp="off", amp="fp32", verbose=False)
    assert isinstance(model.generate("the", max_new_tokens=4), str)

"""A run with bad numbers: what is skipped is told and counted, and too much of it ends the run."""

import dataclasses

import numpy as np
import pytest

from psann_jax import bases
from psann_jax.cli.exits import exit_code
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.data.shards import Rows
from psann_jax.model import LM
from psann_jax.run.guard import Guard, NotFinite, repeated
from psann_jax.run.main import run
from psann_jax.run.workdir import Workdir
from psann_jax.seq import Batch
from psann_jax.train.checkpoint import Checkpoints
from psann_jax.train.config import TrainConfig
from psann_jax.train.metrics import read_metrics
from psann_jax.train.optimizer import make_optimizer, schedule
from psann_jax.train.state import init_state


@pytest.fixture
def config(tmp_path):
    words = np.random.default_rng(0).choice(["sine", "wave", "amplitude", "damped"], 1000)
    lines = [" ".join(line) for line in words.reshape(-1, 10)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines))
    return Config(
        base=bases.get("respsann")(d_model=8, n_layers=1, n_heads=1, d_mlp=16, dtype="float32"),
        data=DataConfig(
            sources=(str(tmp_path / "corpus.txt"),),
            document="line",
            tokenizer="char",
            max_length=32,
            val_split=0,
        ),
        train=TrainConfig(
            steps=8,
            batch_tokens=128,
            log_interval_steps=1,
            save_interval_steps=2,
            sample_tokens=0,
            max_skipped_steps=3,
        ),
        workdir=str(tmp_path / "run"),
    )


@pytest.fixture
def poison(monkeypatch):
    """poison(steps): the batches of those steps hold a target beyond the vocabulary: NaN."""
    whole = Rows.batch

    def spoil(config, steps):
        def batch(rows, indices, **options):
            found = whole(rows, indices, **options)
            if tuple(indices) in bad:
                found.targets[0, 0] = 1000
            return found

        bad = {tuple(_rows(config, step)) for step in steps}
        monkeypatch.setattr(Rows, "batch", batch)

    return spoil


def _rows(config, step):
    from psann_jax.data import prepare, row_order

    n_rows = len(prepare(config.data, progress=False).train)
    return row_order(n_rows, 4, step - 1, config.data.seed)


def test_a_bad_step_is_skipped_told_and_counted(config, poison, report):
    poison(config, [3, 4])
    run(config, report)
    rows = read_metrics(Workdir(config.workdir).metrics)
    assert [row["skipped_steps"] for row in rows] == [0, 0, 1, 2, 2, 2, 2, 2]
    assert [line for line in report.said if "step 3 is skipped: its loss is nan" in line]
    assert all(np.isfinite(row["loss"]) for row in rows[4:])
    updates = [0, 1, 2, 2, 2, 3, 4, 5]  # made before each step
    rate = schedule(config.optimizer, 8)
    assert [row["lr"] for row in rows] == pytest.approx([float(rate(n)) for n in updates])


def test_too_many_bad_steps_end_the_run_and_name_their_rows(config, poison, report):
    poison(config, [5, 6, 7])
    with pytest.raises(NotFinite, match=r"step 7 is the last of 3 in a row") as error:
        run(config, report)
    rows = _rows(config, 7)
    assert f"Its rows: {', '.join(map(str, rows))}, which begin in documents " in str(error.value)
    workdir = Workdir(config.workdir)
    with np.load(workdir.path / "bad_batch_7.npz") as kept:
        np.testing.assert_array_equal(kept["rows"], rows)
        assert kept["targets"][0, 0] == 1000
    checkpoints = Checkpoints(workdir.checkpoints, reads_only=True)
    assert checkpoints.newest() in (4, 6)
    checkpoints.close()


def test_a_restart_goes_on_with_the_count(config, poison, report):
    poison(config, [3])
    run(dataclasses.replace(config, train=dataclasses.replace(config.train, steps=4)), report)
    run(config, report)
    rows = read_metrics(Workdir(config.workdir).metrics)
    assert [row["skipped_steps"] for row in rows] == [0, 0, 1, 1, 1, 1, 1, 1]


def test_a_diverging_run_ends_with_exit_code_3(config, capsys, report):
    wild = dataclasses.replace(config.optimizer, learning_rate=1e38, grad_clip=0.0)
    assert exit_code(lambda: run(dataclasses.replace(config, optimizer=wild), report)) == 3
    said = capsys.readouterr().err
    assert "optimizer.learning_rate=1e+38" in said
    assert len(said.splitlines()) <= 3


def test_debug_nans_ends_at_the_operation(config, poison, report):
    poison(config, [2])
    debugging = dataclasses.replace(config.train, debug_nans=True)
    with pytest.raises(FloatingPointError, match="nan"):
        run(dataclasses.replace(config, train=debugging), report)


def test_a_step_with_offloaded_moments_can_be_repeated(config, report, one_device):
    """Nothing is NaN here, so that it comes to the optimizer."""
    optimizer = make_optimizer(config.optimizer, 8)
    tokens = np.zeros((1, 1, 4), np.int32)
    batch = Batch(tokens, tokens, tokens + np.float32(1), tokens, tokens + 1)
    base = dataclasses.replace(config.base, vocab_size=4)
    state, _ = init_state(lambda r: LM(base, rngs=r), optimizer, one_device, 0, offload=True)
    repeated(state, batch, optimizer, config, report)
    assert report.said[-1].startswith("no operation gave NaN this time")


def test_a_spike_of_the_loss_is_told(config, report):
    guard = Guard(config, None, None, report, None, skipped=0)
    losses = [2.0, 2.1] * 15 + [2.2, 3.5]
    for step, loss in enumerate(losses, start=1):
        guard.check(step, {"loss": loss, "grad_norm": 1.0, "skipped": 0})
    assert len(report.said) == 1
    assert report.said[0].startswith("step 32: the loss is 3.5, far from the 2.05")

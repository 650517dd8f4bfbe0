"""What a run leaves on disk, and what reading a file may do."""

import contextlib
import dataclasses
import pickle
import shutil

import jax
import jax.numpy as jnp
import pytest

from psann_jax import psannLM, psannLMDataPrep
from psann_jax.train.checkpoint import MANIFEST, Checkpoints, seal
from psann_jax.train.state import TrainState

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}
FIT = {"amp": "fp32", "ddp": "off", "verbose": False}
EPOCHS = {"epochs": 2, "batch_tokens": 256, "grad_accum_steps": 4, "log_interval_steps": 1}


@dataclasses.dataclass
class Hostile:
    """Makes a file where it is unpickled."""

    mark: str

    def __reduce__(self):
        return shutil.copyfile, (__file__, self.mark)


@pytest.fixture
def poison(tmp_path):
    """poison(path): puts a pickle that leaves a mark in a file's place; none is left after all."""
    mark = tmp_path / "mark"
    content = pickle.dumps(Hostile(str(mark)))
    pickle.loads(content)  # noqa: S301 - so that it is known to work
    mark.unlink()
    yield lambda path: path.write_bytes(content)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model"])
def test_d25_a_hostile_model_file_runs_nothing(whole, tmp_path, poison, name):
    whole[0].save(tmp_path / "model")
    poison(tmp_path / "model" / name)
    with pytest.raises(ValueError, match=name):
        psannLM.load(tmp_path / "model")


@pytest.mark.parametrize("name", [MANIFEST, "_CHECKPOINT_METADATA", "state/_METADATA"])
def test_d25_a_hostile_checkpoint_runs_nothing(tmp_path, poison, name):
    """Even with a manifest of its sum: Orbax reads JSON and arrays alone."""
    step = _saved(tmp_path / "run", [1]) / "1"
    poison(step / name)
    if name != MANIFEST:
        seal(step)
    checkpoints = Checkpoints(step.parent)
    with contextlib.suppress(ValueError):  # not every file is needed
        checkpoints.restore(1, _small(0))
    checkpoints.close()


def test_d25_a_hostile_tokenizer_runs_nothing(tmp_path, poison):
    poison(tmp_path / "t.model")
    with pytest.raises(ValueError, match=r"t\.model.*no usable tokenizer"):
        psannLMDataPrep(["a"], tokenizer_model_path=tmp_path / "t.model")


def _small(step):
    weights = {"w": jnp.full((2,), float(step))}
    return TrainState(jnp.int32(step), weights, weights, jax.random.key(step))


def _saved(folder, steps, losses=None, keep=2):
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(_small(step), val_loss=(losses or {}).get(step))
    checkpoints.close()
    return folder


def test_d15_the_best_is_still_known_after_a_restart(tmp_path):
    _saved(tmp_path, [1, 2], {1: 1.0, 2: 2.0})
    _saved(tmp_path, [3, 4, 5], {3: 1.5, 4: 1.4, 5: 1.3})
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.best() == (1, 1.0)
    checkpoints.close()


def test_d28_old_checkpoints_are_removed(tmp_path):
    _saved(tmp_path, range(1, 7))
    assert sorted(int(p.name) for p in tmp_path.glob("[0-9]*")) == [5, 6]


def test_d28_a_save_that_was_cut_off_is_passed_over(tmp_path):
    _saved(tmp_path, [1, 2])
    largest = max((tmp_path / "2").rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    largest.write_bytes(largest.read_bytes()[:-1])
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest() == 1
    checkpoints.close()


def test_d28_fit_writes_nothing_unless_told_where(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    psannLM(base="respsann", **SIZES).fit(data, **EPOCHS, **FIT)
    assert not list(tmp_path.iterdir())

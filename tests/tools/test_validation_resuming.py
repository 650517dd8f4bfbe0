"""What the validation says of resuming: it passes, and fails where something is lost."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from trainer import fresh_model
import validation_resuming
from validation_resuming import resuming
from validation_scale import SCALES, one_device
from validation_training import prepared

from psann_jax.train.checkpoint import Checkpoints

SCALE = dataclasses.replace(SCALES["tiny"], bases=("waveresnet",), steps=2)


@pytest.fixture(scope="module")
def fresh():
    """A state and its step, which is compiled once."""
    base, mesh = SCALE.base("waveresnet", dropout=0.1), one_device()
    with jax.set_mesh(mesh):
        return prepared(base, fresh_model(base), mesh)


@pytest.fixture(autouse=True)
def begun_with_a_copy(fresh, monkeypatch):
    state, step = fresh
    copied = lambda *_: (jax.tree.map(jnp.copy, state), step)  # noqa: E731
    monkeypatch.setattr(validation_resuming, "prepared", copied)
    monkeypatch.setattr(validation_resuming, "drawn_once", lambda base: None)


def test_a_run_that_goes_on_as_if_unbroken_passes():
    result = resuming(SCALE)
    assert result["passed"], result


@pytest.mark.parametrize("lost", ["key", "opt_state", "model", "step"])
def test_a_run_fails_that_loses_its(lost, monkeypatch):
    whole = Checkpoints.restore

    def restore(checkpoints, step, like):
        return dataclasses.replace(whole(checkpoints, step, like), **{lost: getattr(like, lost)})

    monkeypatch.setattr(Checkpoints, "restore", restore)
    assert not resuming(SCALE)["passed"]


def test_in_the_dtype_of_speed_a_run_without_dropout_goes_on(monkeypatch):
    seen = []
    monkeypatch.setattr(validation_resuming, "_goes_on", lambda base, _: seen.append(base) or True)
    assert resuming(dataclasses.replace(SCALE, speed_dtype="bfloat16"))["passed"]
    assert [(base.dtype, base.dropout) for base in seen] == [("float32", 0.1), ("bfloat16", 0.0)]

"""What the validation says of speed and memory: it passes, and fails where they make no sense."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from validation_scale import SCALES
import validation_speed
from validation_speed import checkpointing, faults, throughput

from psann_jax.train import step as train_steps

SCALE = dataclasses.replace(SCALES["tiny"], bases=("waveresnet",))


def _rows(*speeds):
    """Speeds (forward, train) by batch_tokens 1000, 2000, ..."""
    names = "forward_tokens_per_s", "train_tokens_per_s"
    return {1000 * n: dict(zip(names, both, strict=True)) for n, both in enumerate(speeds, 1)}


def test_training_at_a_third_of_the_forward_speed_makes_sense():
    assert faults(_rows((900, 300), (1000, 290))) == []


BROKEN = {
    "no backward pass": _rows((900, 765)),
    "a crawling step": _rows((900, 40)),
    "no number": _rows((float("nan"), 300)),
    "a training that falls off": _rows((900, 300), (900, 140)),
    "a forward that falls off": _rows((900, 300), (440, 300)),
}


@pytest.mark.parametrize("rows", BROKEN.values(), ids=BROKEN)
def test_speeds_make_no_sense_with(rows):
    assert len(faults(rows)) == 1


@pytest.fixture
def clock(monkeypatch):
    """Training takes three times as long as the forward pass, however busy the machine is."""

    def turns(variants, n, warmup):
        for run in variants.values():
            run()
        return {key: [3.0 if "train" in key[1] else 1.0] for key in variants}

    monkeypatch.setattr(validation_speed, "take_turns", turns)


def test_throughput_passes(clock):
    result = throughput(SCALE)
    assert result["passed"], result


def test_a_step_compiled_while_timed_fails(clock, monkeypatch):
    def prepared(base, model, mesh):
        def step(state, batch):
            return state, {"loss": jax.jit(lambda x: x + 1)(np.float32(0))}

        return SimpleNamespace(model=np.float32(0)), step

    monkeypatch.setattr(validation_speed, "prepared", prepared)
    monkeypatch.setattr(train_steps, "eval_step", lambda model, batch: model)
    assert "compiles while timed" in throughput(SCALE)["said"]


def test_checkpointing_passes():
    result = checkpointing(SCALE)
    assert result["passed"], result


def _stand_ins(monkeypatch, memory, losses):
    """Trainers of a given memory and loss by what they compute again, or by that and dtype."""

    def trainer(base, batch):
        loss = losses.get((base.remat, base.dtype), losses.get(base.remat, 4.0))
        return SimpleNamespace(program=base.remat, loss=loss, step=lambda: np.float32(loss))

    monkeypatch.setattr(validation_speed, "Trainer", trainer)
    monkeypatch.setattr(validation_speed, "program_bytes", memory.get)


SPARED = {"none": 3, "dots": 2, "full": 1}


@pytest.mark.parametrize(
    ("memory", "losses", "passed"),
    [
        (SPARED, {}, True),
        (SPARED | {"full": 2}, {}, False),
        (dict.fromkeys(SPARED, 3), {}, False),
        (SPARED, {"dots": 4.001}, False),
    ],
    ids=["memory spared", "dots alone spares", "nothing spared", "another loss"],
)
def test_checkpointing_passes_with_less_memory_and_the_same_loss(
    memory, losses, passed, monkeypatch
):
    _stand_ins(monkeypatch, memory, losses)
    assert checkpointing(SCALE)["passed"] == passed


@pytest.mark.parametrize(("loss", "passed"), [(4.001, True), (4.1, False)])
def test_checkpointing_is_also_tried_in_the_dtype_of_speed(loss, passed, monkeypatch):
    _stand_ins(monkeypatch, SPARED, {("full", "bfloat16"): loss})
    result = checkpointing(dataclasses.replace(SCALE, speed_dtype="bfloat16"))
    assert (result["passed"], len(result["numbers"])) == (passed, 6)

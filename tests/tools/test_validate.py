"""Each step of the validation battery passes, and fails where its subject is broken."""

import dataclasses
import json
from xml.etree import ElementTree

import jax
import pytest
import validate
import validation_steps as steps

from psann_jax.infer import decode
from psann_jax.nn import stack
from psann_jax.train import step as train_steps
from psann_jax.train.checkpoint import Checkpoints
from psann_jax.train.feed import on_mesh

STEPS = steps.STEPS


@pytest.fixture(autouse=True)
def one_base(monkeypatch):
    monkeypatch.setattr(steps, "BASES", ("waveresnet",))


def _far_from_ln_v(monkeypatch):
    whole = train_steps.loss_fn
    monkeypatch.setattr(train_steps, "loss_fn", lambda m, b: whole(m, b) + 2 * b.weights.sum())


def _half_precision_off(monkeypatch):
    whole = train_steps.carried_loss

    def off(model, *args, **options):
        nats, carry = whole(model, *args, **options)
        return nats * (1.0 if model.dtype == "float32" else 1.03), carry

    monkeypatch.setattr(train_steps, "carried_loss", off)


def _no_clock(monkeypatch):
    monkeypatch.setattr(steps.time, "perf_counter", lambda: 0.0)


def _nothing_is_computed_again(monkeypatch):
    monkeypatch.setattr(stack.jax, "checkpoint", lambda f, **options: f)


def _devices_share_rows(monkeypatch):
    def same_rows(batch, mesh, micro_batches):
        if mesh.size > 1:
            batch = jax.tree.map(lambda a: a[[0] * len(a)], batch)
        return on_mesh(batch, mesh, micro_batches)

    monkeypatch.setattr(steps, "on_mesh", same_rows)


def _another_model_decodes(monkeypatch):
    whole = decode.decoding_model
    monkeypatch.setattr(
        decode, "decoding_model", lambda model: jax.tree.map(lambda a: -a, whole(model))
    )


def _the_key_is_lost(monkeypatch):
    whole = Checkpoints.restore

    def restore(checkpoints, step, like):
        return dataclasses.replace(whole(checkpoints, step, like), key=jax.random.key(7))

    monkeypatch.setattr(Checkpoints, "restore", restore)


BROKEN = {
    "GPU-01": _far_from_ln_v,
    "GPU-02": _half_precision_off,
    "GPU-03": _no_clock,
    "GPU-04": _nothing_is_computed_again,
    "GPU-05": _devices_share_rows,
    "GPU-06": _devices_share_rows,
    "GPU-07": _another_model_decodes,
    "GPU-08": _the_key_is_lost,
}
NAMES = [
    pytest.param(name, marks=[pytest.mark.mesh] * (name in ("GPU-05", "GPU-06"))) for name in STEPS
]


@pytest.mark.parametrize("name", NAMES)
def test_a_step_passes_and_fails_where_its_subject_is_broken(name, monkeypatch):
    passed = validate.measured(STEPS[name], "tiny")
    assert passed["passed"], passed
    jax.clear_caches()  # programs of the whole subject
    BROKEN[name](monkeypatch)
    assert not validate.measured(STEPS[name], "tiny")["passed"]
    jax.clear_caches()


def test_what_is_written_names_what_failed(tmp_path, monkeypatch, capsys):
    def broken(scale):
        """What it checks."""
        raise KeyError("lost")

    def whole(scale):
        """What else."""
        return steps.verdict(True, "all of 3", n=3)

    monkeypatch.setattr(steps, "STEPS", {"GPU-01": broken, "GPU-02": whole})
    monkeypatch.setattr("psann_jax.run.environment.set_up", lambda: None)
    assert validate.main(["--out", str(tmp_path), "--scale", "tiny"]) == 1
    assert "GPU-01 FAILED" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["GPU-02"]["numbers"] == {"n": 3} and "lost" in summary["GPU-01"]["said"]
    assert json.loads((tmp_path / "system.json").read_text())["scale"] == "tiny"
    assert len(ElementTree.parse(tmp_path / "junit.xml").findall(".//failure")) == 1
    assert "**failed**" in (tmp_path / "table.md").read_text()
    assert validate.main(["--out", str(tmp_path), "--only", "GPU-02", "--scale", "tiny"]) == 0

"""What the validation says of several devices: it passes, and fails where they are broken."""

import dataclasses

import jax
import pytest
from trainer import fresh_model
import validation_mesh
from validation_mesh import data_parallel, fsdp
from validation_scale import SCALES
import validation_training
from validation_training import trained

from psann_jax import sharding
from psann_jax.train import step as train_steps
from psann_jax.train.feed import on_mesh

pytestmark = pytest.mark.mesh
SCALE = dataclasses.replace(SCALES["tiny"], bases=("waveresnet",))
STEPS = [data_parallel, fsdp]


@pytest.fixture(scope="module")
def model():
    return fresh_model(SCALE.base("waveresnet"))


@pytest.fixture(scope="module")
def once():
    """`trained`, done once for each shape of the mesh and dtype."""
    courses = {}

    def train(base, model, mesh, data):
        where = base.dtype, str(dict(mesh.shape))
        if where not in courses:
            courses[where] = trained(base, model, mesh, data)
        return courses[where]

    return train


@pytest.fixture
def verdict(model, once, monkeypatch):
    """verdict(step, several): where trained = several on more than one device."""

    def of(step, several=once, scale=SCALE):
        def train(base, model, mesh, data):
            return (once if mesh.size == 1 else several)(base, model, mesh, data)

        monkeypatch.setattr(validation_mesh, "trained", train)
        monkeypatch.setattr(validation_mesh, "drawn_once", lambda base: model)
        return step(scale)

    return of


def failed(result):
    """The numbers of a step that has to have failed."""
    assert not result["passed"], result
    return result["numbers"]["waveresnet float32"]


@pytest.mark.parametrize("step", STEPS)
def test_several_devices_that_train_as_one_does_pass(step, verdict):
    result = verdict(step)
    assert result["passed"], result


def test_several_devices_train_alike_in_the_dtype_of_speed_too(once, verdict):
    scale = dataclasses.replace(SCALE, speed_dtype="bfloat16")
    result = verdict(data_parallel, scale=scale)
    assert result["passed"], result
    assert list(result["numbers"]) == ["waveresnet float32", "waveresnet bfloat16"]

    def apart(base, *given):
        course = once(base, *given)
        off = 1.05 if base.dtype == "bfloat16" else 1
        return dataclasses.replace(course, grad_norms=off * course.grad_norms)

    assert "['waveresnet bfloat16']" in verdict(data_parallel, apart, scale)["said"]


def _turned(course):
    turned = [2 * start - end for start, end in zip(course.start, course.end, strict=True)]
    return dataclasses.replace(course, end=turned)


BROKEN = {
    "gradients of another size": lambda c: dataclasses.replace(c, grad_norms=1.01 * c.grad_norms),
    "weights that went the other way": _turned,
    "losses that are no numbers": lambda c: dataclasses.replace(c, losses=c.losses + float("nan")),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_parity_fails_with(change, once, verdict):
    assert not verdict(data_parallel, lambda *given: change(once(*given)))["passed"]


@pytest.mark.parametrize("what", ["weights", "moments"])
def test_fsdp_fails_with_whole(what, once, verdict):
    def whole(*given):
        course = once(*given)
        return dataclasses.replace(course, held=course.held | {what: 1.0})

    assert not verdict(fsdp, whole)["passed"]


def test_moments_kept_whole_on_every_device_fail(verdict, monkeypatch):
    made = validation_training.init_state

    def init_state(*given, **options):
        state, where = made(*given, **options)
        mesh = jax.tree.leaves(where.model)[0].mesh
        everywhere = jax.tree.map(lambda _: sharding.whole(mesh), where.opt_state)
        moments = jax.device_put(state.opt_state, everywhere)
        return (
            dataclasses.replace(state, opt_state=moments),
            dataclasses.replace(where, opt_state=everywhere),
        )

    monkeypatch.setattr(validation_training, "init_state", init_state)
    held = failed(verdict(fsdp, trained))["held"]
    assert held["weights"] < 0.3 and held["moments"] == 1


@pytest.mark.parametrize("step", STEPS)
def test_rows_that_every_device_has_fail(step, verdict, monkeypatch):
    monkeypatch.setitem(sharding.RULES, "batch", None)
    row = failed(verdict(step, trained))
    assert row["parts"] == 1 and row["flops"] > 0.4  # XLA may split more than it is told


def test_rows_that_are_gathered_before_the_model_fail(verdict, monkeypatch):
    whole = train_steps.carried_loss

    def gathered(model, rows, *args, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sharding.RULES, "batch", None)
            rows = jax.tree.map(lambda a: sharding.constrain(a, None, None), rows)
            return whole(model, rows, *args, **options)

    monkeypatch.setattr(train_steps, "carried_loss", gathered)
    row = failed(verdict(data_parallel, trained))
    assert row["parts"] == jax.device_count() and row["flops"] > 0.5


def test_gradients_scaled_on_several_devices_fail(verdict, monkeypatch):
    whole = train_steps.carried_loss

    def scaled(model, *args, **options):
        nats, carry = whole(model, *args, **options)
        if sharding.distributed():
            nats = 8 * nats - jax.lax.stop_gradient(7 * nats)  # the same loss
        return nats, carry

    monkeypatch.setattr(train_steps, "carried_loss", scaled)
    result = verdict(data_parallel, trained)
    assert not result["passed"]
    assert result["numbers"]["waveresnet float32"]["grad_norm"] == pytest.approx(7)


def test_devices_that_all_read_the_same_row_fail(verdict, monkeypatch):
    def same_rows(batch, mesh, micro_batches):
        if mesh.size > 1:
            batch = jax.tree.map(lambda a: a[[0] * len(a)], batch)
        return on_mesh(batch, mesh, micro_batches)

    monkeypatch.setattr(validation_training, "on_mesh", same_rows)
    assert not verdict(fsdp, trained)["passed"]

"""What the validation says of precision: it passes, and fails where its subject is broken."""

import dataclasses

import jax
import numpy as np
import pytest
from trainer import fresh_model
import validation_precision
from validation_precision import forward_and_backward, half_precision
from validation_scale import SCALES, one_device
from validation_training import trained

from psann_jax import bases
from psann_jax.model import LM
from psann_jax.nn import wave
from psann_jax.ops import attention

SCALE = dataclasses.replace(SCALES["tiny"], bases=("waveresnet",))
DTYPES = ("float32", *SCALE.dtypes)


def test_rows_hold_several_documents():
    batch = SCALE.batches(1)[0]
    assert batch.segments.max() == 4
    assert ((batch.positions == 0).sum(1) == 4).all()


def test_gradients_of_a_fresh_model_pass():
    result = forward_and_backward(SCALE)
    assert result["passed"], result


def test_a_fresh_model_far_from_ln_v_fails(monkeypatch):
    whole = validation_precision.fresh_model

    def sure(base):
        return jax.tree.map(lambda a: 100 * a if a.ndim == 2 else a, whole(base))

    monkeypatch.setattr(validation_precision, "fresh_model", sure)
    assert not forward_and_backward(SCALE)["passed"]


@pytest.fixture
def traced_anew():
    """Functions compiled before are not those of a patched model, nor the other way round."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def _blind_attention(monkeypatch):
    whole = attention.attention
    blind = lambda *qkv, segments, **rest: whole(*qkv, **rest)  # noqa: E731
    monkeypatch.setattr(attention, "attention", blind)


def _blind_convolution(monkeypatch):
    whole = wave.causal_conv
    blind = lambda *given, positions, **rest: whole(*given, positions=None, **rest)  # noqa: E731
    monkeypatch.setattr(wave, "causal_conv", blind)


def _gradient_that_leaks(monkeypatch):
    whole = LM.features

    def features(model, *given):
        x, states = whole(model, *given)
        mean = x.mean(axis=1, keepdims=True)
        return x + (mean - jax.lax.stop_gradient(mean)), states

    monkeypatch.setattr(LM, "features", features)


@pytest.mark.parametrize("broken", [_blind_attention, _blind_convolution, _gradient_that_leaks])
def test_documents_that_see_each_other_fail(broken, traced_anew, monkeypatch):
    broken(monkeypatch)
    result = forward_and_backward(dataclasses.replace(SCALE, dtypes=()))
    assert not result["passed"]
    assert result["numbers"]["waveresnet"]["leaks"]["float32"] > 0.01


@pytest.fixture(scope="module")
def courses():
    """What training does in each dtype."""
    model, data = fresh_model(SCALE.base("waveresnet")), SCALE.batches(SCALE.steps)
    return {d: trained(SCALE.base("waveresnet", d), model, one_device(), data) for d in DTYPES}


@pytest.fixture
def verdict(courses, monkeypatch):
    """verdict(change, bases): of the courses, each changed as change(base, course) says."""

    def of(change, names=SCALE.bases):
        replayed = lambda base, model, mesh, data: change(base, courses[base.dtype])  # noqa: E731
        monkeypatch.setattr(validation_precision, "trained", replayed)
        monkeypatch.setattr(validation_precision, "fresh_model", lambda base: None)
        return half_precision(dataclasses.replace(SCALE, bases=names))

    return of


def test_half_precision_that_learns_as_float32_does_passes(verdict):
    result = verdict(lambda base, course: course)
    assert result["passed"], result


def _only(dtype, **fields):
    """Replaces fields of the courses of one dtype by functions of themselves."""

    def change(base, course):
        if base.dtype != dtype:
            return course
        changed = {name: f(getattr(course, name)) for name, f in fields.items()}
        return dataclasses.replace(course, **changed)

    return change


BROKEN = {
    "a loss off by 3 %": _only("float16", losses=lambda a: a * 1.03),
    "gradients twice as large": _only("bfloat16", grad_norms=lambda a: 2 * a),
    "a step of bfloat16 skipped": _only("bfloat16", skipped=lambda n: 1),
    "every step of float16 skipped": _only("float16", skipped=lambda n: 4 * SCALE.steps),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_half_precision_fails_with(change, verdict):
    assert not verdict(change)["passed"]


def test_training_that_learns_nothing_in_any_dtype_fails(verdict):
    def still(base, course):
        return dataclasses.replace(course, losses=np.full_like(course.losses, course.losses[0]))

    assert not verdict(still)["passed"]


def test_nan_in_the_second_base_alone_fails(verdict):
    def change(base, course):
        second = isinstance(base, bases.get("transformer")) and base.dtype == "bfloat16"
        return dataclasses.replace(course, losses=course.losses * np.nan) if second else course

    assert not verdict(change, ("waveresnet", "transformer"))["passed"]

"""What the validation says of precision: it passes, and fails where its subject is broken."""

import dataclasses

import jax
import numpy as np
import pytest
from trainer import fresh_model
from validation_passes import passed
import validation_precision
from validation_precision import forward_and_backward, half_precision
from validation_scale import SCALES, one_device, stirred
from validation_training import trained

from psann_jax import bases
from psann_jax.model import LM
from psann_jax.nn import mamba2, rwkv6, wave
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
    whole = validation_precision.drawn_once

    def sure(base):
        return jax.tree.map(lambda a: 100 * a if a.ndim == 2 else a, whole(base))

    monkeypatch.setattr(validation_precision, "drawn_once", sure)
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


@pytest.mark.parametrize(("name", "kernel"), [("rwkv6", "wkv6"), ("mamba2", "ssd")])
def test_a_state_that_is_carried_into_the_next_document_fails(
    name, kernel, traced_anew, monkeypatch
):
    module = {"rwkv6": rwkv6, "mamba2": mamba2}[name]
    whole = getattr(module, kernel)
    monkeypatch.setattr(module, kernel, lambda *given: whole(*given[:-1], None))
    result = forward_and_backward(dataclasses.replace(SCALE, bases=(name,)))
    assert not result["passed"]
    assert result["numbers"][name]["leaks"]["float32"] > 0.01


def test_a_stirred_model_has_no_weights_that_are_all_zero():
    whole = fresh_model(SCALE.base("rwkv6"))
    assert not all(np.any(a) for a in jax.tree.leaves(whole))
    assert all(np.any(a) for a in jax.tree.leaves(stirred(whole)))


@pytest.fixture(scope="module")
def model():
    return fresh_model(SCALE.base("waveresnet"))


@pytest.fixture(scope="module")
def courses(model):
    """What training does in each dtype."""
    data = SCALE.batches(SCALE.steps)
    return {d: trained(SCALE.base("waveresnet", d), model, one_device(), data) for d in DTYPES}


@pytest.fixture(scope="module")
def passes(model):
    """What a pass gives in each dtype."""
    batch = SCALE.batches(1)[0]
    return {d: passed(SCALE.base("waveresnet", d), model, batch) for d in DTYPES}


@pytest.fixture
def verdict(courses, passes, monkeypatch):
    """verdict(change, bases, on_pass): what is changed is a function of (base, it)."""

    def of(change=_as_it_is, names=SCALE.bases, on_pass=_as_it_is):
        replay = {
            "trained": lambda base, *_: change(base, courses[base.dtype]),
            "passed": lambda base, *_: on_pass(base, passes[base.dtype]),
            "drawn_once": lambda base: None,
        }
        for name, function in replay.items():
            monkeypatch.setattr(validation_precision, name, function)
        return half_precision(dataclasses.replace(SCALE, bases=names))

    return of


def _as_it_is(base, found):
    return found


def test_half_precision_that_learns_as_float32_does_passes(verdict):
    result = verdict()
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


def _rounded_at_the_end(passes):
    def change(base, found):
        exact = passes["float32"]
        return dataclasses.replace(found, features=exact.features.astype(found.features.dtype))

    return change


OTHER = {"float32": "float32", "bfloat16": "float16", "float16": "bfloat16"}
WRONG_PASSES = {
    "a dtype that is ignored": lambda passes: lambda base, _: passes["float32"],
    "another half precision": lambda passes: lambda base, _: passes[OTHER[base.dtype]],
    "features that are rounded at the end": _rounded_at_the_end,
    "one wrong gradient": lambda passes: _only_in_half(grads=_with_one_doubled),
    "one wrong token": lambda passes: _only_in_half(features=_with_one_turned),
}


@pytest.mark.parametrize("wrong", WRONG_PASSES.values(), ids=WRONG_PASSES)
def test_half_precision_computes_wrongly_with(wrong, passes, verdict):
    assert not verdict(on_pass=wrong(passes))["passed"]


def _only_in_half(**fields):
    changes = [_only(dtype, **fields) for dtype in SCALE.dtypes]
    return lambda base, found: changes[1](base, changes[0](base, found))


def _with_one_doubled(grads):
    return grads | {name: 2 * g for name, g in list(grads.items())[:1]}


def _with_one_turned(features):
    turned = features.copy()
    turned[-1, -1] *= -1
    return turned


def _not_causal(q, k, v, segments, **rest):
    return attention.masked_attention(q, k, v, segments[:, :, None] == segments[:, None, :])


def _not_scaled(q, k, v, segments, **rest):
    place = np.broadcast_to(np.arange(q.shape[1]), segments.shape)
    mask = attention.visible(segments, segments, place, place)
    return attention.masked_attention(q * q.shape[-1] ** 0.5, k, v, mask)


def _blind_to_itself(q, k, v, segments, **rest):
    place = np.broadcast_to(np.arange(q.shape[1]), segments.shape)
    first = (place[:, :, None] == 0) & (place[:, None, :] == 0)
    mask = attention.visible(segments, segments, place - 1, place) | first
    return attention.masked_attention(q, k, v, mask)


@pytest.mark.parametrize("wrong", [_not_causal, _not_scaled, _blind_to_itself])
def test_attention_that_is_wrong_in_half_precision_fails(
    wrong, model, passes, verdict, traced_anew, monkeypatch
):
    whole, batch = attention.attention, SCALE.batches(1)[0]

    def attend(q, *given, **rest):
        return (whole if q.dtype == np.float32 else wrong)(q, *given, **rest)

    monkeypatch.setattr(attention, "attention", attend)
    only = "bfloat16"
    found = passed(SCALE.base("waveresnet", only), model, batch)
    result = verdict(on_pass=lambda base, old: found if base.dtype == only else old)
    assert result["said"].endswith("bad: ['waveresnet bfloat16 pass']")

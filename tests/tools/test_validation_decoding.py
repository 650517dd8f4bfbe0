"""What the validation says of generation: it passes, and fails where its subject is broken."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trainer import fresh_model
import validation_decoding
from validation_decoding import generation
from validation_sampling import faults, most_likely, nucleus, told
from validation_scale import SCALES

from psann_jax.infer import sampling as infer_sampling
from psann_jax.infer.decode import generate
from psann_jax.infer.sampling import Sampling

SCALE = dataclasses.replace(SCALES["tiny"], bases=("waveresnet",))


@pytest.fixture(scope="module")
def model():
    return fresh_model(SCALE.base("waveresnet"))


@pytest.fixture
def verdict(model, monkeypatch):
    """verdict(way): of generating in a way of its own."""

    def of(way):
        monkeypatch.setattr(validation_decoding, "drawn_once", lambda base: model)
        monkeypatch.setattr(validation_decoding, "generate", way)
        return generation(SCALE)

    return of


def test_generation_passes(verdict):
    result = verdict(generate)
    assert result["passed"], result


def _another_model(model, prompts, **options):
    return generate(jax.tree.map(lambda a: -a, model), prompts, **options)


def _deaf_to_eos(model, prompts, eos_id=None, **options):
    return generate(model, prompts, **options)


def _always_greedy(model, prompts, sampling, **options):
    return generate(model, prompts, sampling=Sampling(temperature=0.0), **options)


def _never_greedy(model, prompts, sampling, **options):
    if sampling.temperature and len(prompts) == 3:
        sampling = Sampling(temperature=2.0, top_k=SCALE.vocabulary, seed=3)
    return generate(model, prompts, sampling=sampling, **options)


def _with(**fields):
    """Generates with filters that are functions of those asked for."""

    def way(model, prompts, sampling, **options):
        changed = {name: f(getattr(sampling, name)) for name, f in fields.items()}
        if sampling.temperature and len(prompts) > 3:
            sampling = dataclasses.replace(sampling, **changed)
        return generate(model, prompts, sampling=sampling, **options)

    return way


LESS, MORE = "drops what it should draw", "draws what it should drop"
BROKEN = {
    "another model": (_another_model, ["the cache changes tokens"]),
    "an end unheard": (_deaf_to_eos, ["EOS does not end a row"]),
    "no draw": (_always_greedy, ["drawing is not drawing", f"top_k=3 {LESS}", f"top_p=0.5 {LESS}"]),
    "draws": (_never_greedy, ["top_k=1 is not greedy", "top_p=1e-6 is not greedy"]),
    "one of k less": (_with(top_k=lambda k: k - 1 if k == 3 else k), [f"top_k=3 {LESS}"]),
    "one of k more": (_with(top_k=lambda k: k + 1 if k == 3 else k), [f"top_k=3 {MORE}"]),
    "a larger p": (_with(top_p=lambda p: 0.8 if p == 0.5 else p), [f"top_p=0.5 {MORE}"]),
}


@pytest.mark.parametrize(("way", "faults"), BROKEN.values(), ids=BROKEN)
def test_generation_fails_with(way, faults, verdict):
    said = verdict(way)["said"].split("; ")
    assert said[: len(faults)] == [f"waveresnet: {fault}" for fault in faults]
    if way is not _another_model:
        assert len(said) == len(faults)


def test_a_nucleus_without_the_token_that_crosses_p_fails(verdict, monkeypatch):
    whole = infer_sampling.filtered

    def filtered(logits, top_k, top_p):
        kept = whole(logits, top_k, top_p)
        if top_p is None:
            return kept
        least = jnp.min(jnp.where(kept > -jnp.inf, kept, jnp.inf), axis=-1, keepdims=True)
        alone = jnp.sum(kept > -jnp.inf, axis=-1, keepdims=True) == 1
        return jnp.where((kept > least) | alone | (top_p > 0.9), kept, -jnp.inf)

    monkeypatch.setattr(infer_sampling, "filtered", filtered)
    jax.clear_caches()
    said = verdict(generate)["said"]
    jax.clear_caches()
    assert said == f"waveresnet: top_p=0.5 {LESS}"


def test_logits_in_which_nothing_is_clear_tell_nothing():
    for left in (most_likely, nucleus):
        kept = left(np.zeros(64))
        assert kept.may.sum() >= 3 and not told(kept, 256)


def test_an_unclear_token_is_neither_asked_for_nor_forbidden():
    kept = most_likely(np.array([3.0, 2.5, 2.0, 2.0 - 1e-4, -5.0]))
    assert [list(np.flatnonzero(of)) for of in (kept.may, kept.must)] == [[0, 1, 2, 3], [0, 1]]
    assert not faults(kept, [0, 1] * 128) and not faults(kept, [0, 1, 2, 3] * 64)
    assert faults(kept, [0] * 256) and faults(kept, [0, 1, 4])

"""What the validation says of generation: it passes, and fails where its subject is broken."""

import dataclasses

import jax
import pytest
from trainer import fresh_model
import validation_decoding
from validation_decoding import generation
from validation_scale import SCALES

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
        monkeypatch.setattr(validation_decoding, "fresh_model", lambda base: model)
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
    if sampling.temperature:
        sampling = Sampling(temperature=2.0, top_k=SCALE.vocabulary, seed=3)
    return generate(model, prompts, sampling=sampling, **options)


BROKEN = {
    "another model": (_another_model, "the cache changes tokens"),
    "an end unheard": (_deaf_to_eos, "EOS does not end a row"),
    "no draw": (_always_greedy, "drawing is not drawing"),
    "draws": (_never_greedy, "top_k=1 is not greedy; waveresnet: top_p=1e-6 is not greedy"),
}


@pytest.mark.parametrize(("way", "fault"), BROKEN.values(), ids=BROKEN)
def test_generation_fails_with(way, fault, verdict):
    assert verdict(way)["said"] == f"waveresnet: {fault}"

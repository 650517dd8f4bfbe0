"""After its first evaluation a run of any shipped configuration compiles nothing more."""

import dataclasses
from pathlib import Path
import runpy

import jax
import numpy as np
import pytest

from psann_jax.data import DataConfig
from psann_jax.run.main import run
from psann_jax.run.report import Report
from psann_jax.run.validation import Validation

CONFIGS = Path(__file__).parents[2] / "configs"
ROWS, LENGTH = 4, 8
SIZES = {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_mlp": 32, "dtype": "float32"}
# One of each kind: the others differ in sizes alone, or in the base of their single batch.
KINDS = {
    "tiny_corpus": "lines, in one batch",
    "transformer_small": "documents, in micro-batches",
    "groundthink_8m": "tracks with carried states, in micro-batches",
}


def _text(folder):
    words = np.random.default_rng(0).choice(["sine", "wave", "amplitude", "damped", "the"], 1000)
    path = folder / "corpus.txt"
    path.write_text("\n".join(" ".join(line) for line in words.reshape(-1, 10)))
    return path


def _small(name, folder):
    """The shipped configuration of that name, of a size for tests, with three evaluations."""
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
    tokens = ROWS * LENGTH * config.train.grad_accum_steps
    often = {"log_interval_steps": 1, "eval_interval_steps": 2, "save_interval_steps": 2}
    train = dataclasses.replace(
        config.train, steps=6, batch_tokens=tokens, sample_tokens=0, **often
    )
    words = {"tokenizer": "char", "vocab_size": DataConfig().vocab_size}
    return dataclasses.replace(
        config,
        base=dataclasses.replace(config.base, **SIZES),
        data=dataclasses.replace(
            config.data, sources=(str(_text(folder)),), max_length=LENGTH, **words
        ),
        train=train,
        workdir=str(folder / "run"),
    )


@pytest.fixture
def compiled():
    """The compilations so far, one entry each."""
    events = []

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("name", KINDS)
def test_nothing_compiles_after_the_first_evaluation(name, compiled, tmp_path, monkeypatch):
    after, validate = [], Validation.__call__

    def counted(self, state):
        figures = validate(self, state)
        after.append(len(compiled))
        return figures

    monkeypatch.setattr(Validation, "__call__", counted)
    run(_small(name, tmp_path), Report(quiet=True))
    assert len(after) == 3
    assert 0 < after[0] == after[-1]

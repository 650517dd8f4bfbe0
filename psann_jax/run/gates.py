"""The validation gates of a run, or of a preset that is trained for it in memory."""

import dataclasses
import json
import os
from pathlib import Path

from flax import nnx
import jax
import numpy as np

from psann_jax import bases, sharding
from psann_jax.config import Config
from psann_jax.data import Corpus, DataConfig, Rows, prepare
from psann_jax.evals import gates, gates_run
from psann_jax.evals.gates_kernels import kernels
from psann_jax.evals.ngram import unigram_nats
from psann_jax.model import LM
from psann_jax.run.environment import matmul_precision
from psann_jax.run.figures import plain
from psann_jax.run.load import load_run
from psann_jax.run.plan import make_plan, with_vocabulary
from psann_jax.run.report import Report
from psann_jax.run.text import corpus_of_run
from psann_jax.run.train import train
from psann_jax.run.workdir import Workdir
from psann_jax.train.config import TrainConfig
from psann_jax.train.metrics import read_metrics
from psann_jax.train.optimizer import OptimizerConfig

JSON = "gates.json"
_LENGTH, _ROWS = 64, 8  # of a preset's steps, as in GroundThink's own benchmark
_PROBED = 64  # most tokens of a row that a model is shown


def check(
    name: str, report: Report, *, sources: tuple[str, ...] = (), steps: int = 1000
) -> list[gates.Gate]:
    """Every gate of a run's workdir, or of a preset.

    Args:
      name: a workdir, or a name that `bases.preset` knows.
      sources: files of text to look at; none: the run's own, and for a preset the embedded text.
      steps: how long a preset is trained, on 8 rows of 64 characters a step.

    Raises:
      ValueError: neither a run nor a preset, no whole checkpoint, or unreadable text.
    """
    if Path(name).exists():
        return _of_run(name, sources)
    if steps < 1:
        raise ValueError(f"--steps={steps} must be at least 1")
    try:
        base = bases.preset(name, dtype="float32")
    except ValueError as error:
        raise ValueError(f"{name!r} is no folder, so it should name a preset: {error}") from None
    return _of_preset(base, sources, steps, report)


def write(found: list[gates.Gate], path: str | os.PathLike) -> None:
    """The gates as JSON, in which figures that are not finite are null."""
    tree = plain([dataclasses.asdict(gate) for gate in found])
    Path(path).write_text(json.dumps(tree, indent=1, allow_nan=False) + "\n")


def _of_run(path: str, sources: tuple[str, ...]) -> list[gates.Gate]:
    run, workdir = load_run(path, "newest"), Workdir(path)
    data = run.config.data
    if sources:
        chosen = {"sources": sources, "tokenizer_path": str(workdir.tokenizer)}
        data = dataclasses.replace(data, **chosen)
    elif workdir.texts_in_memory():
        raise ValueError(f"{path} was trained on texts in memory; name files with --text")
    rows = read_metrics(workdir.metrics)
    corpus = prepare(data) if sources else corpus_of_run(workdir, data)
    counted = None if sources else corpus  # the run's losses are of its own text
    return _gates(run.config, corpus, run.model, gates_run.training(rows, _unigram(counted)), rows)


def _of_preset(base, sources, steps: int, report: Report) -> list[gates.Gate]:
    config = Config(
        base=base,
        data=DataConfig(
            sources=sources,
            tokenizer="groundthink-char",
            max_length=_LENGTH,
            val_split=0.1,
            split="tail",
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.1),
        train=TrainConfig(
            steps=steps, batch_tokens=_ROWS * _LENGTH, log_interval_steps=10, eval_interval_steps=0
        ),
    )
    corpus = prepare(config.data)
    config = with_vocabulary(config, corpus.tokenizer.vocab_size)
    plan = make_plan(config, corpus)
    outcome = train(config, dataclasses.replace(corpus, val=None), plan, report=report)
    learnt = gates_run.training(outcome.rows, _unigram(corpus))
    return _gates(config, corpus, outcome.model, learnt, outcome.rows)


def _unigram(corpus: Corpus | None) -> float | None:
    if corpus is None:
        return None
    return unigram_nats(corpus.train, corpus.tokenizer.vocab_size)


def _gates(
    config: Config, corpus: Corpus, model: LM, learnt: gates.Gate, metrics: list[dict]
) -> list[gates.Gate]:
    rows = corpus.val if corpus.val and len(corpus.val) > 1 else corpus.train
    inputs, targets = _probe(rows)
    device = jax.devices()[0]
    model = jax.device_put(model, device)  # from all of them
    with (
        jax.set_mesh(sharding.make_mesh(devices=[device])),
        matmul_precision(config.train.matmul_precision),
    ):
        fresh = LM(config.base, rngs=nnx.Rngs(config.train.seed))
        return [
            kernels(),
            gates.forward(model, inputs),
            gates.entropy(fresh, inputs, targets),
            learnt,
            _states(config, model, inputs),
            gates_run.balance(metrics, config.base.branches),
        ]


def _states(config: Config, model: LM, tokens: np.ndarray) -> gates.Gate:
    said = "" if config.base.recurrent else "the base is not recurrent"
    if np.array_equal(*tokens):
        said = "there are no two different texts to compare"
    return gates.gate("G3.5 states", gates.SKIPPED, said) if said else gates.states(model, tokens)


def _probe(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """The beginnings of two rows far apart, as documents of their own, without their padding."""
    batch = rows.batch(np.array([0, len(rows) // 2]))
    real = int((batch.segments > 0).sum(axis=1).min())
    length = max(4, min(_PROBED, real))
    return batch.inputs[:, :length], batch.targets[:, :length]

"""Loss, perplexity and bits per byte of a run or a saved model on text."""

import dataclasses
import os
from pathlib import Path
import warnings

import jax

from psann_jax import sharding
from psann_jax.compiling import jit
from psann_jax.config import Config
from psann_jax.data import DataConfig, HeldOut, prepare
from psann_jax.evals.perplexity import evaluate, evaluate_carried
from psann_jax.interop.folder import is_model_folder
from psann_jax.run.environment import matmul_precision
from psann_jax.run.load import load_run, load_saved
from psann_jax.run.text import corpus_of_run
from psann_jax.run.workdir import Workdir
from psann_jax.train.step import carried_eval_step, eval_step


def evaluate_run(
    path: str | os.PathLike,
    sources: tuple[str, ...] = (),
    *,
    step: str | int = "best",
    batch_tokens: int = 16_384,
) -> dict[str, float | int]:
    """`evals.perplexity.evaluate` of a run, on its validation rows or on `sources`.

    A run on tracks is evaluated with carried states too, in as many tracks as while it trained.

    Raises:
      ValueError: no such run or step, no validation part, or text that cannot be read.
    """
    run, workdir = load_run(path, step), Workdir(path)
    data = run.config.data
    if sources:
        tokenizer = str(workdir.tokenizer)
        data = dataclasses.replace(data, sources=sources, val_split=0.0, tokenizer_path=tokenizer)
    elif workdir.texts_in_memory():
        raise ValueError(f"{path} was trained on texts in memory; name files to evaluate on")
    corpus = prepare(data) if sources else corpus_of_run(workdir, data)
    held_out, meta = corpus.held_out(), corpus.meta.val
    if sources:
        held_out, meta = HeldOut(corpus.train, corpus.meta.train.bytes), corpus.meta.train
    if held_out is None or meta is None:
        apart = workdir.validated_apart()
        how = "validated on texts given apart" if apart else "trained without a validation part"
        raise ValueError(f"{path} was {how}; name files to evaluate on")
    mesh = sharding.make_mesh(data=-1, fsdp=1)
    batch_rows = _rows(batch_tokens, data)
    with jax.set_mesh(mesh), matmul_precision(run.config.train.matmul_precision):
        result = evaluate(jit(eval_step), run.model, held_out, mesh, batch_rows=batch_rows)
        if data.order == "tracks":
            carried = jit(carried_eval_step, donate_argnums=2)
            tracks = _tracks(run.config)
            result |= evaluate_carried(carried, run.model, held_out.rows, mesh, tracks=tracks)
    return {"step": run.step, "documents": meta.documents, "tokens": meta.tokens, **result}


def evaluate_saved(
    path: str | os.PathLike, sources: tuple[str, ...], *, batch_tokens: int = 16_384
) -> dict[str, float | int]:
    """`evals.perplexity.evaluate` of a saved folder or a file of psannlm, on `sources`.

    Raises:
      ValueError: no such model, a model without its tokenizer, no source, or unreadable text.
    """
    if not sources:
        raise ValueError(f"{path} is a model without validation text; name files to evaluate on")
    saved = load_saved(path)
    for note in saved.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    if saved.tokenizer is None:
        raise ValueError(f"{path} has no tokenizer; import it again with --tokenizer FILE")
    data = DataConfig(sources=sources, val_split=0.0, max_length=saved.max_length)
    corpus = prepare(data, tokenizer=saved.tokenizer)
    meta, mesh = corpus.meta.train, sharding.make_mesh(data=-1, fsdp=1)
    rows = _rows(batch_tokens, data)
    with jax.set_mesh(mesh):
        held_out = HeldOut(corpus.train, meta.bytes)
        result = evaluate(jit(eval_step), saved.model, held_out, mesh, batch_rows=rows)
    return {"documents": meta.documents, "tokens": meta.tokens, **result}


def is_saved_model(path: str | os.PathLike) -> bool:
    """Whether `evaluate_saved` is for the path: a file, or a folder that `psannLM.save` wrote."""
    return Path(path).is_file() or is_model_folder(path)


def _rows(batch_tokens: int, data: DataConfig) -> int:
    if batch_tokens < 1:
        raise ValueError(f"--batch-tokens={batch_tokens} must be at least 1")
    return max(1, batch_tokens // data.max_length)


def _tracks(config: Config) -> int:
    train = config.train
    return max(1, train.batch_tokens // config.data.max_length // train.grad_accum_steps)

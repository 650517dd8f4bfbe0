"""The sines of a run at every checkpoint, or of a saved model, and their files."""

from collections.abc import Iterator
import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np

from psann_jax import bases, sharding
from psann_jax.data import DataConfig, Rows, load_tokenizer
from psann_jax.evals.sine import has_sines, measure
from psann_jax.evals.sine_plot import plot_sines
from psann_jax.evals.sine_report import SineReport, sine_report
from psann_jax.interop.folder import TOKENIZER, is_model_folder, load_folder
from psann_jax.model import LM
from psann_jax.run.load import load_models
from psann_jax.run.report import Report
from psann_jax.run.text import Text, given_rows, rows_of_run
from psann_jax.run.workdir import Workdir
from psann_jax.seq import Batch
from psann_jax.train.feed import on_mesh

JSON, PLOT = "sine.json", "sine.png"
_TOKENS_AT_ONCE = 2048


def measure_sines(
    path: str | os.PathLike,
    report: Report,
    *,
    text: tuple[str, ...] = (),
    tokens: int = 8192,
) -> SineReport:
    """Every sine at every whole checkpoint of a run, or of a folder that `psannLM.save` wrote.

    Args:
      report: is told where the text is not the run's own.
      text: files to measure the phases on; none: a run's validation rows (its training rows if
        it has none), the embedded text where those are gone, and for a saved model.
      tokens: about how many to measure on, evenly spread over the text.

    Raises:
      ValueError: the model has no sines, there is no model, or the text cannot be read.
    """
    if tokens < 1:
        raise ValueError(f"--tokens={tokens} must be at least 1")
    base, models, chosen = _saved(path, text) if is_model_folder(path) else _run(path, text, report)
    mesh = sharding.make_mesh(data=-1, fsdp=1)
    batches, real = _batches(chosen.rows, tokens, mesh)
    with jax.set_mesh(mesh):
        measured = [(step, measure(model, base, batches)) for step, model in models]
    return sine_report(str(path), f"{real:,} tokens of {chosen.name}", real, measured)


def write_sines(found: SineReport, folder: str | os.PathLike) -> None:
    """Writes sine.json and sine.png.

    Raises:
      ValueError: matplotlib is not installed; sine.json is there then.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(dataclasses.asdict(found), allow_nan=False)
    (folder / JSON).write_text(content + "\n")
    plot_sines(found, folder / PLOT)


Found = tuple[bases.Base, Iterator[tuple[int | None, LM]], Text]


def _run(path: str | os.PathLike, text: tuple[str, ...], report: Report) -> Found:
    workdir = Workdir(path)
    config = workdir.saved_config()
    _refuse_without_sines(path, config.base)
    tokenizer = load_tokenizer(workdir.tokenizer)
    if text:
        return config.base, load_models(path), given_rows(config.data, tokenizer, text)
    try:
        rows = rows_of_run(workdir, config.data)
    except ValueError as error:
        report.line(f"{error}; phases are those of the embedded text, --text FILE chooses another")
        rows = given_rows(config.data, tokenizer, ())
    return config.base, load_models(path), rows


def _saved(path: str | os.PathLike, text: tuple[str, ...]) -> Found:
    saved = load_folder(path)
    _refuse_without_sines(path, saved.base)
    if saved.tokenizer is None:
        raise ValueError(f"{path} holds no {TOKENIZER}, so that the sines see no text")
    data = DataConfig(max_length=saved.max_length)
    rows = given_rows(data, saved.tokenizer, text)
    return saved.base, iter([(None, saved.model)]), rows


def _refuse_without_sines(path: str | os.PathLike, base: bases.Base) -> None:
    if not has_sines(base):
        activation = getattr(base, "mlp_activation", None)
        how = f" with mlp_activation={activation!r}" if activation else ""
        raise ValueError(f"{path} has no sines to inspect: its base is {bases.name_of(base)}{how}")


def _batches(rows: Rows, tokens: int, mesh: jax.sharding.Mesh) -> tuple[list[Batch], int]:
    """Rows spread evenly over all, in batches of one shape, and how many tokens are real."""
    n = min(len(rows), -(-tokens // rows.max_length))
    chosen = ((np.arange(n) + 0.5) * len(rows) / n).astype(np.int64)
    ways = sharding.batch_ways(mesh)
    at_once = min(n, max(1, _TOKENS_AT_ONCE // rows.max_length))
    at_once = -(-at_once // ways) * ways
    padded = np.full(-(-n // at_once) * at_once, -1, np.int64)
    padded[:n] = chosen
    batches = [rows.batch(indices) for indices in padded.reshape(-1, at_once)]
    real = sum(int((batch.segments > 0).sum()) for batch in batches)
    return [on_mesh(batch, mesh) for batch in batches], real

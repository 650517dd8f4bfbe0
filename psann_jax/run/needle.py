"""Needle in a haystack for a run or a saved model, and its files."""

from collections.abc import Sequence
import dataclasses
import json
import os
from pathlib import Path

import numpy as np

from psann_jax.data import DataConfig, Rows, Tokenizer
from psann_jax.evals.needle import DIGITS, Form, Haystack
from psann_jax.evals.needle_plot import plot_needles
from psann_jax.evals.needle_read import said_right
from psann_jax.evals.needle_report import Cell, NeedleReport, acceptance, cell, promotion
from psann_jax.interop.folder import SavedModel, is_model_folder
from psann_jax.run.load import load_saved
from psann_jax.run.report import Report
from psann_jax.run.text import Text, given_rows, rows_of_run
from psann_jax.run.workdir import Workdir

LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
DEPTHS = (0.0, 25.0, 50.0, 75.0, 100.0)
JSON, PLOT = "needle.json", "needle.png"
_FILLER_TOKENS = 1 << 18


def measure_needles(
    path: str | os.PathLike,
    report: Report,
    *,
    lengths: Sequence[int] = LENGTHS,
    depths: Sequence[float] = DEPTHS,
    trials: int = 20,
    digits: int = DIGITS,
    seed: int = 0,
    text: tuple[str, ...] = (),
    step: str | int = "best",
) -> NeedleReport:
    """Scores a run at `step`, or a saved model, at each length and depth.

    Args:
      report: is told each length's score, where the filler is not the run's own text, and where
        needles are of other characters than usual.
      lengths: exact lengths of the prompts, in tokens with BOS.
      depths: percent of the filler before the needle; 100 is right before the query.
      trials: prompts a cell.
      digits: of a value; a guess is right once in 10**digits.
      text: files of the filler; none: a run's validation rows (its training rows if it has none),
        the embedded text where those are gone, and for a saved model.

    Raises:
      ValueError: a number out of range, no model with a tokenizer there, or no such text.
    """
    _check(lengths, depths, trials, seed)
    saved = load_saved(path, step)
    found, tokenizer = _filler(path, saved, text, report)
    haystack = Haystack(tokenizer, _ids(found.rows, tokenizer), digits)
    if haystack.form != Form():
        example = "".join(haystack.form.parts("KEY", "VALUE"))
        report.line(
            f"the vocabulary lacks some of the usual characters; needles are {example!r} with keys "
            f"of {haystack.form.letters} and values of {haystack.form.digits}"
        )
    cells: list[Cell] = []
    for length in lengths:
        prompts = list(haystack.prompts(length, depths, trials, seed))
        right = said_right(saved.model, prompts)
        here = [cell(length, d, right[i * trials : (i + 1) * trials]) for i, d in enumerate(depths)]
        score = sum(c.score for c in here) / len(here)
        report.line(f"{length:,} tokens: {score:.0%} of {len(prompts)} needles found")
        cells += here
    return NeedleReport(
        model=str(path),
        filler=found.name,
        digits=digits,
        seed=seed,
        chance=haystack.chance,
        trained_length=saved.max_length,
        cells=cells,
        acceptance=acceptance(cells, haystack.chance),
        promotion=promotion(cells, haystack.chance),
    )


def write_needles(found: NeedleReport, folder: str | os.PathLike) -> None:
    """Writes needle.json and needle.png.

    Raises:
      ValueError: matplotlib is not installed; needle.json is there then.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(dataclasses.asdict(found), indent=1, allow_nan=False)
    (folder / JSON).write_text(content + "\n")
    plot_needles(found, folder / PLOT)


def _check(lengths: Sequence[int], depths: Sequence[float], trials: int, seed: int) -> None:
    for name, values in (("--lengths", lengths), ("--depths", depths)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name}={','.join(map(str, values))!r} must be numbers, each once")
    for length in lengths:
        if length < 1:
            raise ValueError(f"--lengths={length} must be at least 1 token")
    for depth in depths:
        if not 0 <= depth <= 100:
            raise ValueError(f"--depths={depth:g} must be 0 (the start) to 100 (the end) percent")
    if trials < 1:
        raise ValueError(f"--trials={trials} must be at least 1")
    if seed < 0:
        raise ValueError(f"--seed={seed} must not be negative")


def _filler(
    path: str | os.PathLike, saved: SavedModel, files: tuple[str, ...], report: Report
) -> tuple[Text, Tokenizer]:
    data = DataConfig(max_length=saved.max_length)
    if saved.tokenizer is None:
        raise ValueError(f"{path} holds no tokenizer, so that no prompt can be written")
    if not files and not Path(path).is_file() and not is_model_folder(path):
        try:
            return rows_of_run(Workdir(path), Workdir(path).saved_config().data), saved.tokenizer
        except ValueError as error:
            report.line(f"{error}; the filler is the embedded text, --text FILE chooses another")
    return given_rows(data, saved.tokenizer, files), saved.tokenizer


def _ids(rows: Rows, tokenizer: Tokenizer) -> np.ndarray:
    """The first tokens of the rows, at most so many as a long prompt takes a few times."""
    n = min(len(rows), -(-_FILLER_TOKENS // rows.max_length))
    batch = rows.batch(np.arange(n))
    ids = batch.inputs[batch.segments > 0]
    return ids[~np.isin(ids, [tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id])]

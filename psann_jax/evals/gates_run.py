"""Gates G3 and G4: what the metrics of a training run show."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np

from psann_jax.evals.gates import FAIL, PASS, SKIPPED, WARN, Gate, gate

_BALANCE_STEPS = 50
Row = Mapping[str, Any]  # of metrics.jsonl


def training(rows: Sequence[Row], unigram: float | None, window: int = 100) -> Gate:
    """G3: the loss fell, below what letter counts reach, and the gradient stayed in bounds.

    Args:
      rows: of metrics.jsonl, with step, loss and grad_norm.
      unigram: entropy of the training tokens in nats; None: not known.
      window: steps at either end whose logged losses are compared.
    """
    name = "G3 training"
    if len(rows) < 2:
        return gate(name, SKIPPED, "needs two logged steps at least")
    last = rows[-1]["step"]
    window = min(window, max(1, last // 2))
    sound = [r for r in rows if math.isfinite(r["loss"]) and math.isfinite(r["grad_norm"])]
    end = [r for r in sound if r["step"] > last - window]
    if not end or end[-1] is not rows[-1]:
        return gate(name, FAIL, f"step {last}, the last, has no finite loss and gradient")
    first_loss = np.mean([r["loss"] for r in sound if r["step"] <= window] or [sound[0]["loss"]])
    loss, norm = (float(np.mean([r[key] for r in end])) for key in ("loss", "grad_norm"))
    beaten = unigram is None or loss < unigram
    # Of all steps, where the rows count them; else of those that were logged.
    skipped = max(int(rows[-1].get("skipped_steps", 0)), len(rows) - len(sound))
    failed = not loss < first_loss or not beaten or norm > 5
    status = FAIL if failed else PASS if 0.5 <= norm <= 1.5 and not skipped else WARN
    below = "" if unigram is None else f", to be under {unigram:.3f} of token counts"
    said = (
        f"loss {first_loss:.3f} -> {loss:.3f} over {last} steps{below}; gradient norm {norm:.2f} "
        "(0.5 to 1.5, fails above 5)"
    )
    if skipped:
        said += f"; {skipped} steps were skipped, as they were not finite"
    return gate(name, status, said, first_loss=first_loss, loss=loss, grad_norm=norm)


def balance(rows: Sequence[Row], branches: tuple[str, ...]) -> Gate:
    """G4: the gradients of two branches, RMS per parameter, are of one order of magnitude.

    Args:
      rows: of metrics.jsonl, each with the mean of its steps.
      branches: their names, as Base.branches.
    """
    name, keys = "G4 balance", [f"grad_rms_{branch}" for branch in branches]
    rows = [r for r in rows if keys and all(k in r for k in keys)]
    if len(keys) != 2:
        return gate(name, SKIPPED, "the base has no two branches to compare")
    tail, covered = [], 0
    for row, before in zip(reversed(rows), [*reversed(rows[:-1]), {"step": 0}], strict=False):
        tail, covered = [*tail, row], covered + row["step"] - before["step"]
        if covered >= _BALANCE_STEPS:
            break
    if covered < _BALANCE_STEPS:
        return gate(name, SKIPPED, f"needs {_BALANCE_STEPS} steps, has {covered}")
    first, second = (float(np.mean([row[key] for row in tail])) for key in keys)
    ratio = first / second if second > 0 else math.inf
    status = PASS if 0.3 <= ratio <= 3 else WARN if 0.1 <= ratio <= 10 else FAIL
    said = (
        f"gradient of {branches[0]} / {branches[1]} {ratio:.2f}, over {covered} steps "
        "(0.3 to 3, fails outside 0.1 to 10)"
    )
    return gate(name, status, said, ratio=ratio)

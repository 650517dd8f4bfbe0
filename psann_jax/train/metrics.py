"""metrics.jsonl: one object a logged step, each step once, whatever was killed when."""

import json
import math
import os
from pathlib import Path
from typing import Any


class MetricsFile:
    """Appends one JSON object a line; a line is on disk when `write` returns."""

    def __init__(self, path: str | os.PathLike, *, resume_step: int = 0):
        """Keeps the whole lines up to `resume_step`: later ones are about to be run again."""
        self.path = Path(path)
        kept = [row for row in read_metrics(self.path) if row["step"] <= resume_step]
        part = self.path.with_suffix(".part")
        part.write_text("".join(_line(row) for row in kept))
        part.rename(self.path)
        self._file = self.path.open("a", buffering=1)

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(_line(row))

    def close(self) -> None:
        self._file.close()


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line that was cut off is left out."""
    path = Path(path)
    lines = path.read_text().splitlines() if path.exists() else []
    rows = []
    for line in lines:
        try:
            rows.append({k: _number(v) for k, v in json.loads(line).items()})
        except ValueError:
            break
    return rows


def _line(row: dict[str, Any]) -> str:
    plain = {k: _finite(v) for k, v in row.items()}
    return json.dumps(plain, allow_nan=False) + "\n"


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity; they are written as strings."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def perplexity(loss: float) -> float:
    """exp of a loss in nats, finite also where a run has diverged."""
    return math.exp(min(loss, 700.0))


def bits_per_byte(nats: float, n_bytes: float) -> float:
    """Nats over a text of n_bytes in bits a byte, which no choice of tokenizer changes."""
    return nats / math.log(2) / n_bytes

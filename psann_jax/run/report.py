"""What a run says: a progress bar on a terminal, plain lines elsewhere, all on stderr."""

import contextlib
import sys
import time
from typing import Any

import jax

_PLAIN = ("loss", "ppl", "lr", "grad_norm", "val_loss", "val_loss_carried", "val_bits_per_byte")


class Report:
    """Process 0 speaks; `quiet` silences it too. A context manager: it ends the bar."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet or jax.process_index() != 0
        self._bar = None
        self._task = None

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def line(self, text: str) -> None:
        if self.quiet:
            return
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def timed(self, doing: str):
        """Says what begins, and how long it took."""
        self.line(f"{doing} ...")
        start = time.perf_counter()
        yield
        self.line(f"{doing}: {time.perf_counter() - start:.1f} s")

    def begin(self, done: int, total: int) -> None:
        """Starts the bar at `done` of `total` steps, on a terminal."""
        if self.quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=total, completed=done)

    def step(self, step: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=step)

    def row(self, row: dict[str, Any], total: int) -> None:
        """The metrics of a logged step."""
        rate = f"{row['tokens_per_s']:,.0f} tokens/s" if row.get("tokens_per_s") else ""
        if self._bar and "val_loss" not in row:
            self._bar.update(self._task, description=f"loss {row['loss']:.4f} {rate}")
            return
        values = "  ".join(f"{k} {row[k]:.4g}" for k in _PLAIN if k in row)
        self.line(f"step {row['step']}/{total}  {values}  {rate}".rstrip())


def duration(seconds: float) -> str:
    """Seconds as a person would say them: 45 s, 3 min 10 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"


def amount(n: float) -> str:
    """A count in the unit that suits it: 950, 1.3 M, 2.1 B."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e4)):
        if n >= size:
            return f"{n / (1e3 if unit == 'k' else size):.1f} {unit}"
    return f"{n:.0f}"

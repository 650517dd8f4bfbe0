"""A watch over what the loop waits for: a wait far longer than usual is told while it lasts."""

import collections
from collections.abc import Iterable, Iterator
import contextlib
import faulthandler
from pathlib import Path
import statistics
import threading
import time
from typing import TypeVar

from psann_jax.run.report import Report, duration

T = TypeVar("T")
_REMEMBERED = 100  # waits of a kind
_TIMES = 10  # the median, that is far longer than usual


class Watchdog:
    """Reports a wait that lasts, each time it has doubled; a context manager around the loop.

    Args:
      patience: seconds that no wait is too long for.
      stacks: file for what every thread of this process does then; None writes none.
    """

    def __init__(self, report: Report, *, patience: float = 60.0, stacks: Path | None = None):
        self.report, self.patience, self.stacks = report, patience, stacks
        self.step = 0
        self._seen: dict[str, collections.deque[float]] = collections.defaultdict(
            lambda: collections.deque(maxlen=_REMEMBERED)
        )
        self._lock = threading.Lock()
        self._wait: tuple[str, float, float] | None = None  # for what, since when, told next at
        self._ended = threading.Event()

    def __enter__(self) -> "Watchdog":
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Marks a wait for `what`, as "the data"."""
        start = time.monotonic()
        with self._lock:
            self._wait = what, start, start + self._limit(what)
        try:
            yield
        finally:
            with self._lock:
                self._wait = None
                self._seen[what].append(time.monotonic() - start)

    def each(self, items: Iterable[T], what: str) -> Iterator[T]:
        """The items, each waited for."""
        iterator, end = iter(items), object()
        while True:
            with self.waiting(what):
                item = next(iterator, end)
            if item is end:
                return
            yield item  # type: ignore[misc]

    def _limit(self, what: str) -> float:
        usual = statistics.median(self._seen[what]) if self._seen[what] else 0.0
        return max(self.patience, _TIMES * usual)

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self.patience / 4)):
            with self._lock:
                wait, now = self._wait, time.monotonic()
                if wait is None or now < wait[2]:
                    continue
                what, start, _ = wait
                self._wait = what, start, now + (now - start)
                usual = statistics.median(self._seen[what]) if self._seen[what] else None
            self._tell(what, now - start, usual)

    def _tell(self, what: str, seconds: float, usual: float | None) -> None:
        than = "" if usual is None else f", usually {usual:.2g} s"
        said = f"after step {self.step}: waiting {duration(seconds)} for {what}{than}"
        self.report.line(said)
        if self.stacks:
            with contextlib.suppress(OSError):  # a full disk may be what is waited for
                self._write_stacks(self.stacks, said)

    def _write_stacks(self, path: Path, said: str) -> None:
        with path.open("a") as file:
            file.write(f"{said}\n")
            file.flush()
            faulthandler.dump_traceback(file)
        self.report.line(f"what each thread does: {path}")

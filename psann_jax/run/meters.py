"""What a loop adds up between two reports: seconds a step, and the balance of a hybrid."""

import math
import time

import numpy as np

from psann_jax.train.step import Metrics


class Balance:
    """Gradient RMS of a hybrid's branches, averaged over the steps since the last report."""

    def __init__(self, branches: tuple[str, ...]):
        self.names = [f"grad_rms_{branch}" for branch in branches]
        self.seen: list[list[float]] = []

    def add(self, metrics: Metrics) -> None:
        row = [float(metrics[name]) for name in self.names]
        if row and all(map(math.isfinite, row)):  # else the step was skipped
            self.seen.append(row)

    def taken(self) -> dict[str, float]:
        """The means by name, and the first over the second as "grad_ratio"; forgets them."""
        if not self.seen:
            return {}
        means, self.seen = np.mean(self.seen, axis=0).tolist(), []
        row = dict(zip(self.names, means, strict=True))
        return row | ({"grad_ratio": means[0] / means[1]} if means[1:] and means[1] else {})


class Clock:
    """Seconds and tokens of the steps since the last report, without evaluations and saves."""

    def __init__(self):
        self.resume()

    def resume(self) -> None:
        """Begins to count at this moment, after a pause."""
        self._start = self._ticked = time.perf_counter()
        self._steps = self._tokens = 0

    def reported(self) -> None:
        """Begins to count anew at the end of the last step."""
        self._start, self._steps, self._tokens = self._ticked, 0, 0

    def tick(self, tokens: int) -> None:
        """A step has ended that learned from so many tokens."""
        self._ticked = time.perf_counter()
        self._steps += 1
        self._tokens += tokens

    def seconds_per_step(self) -> float:
        return (self._ticked - self._start) / max(1, self._steps)

    def tokens_per_second(self) -> float:
        return self._tokens / max(self._ticked - self._start, 1e-9)

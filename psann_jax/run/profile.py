"""A profile of given steps, for xprof, TensorBoard and Perfetto."""

from pathlib import Path

import jax

from psann_jax.run.report import Report
from psann_jax.train.config import span


class Profile:
    """Traces the steps of `train.profile_steps`, as "20:25"; nothing without."""

    def __init__(self, steps: str | None, folder: Path | None, report: Report):
        self.folder, self.report = folder, report
        self.first, self.last = span(steps) if steps else (0, 0)
        self._running = False

    def before(self, step: int) -> None:
        """Begins with the first of the steps; to be called before each."""
        if step == self.first and self.folder:
            jax.profiler.start_trace(self.folder)
            self._running = True

    def after(self, step: int) -> None:
        """Ends with the last of them; to be called when the step is done."""
        if self._running and step >= self.last:
            self.close()
            self.report.line(f"profile of steps {self.first} to {step}: {self.folder}")

    def close(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

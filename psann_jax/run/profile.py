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

    def say_if_empty(self, done: int, steps: int) -> None:
        """Says why nothing, or less, will be profiled in a run from step `done` + 1 to `steps`."""
        if not self.first:
            return
        said = f"train.profile_steps={self.first}:{self.last}"
        if not self.folder:
            self.report.line(f"{said} leaves no profile: there is no workdir for it")
        elif not done < self.first <= steps:
            self.report.line(f"{said} leaves no profile: the run has steps {done + 1} to {steps}")

    def before(self, step: int) -> None:
        """Begins with the first of the steps; to be called before each."""
        if step == self.first and self.folder:
            jax.profiler.start_trace(self.folder)
            self._running = True

    def after(self, step: int) -> None:
        """Ends with the last of them; to be called when the step is done."""
        if step == self.last:
            self.close()

    def close(self) -> None:
        """Ends a profile that is running, also before its last step."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            self.report.line(f"profile from step {self.first} on: {self.folder}")

"""A stop from outside: SIGTERM and SIGINT let the step end, so that it can be saved."""

from collections.abc import Iterator
import contextlib
import signal
import threading
from types import FrameType
from typing import Any

EXIT_FAILED = 74  # a disk, a network: start me again
EXIT_PREEMPTED = 75  # saved: start me again


class MachineFailed(OSError):
    """The machine failed under a run that was right: another start may well go on."""


@contextlib.contextmanager
def machine_failures() -> Iterator[None]:
    """Within the context, an OSError is a MachineFailed: what can be wrong was checked before."""
    try:
        yield
    except MachineFailed:
        raise
    except OSError as error:
        raise MachineFailed(f"{error}; start it again to go on, once that is mended") from error


class Preempted(Exception):
    """The run was told to stop; `model` has the weights it reached."""

    def __init__(self, message: str, model: Any):
        super().__init__(message)
        self.model = model


class StopSignal:
    """Within the context, the first SIGTERM or SIGINT sets `asked`; a second SIGINT interrupts.

    What stops many processes may tell one twice, so a second SIGTERM says nothing new. Within
    another StopSignal, that one is told too, and what it was told before counts.

    Args:
      at_once: whether the first signal interrupts too, where there is no step to end.
    """

    def __init__(self, *, at_once: bool = False):
        self.asked, self.at_once = False, at_once
        self._outer: StopSignal | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                old = signal.signal(number, self._ask)
                self._stack.callback(signal.signal, number, old)
                outer = getattr(old, "__self__", None)
                self._outer = outer if isinstance(outer, StopSignal) else None
            self.asked |= self._outer is not None and self._outer.asked
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        interrupts = number == signal.SIGINT if self.asked else self.at_once
        self.asked = True
        if self._outer:
            self._outer.asked = True
        if interrupts:
            raise KeyboardInterrupt

"""Exit codes, and the one place where an error becomes a line on stderr."""

from collections.abc import Callable
import sys

from psann_jax.run.guard import EXIT_NOT_FINITE, NotFinite
from psann_jax.run.stop import EXIT_FAILED, EXIT_PREEMPTED, MachineFailed, Preempted

DONE, BUG, BAD_INPUT = 0, 1, 2


def exit_code(command: Callable[[], None]) -> int:
    """Runs a command: 0 done, 2 bad input, 3 no finite loss any more, 74 a failure of the machine
    in the middle of a run, 75 stopped and saved.

    A bug keeps its traceback.
    """
    try:
        command()
    except MachineFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except (ValueError, OSError) as error:  # OSError: a full disk, a folder that is not ours
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except NotFinite as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_NOT_FINITE
    except Preempted as stop:
        print(stop, file=sys.stderr)
        return EXIT_PREEMPTED
    return DONE

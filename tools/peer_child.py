"""The loop of a benchmark's other side, for any Python: no JAX and no PyTorch here.

Its one argument is a folder of request.json and weights.npz. Every line of stdin is a number of
calls and gets one line of JSON on stdout.
"""

from collections.abc import Callable
import ctypes
import json
import os
from pathlib import Path
import sys
import time
from typing import Any
import warnings

Run = Callable[[], dict[str, Any]]


def request() -> dict[str, Any]:
    """What is asked for; "weights" is the path of the arrays. Sets up the process for it."""
    warnings.filterwarnings("ignore")
    folder = Path(sys.argv[1])
    asked = json.loads((folder / "request.json").read_text())
    for parameter, value in asked["mallopt"]:
        ctypes.CDLL(None).mallopt(parameter, value)
    return asked | {"weights": str(folder / "weights.npz")}


def serve(make_run: Callable[[], Run], versions: dict[str, str]) -> None:
    """Makes the run, calls it once, says so, and then calls it as often as it is told."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print; stdout is for replies alone
    run = make_run()
    first = _timed(run, 1)
    ready = {"first_run_s": first.pop("seconds"), **first, **versions}
    print(json.dumps(ready), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(_timed(run, int(line))), file=replies, flush=True)


def _timed(run: Run, calls: int) -> dict[str, Any]:
    start = time.perf_counter()
    for _ in range(calls):
        reply = run()
    # A number that is still on a device is waited for here.
    reply = {k: v.item() if hasattr(v, "item") else v for k, v in reply.items()}
    return reply | {"seconds": (time.perf_counter() - start) / calls}

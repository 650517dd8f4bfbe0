"""psannlm in a child process of its own virtual environment, one run a request."""

import json
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import Any
import venv

import numpy as np

VENV = Path("~/.cache/psann_jax/peer-venv").expanduser()
REQUIREMENTS = ("psannlm", "torch==2.13.0")


def ensure_venv() -> Path:
    """The Python of the peer's environment, which is made on the first call."""
    python, ready = VENV / "bin" / "python", VENV / ".ready"
    if not ready.exists():
        print(f"making {VENV} with {', '.join(REQUIREMENTS)}", file=sys.stderr)
        venv.create(VENV, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        ready.touch()
    return python


class Peer:
    """A psannlm model with given weights that waits until it is asked for its next run.

    Attributes:
      info: what it said when it was ready: versions, and the seconds of its first run.
      last: its last reply: "seconds" of the run, and its "loss" or "tokens".
    """

    def __init__(self, task: str, weights: dict[str, np.ndarray], **options: Any):
        """Starts `peer_psannlm.py`; `options` are the keys that its docstring lists."""
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "weights.npz"
        np.savez(path, **weights)
        script = Path(__file__).with_name("peer_psannlm.py")
        request = json.dumps({"task": task, "weights": str(path), **options})
        command = [ensure_venv(), script, request]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.info = self._reply()
        self.last: dict[str, Any] = {}

    def run(self) -> float:
        """One run; its seconds as the child measured them."""
        print("run", file=self._child.stdin, flush=True)
        self.last = self._reply()
        return self.last["seconds"]

    def _reply(self) -> dict[str, Any]:
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with exit code {self._child.wait()}")
        return json.loads(line)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_) -> None:
        self._child.stdin.close()
        self._child.wait()
        self._folder.cleanup()

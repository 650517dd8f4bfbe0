"""A PyTorch model in a child process of its own Python, one timed run a request.

That Python is $PEER_PYTHON, else this one where it has PyTorch and what else is needed, else that
of a virtual environment with REQUIREMENTS, made on the first call. The wheels in the folder
$PEER_WHEELS can be imported there as they are: for a machine without a network.
"""

from collections.abc import Generator
import contextlib
import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import Any
import venv

import numpy as np

VENV = Path("~/.cache/psann_jax/peer-venv").expanduser()
REQUIREMENTS = ("psannlm==2.0.1", "torch==2.13.0")
Request = dict[str, Any]


class PeerMissing(Exception):
    """There is nothing to compare with on this machine; says why."""


def ensure_venv() -> Path:
    """The Python of the peer's environment, which is made on the first call."""
    python, ready = VENV / "bin" / "python", VENV / ".ready"
    if not ready.exists():
        print(f"making {VENV} with {', '.join(REQUIREMENTS)}", file=sys.stderr)
        venv.create(VENV, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        ready.touch()
    return python


def interpreter(*packages: str) -> Path:
    """The Python to run a peer that imports `packages` with.

    Raises:
      PeerMissing: this Python lacks them, and the virtual environment cannot be made.
    """
    if chosen := os.environ.get("PEER_PYTHON"):
        return Path(chosen)
    carried = {path.name.split("-")[0] for path in _wheels()}
    if all(name in carried or importlib.util.find_spec(name) for name in packages):
        return Path(sys.executable)
    try:
        return ensure_venv()
    except (OSError, subprocess.CalledProcessError) as error:
        raise PeerMissing(f"{', '.join(packages)} cannot be installed here") from error


def _wheels() -> list[Path]:
    folder = os.environ.get("PEER_WHEELS")
    return sorted(Path(folder).absolute().glob("*.whl")) if folder else []


class Peer:
    """A child that waits until it is asked for its next run.

    Attributes:
      info: what it said when it was ready: versions, and the seconds of its first run.
      last: its last reply: "seconds" of a run, and what the run returned.
    """

    def __init__(
        self, python: Path, script: Path, request: Request, weights: dict[str, np.ndarray]
    ):
        """Starts `script`, which calls `peer_child.serve`, on a folder with the request.

        Raises:
          PeerMissing: it ended before it was ready.
        """
        self._folder = tempfile.TemporaryDirectory()
        np.savez(Path(self._folder.name) / "weights.npz", **weights)
        (Path(self._folder.name) / "request.json").write_text(json.dumps(request))
        path = os.pathsep.join(map(str, [*_wheels(), os.environ.get("PYTHONPATH", "")]))
        # Read when PyTorch is imported.
        environment = os.environ | {"OMP_NUM_THREADS": str(request["threads"]), "PYTHONPATH": path}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        try:
            if request["mallopt"]:  # as `keep_memory` does it on our side: pages of 2 MiB too
                environment |= {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
            command = [python, script, self._folder.name]
            self._child = subprocess.Popen(command, text=True, env=environment, **pipes)
        except OSError as error:
            self._folder.cleanup()
            raise PeerMissing(f"its Python cannot be run: {error.strerror}") from error
        self.last: dict[str, Any] = {}
        self.info = self._reply()

    def run(self, calls: int = 1) -> float:
        """So many calls in one run; seconds a call, as the child measured them."""
        print(calls, file=self._child.stdin, flush=True)
        self.last = self._reply()
        return self.last["seconds"]

    def _reply(self) -> dict[str, Any]:
        line = self._child.stdout.readline()
        if not line:
            self.close()
            raise PeerMissing(f"the peer ended with exit code {self._child.returncode}")
        return json.loads(line)

    def close(self) -> None:
        self._child.communicate()  # ends its input, and waits
        self._folder.cleanup()


@contextlib.contextmanager
def started(
    script: str,
    requests: dict[str, Request],
    weights: dict[str, np.ndarray],
    packages: tuple[str, ...] = ("torch", "psannlm"),
) -> Generator[tuple[dict[str, Peer], dict[str, str]]]:
    """Peers by name, and why those that are not there are missing."""
    peers: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    path = Path(__file__).parent / script
    with contextlib.ExitStack() as stack:
        for name, request in requests.items():
            try:
                peers[name] = Peer(interpreter(*packages), path, request, weights)
                stack.callback(peers[name].close)
            except PeerMissing as error:
                missing[name] = str(error)
                print(f"{name} is missing: {error}", file=sys.stderr)
        yield peers, missing

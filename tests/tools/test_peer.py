"""The protocol between a benchmark and a model in another Python."""

from pathlib import Path
import sys

import numpy as np
import peer
import pytest

SCRIPT = Path(__file__).with_name("echo_peer.py")
ASKED = {"threads": 1, "mallopt": (), "factor": 2, "fails": False}


@pytest.fixture(autouse=True)
def _own_python(monkeypatch):
    monkeypatch.setenv("PEER_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(Path(peer.__file__).parent))


def test_a_peer_runs_as_often_as_it_is_asked_and_returns_plain_numbers():
    weights = {"weight": np.ones(3)}
    requests = {"one": ASKED, "two": ASKED | {"factor": 4}, "three": ASKED | {"fails": True}}
    with peer.started(str(SCRIPT), requests, weights) as (peers, missing):
        assert peers["one"].info["torch"] == "none" and peers["one"].info["calls"] == 1
        assert peers["one"].run(3) > 0
        assert peers["one"].last["calls"] == 4 and peers["one"].last["loss"] == 6
        peers["two"].run()
        assert peers["two"].last["loss"] == 12
    assert missing == {"three": "the peer ended with exit code 3"}


def test_wheels_that_are_carried_along_can_be_imported(monkeypatch, tmp_path):
    (tmp_path / "psannlm-2.0.1-py3-none-any.whl").touch()
    monkeypatch.delenv("PEER_PYTHON")
    monkeypatch.setenv("PEER_WHEELS", str(tmp_path))
    assert peer.interpreter("numpy", "psannlm") == Path(sys.executable)


def test_an_environment_that_cannot_be_made_is_said(monkeypatch, tmp_path):
    monkeypatch.delenv("PEER_PYTHON")
    monkeypatch.setattr(peer, "VENV", tmp_path / "file" / "venv")
    (tmp_path / "file").touch()
    with pytest.raises(peer.PeerMissing, match="no_such_package cannot be installed here"):
        peer.interpreter("no_such_package")

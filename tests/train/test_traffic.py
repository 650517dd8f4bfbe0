"""What a train step sends between devices: read from compiled programs, nothing is executed."""

import json
import os
from pathlib import Path
import subprocess
import sys

import collectives
import pytest

SCRIPT = Path(__file__).parent / "traffic.py"
TOOLS = Path(collectives.__file__).parent
UNROLLED = 8.2  # weights gathered and gradients summed: 4 bytes each, and what stays whole
SCANNED = 12.0  # a loop over layers gathers the weights once forward, once backward


def _traffic(*cases, devices=64):
    """Bytes a parameter of each case, by kind; XLA must not complain."""
    path = os.pathsep.join(filter(None, [str(TOOLS), os.environ.get("PYTHONPATH")]))
    here = {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    here["PYTHONPATH"] = path
    command = [sys.executable, str(SCRIPT), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **here})
    assert done.returncode == 0, done.stderr
    assert "rematerialization" not in done.stderr  # a tensor was gathered to be cut anew
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("scan", "most"), [(False, UNROLLED), (True, SCANNED)])
def test_fsdp_sends_the_same_few_bytes_a_parameter_on_8_and_64_devices(scan, most):
    case = {"name": "respsann", "scan_layers": scan}
    few, many = _traffic({**case, "mesh": (1, 8, 1)}, {**case, "mesh": (1, 64, 1)})
    assert few == pytest.approx(many, rel=0.01)
    assert set(many) == {"all-gather", "all-reduce"}
    assert 7.5 < sum(many.values()) < most


@pytest.mark.parametrize(
    "name", ["waveresnet", "sgrpsann", "geosparse", "transformer", "groundthink"]
)
def test_fsdp_of_any_base_sends_at_most_twelve_bytes_a_parameter(name):
    (sent,) = _traffic({"name": name, "mesh": (1, 64, 1), "n_layers": 1})
    assert sum(sent.values()) < 12


@pytest.mark.slow
def test_fsdp_sends_as_much_on_256_devices():
    case = {"name": "respsann", "d_model": 256, "d_mlp": 1024, "vocab_size": 4096}
    many, few = _traffic(*({**case, "mesh": (1, n, 1)} for n in (256, 8)), devices=256)
    assert many == pytest.approx(few, rel=0.01)


def test_every_micro_batch_sums_gradients_and_replicas_send_nothing_else():
    replicas = {"name": "respsann", "mesh": (8, 1, 1)}
    one, four = _traffic(replicas, {**replicas, "micro_batches": 4}, devices=8)
    assert one == pytest.approx({"all-reduce": 4.0}, rel=0.01)
    assert four == pytest.approx({"all-reduce": 16.0}, rel=0.01)

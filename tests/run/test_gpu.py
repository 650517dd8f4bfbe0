"""What a GPU says of itself goes into the metrics, and nothing it does not say ends a run."""

import sys
import types

import jax
import pytest

from psann_jax.run.gpu import Gpus


@pytest.fixture
def nvml(monkeypatch):
    """Two cards, of which the process sees the second."""

    class NVMLError(Exception):
        pass

    def utilization(card):
        return types.SimpleNamespace(gpu=10 * card)

    library = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda name: {"GPU-a": 1}[name],
        nvmlDeviceGetUtilizationRates=utilization,
        nvmlDeviceGetPowerUsage=lambda card: 1000 * (100 + card),
        nvmlDeviceGetTemperature=lambda card, sensor: 40 + card,
    )
    device = types.SimpleNamespace(local_hardware_id=0, memory_stats=lambda: None)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    return library


@pytest.mark.parametrize("shown", ["1", "GPU-a", "1,0"])
def test_the_card_that_the_process_sees_is_read(nvml, monkeypatch, shown):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    said = {"gpu_utilization": 10.0, "gpu_watts": 101.0, "gpu_celsius": 41.0}
    assert Gpus().read() == said


def test_a_card_that_does_not_tell_is_not_asked_again(nvml, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def refuse(card):
        raise nvml.NVMLError

    nvml.nvmlDeviceGetPowerUsage = refuse
    gpus = Gpus()
    assert gpus.read() == gpus.read() == {}


def test_without_the_library_or_a_card_nothing_is_read(nvml, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Gpus().read() == {}
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert Gpus().read() == {}

"""How busy, hot and hungry this process's NVIDIA GPUs are, where nvidia-ml-py is installed."""

import importlib
import os
from typing import Any

import jax


class Gpus:
    """Reads the GPUs of this process; reads nothing where there are none, or no library for it."""

    def __init__(self):
        self._nvml, self._handles = None, []
        if jax.default_backend() != "gpu":
            return
        try:
            nvml = importlib.import_module("pynvml")
            nvml.nvmlInit()
            self._handles = [_handle(nvml, d) for d in jax.local_devices()]
            self._nvml = nvml
        except Exception:  # noqa: BLE001 - no library, no driver, an AMD card: none ends a run
            self._handles = []

    def read(self) -> dict[str, float]:
        """Utilisation in percent, power in watts, temperature in degrees Celsius: the most of each.

        Empty where nothing can be read.
        """
        nvml: Any = self._nvml
        if not self._handles:
            return {}
        try:
            rows = [
                {
                    "gpu_utilization": float(nvml.nvmlDeviceGetUtilizationRates(h).gpu),
                    "gpu_watts": nvml.nvmlDeviceGetPowerUsage(h) / 1000,
                    "gpu_celsius": float(nvml.nvmlDeviceGetTemperature(h, 0)),
                }
                for h in self._handles
            ]
        except nvml.NVMLError:  # a card that does not tell; it will not later either
            self._handles = []
            return {}
        return {name: max(row[name] for row in rows) for name in rows[0]}


def _handle(nvml: Any, device: jax.Device) -> Any:
    """The library counts all cards of the machine, JAX those that CUDA_VISIBLE_DEVICES shows."""
    shown = [n.strip() for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if n.strip()]
    number = device.local_hardware_id or 0
    chosen = shown[number] if number < len(shown) else str(number)
    if chosen.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(chosen))
    return nvml.nvmlDeviceGetHandleByUUID(chosen)

"""Bytes a parameter that a mesh of pretended devices exchanges in a train step."""

import argparse
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

from benchmark import UNTIMED, Benchmark, By

SCRIPT = Path(__file__).with_name("collectives.py")


def exchanged(args: argparse.Namespace) -> dict[str, Any]:
    """Bytes a parameter and step that devices exchange, by their number, from compiled programs."""
    results = {}
    for axis in args.axes:
        for devices in args.devices:
            done = subprocess.run(
                [sys.executable, SCRIPT, axis, str(args.d_model), str(args.n_layers)],
                env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            results[f"{axis} {devices}"] = json.loads(done.stdout)
    return {"results": results}


BENCHMARKS = {
    "B17": Benchmark(
        exchanged,
        {
            **UNTIMED,
            "axes": ("data", "fsdp"),
            "devices": By((2,), (8, 32), (8, 64, 256)),
            "d_model": By(32, 256, 256),
            "n_layers": 2,
        },
        has_children=True,
    )
}

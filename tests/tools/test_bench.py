"""The benchmark script prints records that other programs can read."""

import json
from pathlib import Path
import subprocess
import sys

SCRIPT = Path(__file__).parents[2] / "tools" / "bench.py"


def test_bench_sine_prints_one_json_record_with_its_fields():
    flags = ["--rows", "32", "--features", "16", "--n", "2", "--warmup", "1"]
    command = [sys.executable, SCRIPT, "sine", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    record = json.loads(done.stdout)
    assert record["id"] == "sine" and record["n"] == 2
    assert record["config"]["rows"] == 32
    assert {"jax", "python"} <= set(record["versions"])
    assert {"device", "processor", "load"} <= set(record)
    for name in ("sine", "reference", "gelu"):
        for part in ("forward", "forward+backward"):
            row = record["results"][f"{name} {part}"]
            assert 0 < row["p10_s"] <= row["median_s"] <= row["p90_s"]
    assert record["ratio_gelu"]["of_medians"] > 0

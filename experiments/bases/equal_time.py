"""Which base learns most from the same text, with the same parameters and in the same time?

    TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/bases/equal_time.py

The models of sweep.py, each with as many steps as it makes while ResPSANN makes 1,000, by the
median speeds in results/summary.json, of the machine that ran it. Three seeds: 27 runs.
"""

import dataclasses
import json
from pathlib import Path
import statistics

from configs.ablation import get_config
from experiments.bases.sweep import get_sweep as get_equal_tokens
from psann_jax.run.sweep import Sweep

RESULTS = Path(__file__).parent / "results" / "summary.json"


def speeds() -> dict[str, float]:
    """Tokens a second of each base, the median of its seeds.

    Raises:
      ValueError: sweep.py has not been run.
    """
    if not RESULTS.exists():
        raise ValueError(f"{RESULTS} is missing; run sweep.py with --report first")
    found: dict[str, list[float]] = {}
    for run in json.loads(RESULTS.read_text())["runs"]:
        found.setdefault(run["variant"], []).append(run["tokens_per_s"])
    return {name: statistics.median(own) for name, own in found.items()}


def get_sweep() -> Sweep:
    sweep, measured = get_equal_tokens(), speeds()
    config = dataclasses.replace(get_config(), workdir="runs/bases-equal-time")
    variants = {}
    for name, fields in sweep.variants.items():
        steps = config.train.steps * measured[name] / measured["respsann"]
        variants[name] = {**fields, "train.steps": 10 * round(steps / 10)}
    return dataclasses.replace(sweep, config=config, variants=variants)

"""Which base learns most from the same text, with the same parameters and in the same time?

    SPEED=1 TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/bases/equal_time.py
    TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/bases/equal_time.py

The models of sweep.py. SPEED=1 makes a few steps of each, to see how fast this machine is with it.
Then each makes as many steps as go into the time of 1,000 of ResPSANN's, by the speeds in
speed/summary.json. Three seeds: 27 runs.
"""

import dataclasses
import json
import os
from pathlib import Path

from configs.ablation import get_config
from experiments.bases.sweep import get_sweep as get_equal_tokens
from psann_jax.run.sweep import Sweep

SPEED = Path(__file__).parent / "speed" / "summary.json"


def speeds() -> dict[str, float]:
    """Tokens a second of each base.

    Raises:
      ValueError: they have not been measured.
    """
    if not SPEED.exists():
        raise ValueError(f"{SPEED} is missing; run this with SPEED=1 and --report {SPEED.parent}")
    return {run["variant"]: run["tokens_per_s"] for run in json.loads(SPEED.read_text())["runs"]}


def get_sweep() -> Sweep:
    sweep, config = get_equal_tokens(), get_config()
    if os.environ.get("SPEED"):
        config = dataclasses.replace(config, workdir="runs/bases-speed")
        config.train.steps, config.train.log_interval_steps = 100, 5
        return dataclasses.replace(sweep, config=config, seeds=(0,), metric="step_seconds")
    measured, variants = speeds(), {}
    for name, fields in sweep.variants.items():
        steps = config.train.steps * measured[name] / measured["respsann"]
        variants[name] = {**fields, "train.steps": 10 * round(steps / 10)}
    config = dataclasses.replace(config, workdir="runs/bases-equal-time")
    return dataclasses.replace(sweep, config=config, variants=variants)

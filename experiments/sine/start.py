"""Where should frequency and damping begin, and does damping help at all?

    TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/sine/start.py

ResPSANN with all three parameters learned, from other frequencies f and dampings d than 1 and 0.01,
and with another envelope of the damping, or none. Three seeds: 30 runs of 2 M tokens.
"""

import dataclasses

from configs.ablation import get_config
from psann_jax.run.sweep import Sweep

RATE = 8e-3  # the best for A-f-d in the search of sweep.py
VARIANTS = {
    "default": {},
    "f-0.25": {"base.sine.frequency": 0.25},
    "f-0.5": {"base.sine.frequency": 0.5},
    "f-2": {"base.sine.frequency": 2.0},
    "f-4": {"base.sine.frequency": 4.0},
    "f-drawn": {"base.sine.frequency_std": 0.3},  # each feature's own
    "d-0.1": {"base.sine.damping": 0.1},
    "d-0.5": {"base.sine.damping": 0.5},
    "relu": {"base.sine.envelope": "relu"},
    "undamped": {"base.sine.envelope": "none"},
}


def get_sweep() -> Sweep:
    config = dataclasses.replace(get_config(), workdir="runs/sine-start")
    config.optimizer.learning_rate = RATE
    return Sweep(config=config, variants=VARIANTS, baseline="default")

"""What kernel and dilation should WaveResNet's convolutions have, and what are they worth?

    TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/waves/sweep.py

A WaveResNet as large as the ResPSANN of configs/ablation.py, with other kernels, with dilations
that double from layer to layer, and without the wave; each with as many parameters, within 1 %, by
the width of its MLP. Three seeds: 18 runs of 2 M tokens.
"""

import dataclasses

from configs.ablation import get_config, matched
from experiments.bases.sweep import RATES
from psann_jax.run.sweep import Sweep

VARIANTS = {
    "kernel-3": {"kernel": 3},
    "kernel-2": {"kernel": 2},
    "kernel-7": {"kernel": 7},
    "kernel-3-doubling": {"kernel": 3, "dilation_growth": 2},
    "kernel-7-doubling": {"kernel": 7, "dilation_growth": 2},
    "off": {"wave": "off"},
}


def get_sweep() -> Sweep:
    variants = {n: {"base": matched("waveresnet", **fields)} for n, fields in VARIANTS.items()}
    config = dataclasses.replace(get_config(), workdir="runs/waves")
    config.optimizer.learning_rate = RATES["waveresnet"]
    return Sweep(config=config, variants=variants, baseline="kernel-3")

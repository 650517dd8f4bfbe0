"""Which parameters of the sine are worth learning, and is a sine worth it at all?

    SEARCH=1 TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/sine/sweep.py
    TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/sine/sweep.py

All eight subsets of learnable amplitude A, frequency f and damping d, and a GELU in place of the
sine, in ResPSANN; a GELU and SwiGLU in a transformer. Each has as many parameters, within 1 %.
SEARCH=1 tries learning rates on a few of them, with one seed and 0.6 M tokens a run; the sines take
one rate, the others another. Then five seeds: 55 runs of 2 M tokens.

The sines are to be compared with "gelu", and "swiglu" with "transformer-gelu". A sine beside
"swiglu" compares two bases, not two activations: ResPSANN has a learned scale of every MLP besides.
"""

import dataclasses
import itertools
import os

from configs.ablation import HIDDEN, SIZES, get_config
from psann_jax import bases
from psann_jax.run.sweep import Sweep

LETTERS = {"amplitude": "A", "frequency": "f", "damping": "d"}
TRIED = (2e-3, 4e-3, 8e-3, 1.6e-2)  # search/ has the last of A-f-d and fixed alone
SINE_RATE = 8e-3  # the best of the search for all three learned and for none; the others': 4e-3
SEARCHED = ("A-f-d", "fixed", "gelu", "swiglu", "transformer-gelu")


def variants() -> dict[str, dict]:
    """What each changes in the config."""
    sines = {}
    for n in range(len(LETTERS), -1, -1):
        for chosen in itertools.combinations(LETTERS, n):
            name = "-".join(LETTERS[part] for part in chosen) or "fixed"
            sines[name] = {"base.sine.learnable": chosen, "optimizer.learning_rate": SINE_RATE}
    transformer = bases.get("transformer")
    # Three matrices of two thirds of the width: as many parameters as two of all of it.
    gated = transformer(d_mlp=2 * HIDDEN // 3, mlp_activation="swiglu", norm="rms", **SIZES)
    plain = transformer(d_mlp=HIDDEN, mlp_activation="gelu", norm="rms", **SIZES)
    gelu = bases.get("respsann")(d_mlp=HIDDEN, mlp_activation="gelu", **SIZES)
    return {
        **sines,
        "gelu": {"base": gelu},
        "swiglu": {"base": gated},
        "transformer-gelu": {"base": plain},
    }


def get_sweep() -> Sweep:
    config, made = get_config(), variants()
    if os.environ.get("SEARCH"):
        made = {
            f"{name}-{rate:g}": {**made[name], "optimizer.learning_rate": rate}
            for name in SEARCHED
            for rate in TRIED
        }
        config = dataclasses.replace(config, workdir="runs/sine-search")
        config.train.steps = 300
        return Sweep(config=config, variants=made, seeds=(0,), baseline="gelu-0.004")
    config = dataclasses.replace(config, workdir="runs/sine")
    return Sweep(config=config, variants=made, seeds=range(5), baseline="gelu")

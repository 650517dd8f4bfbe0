"""Which base learns most from the same text, with the same parameters and the same tokens?

    SEARCH=1 TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/bases/sweep.py
    TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/bases/sweep.py

Eight bases, and the transformer in its modern form (SwiGLU, RMSNorm), each with as many parameters
as ResPSANN, within 1 %: RWKV-6 and GroundThink in three blocks, the others in four. SEARCH=1 runs
every base with three learning rates, with one seed and 0.6 M tokens a run; RATES has the best of
each. Then three seeds: 27 runs of 2 M tokens.
"""

import dataclasses
import os

from configs.ablation import get_config, matched
from psann_jax.bases import Base
from psann_jax.run.sweep import Sweep

TRIED = (2e-3, 4e-3, 8e-3)  # twice the last was far worse in the search of sine/sweep.py
RATES = {  # the best of the search
    "respsann": 8e-3,
    "sgrpsann": 8e-3,
    "waveresnet": 8e-3,
    "geosparse": 4e-3,
    "transformer": 4e-3,
    "modern": 4e-3,
    "rwkv6": 8e-3,
    "mamba2": 8e-3,
    "groundthink": 8e-3,
}


def models() -> dict[str, Base]:
    """A base of each kind, of the same size."""
    return {
        "respsann": matched("respsann"),
        "sgrpsann": matched("sgrpsann"),
        "waveresnet": matched("waveresnet"),
        "geosparse": matched("geosparse"),
        "transformer": matched("transformer"),
        "modern": matched("transformer", mlp_activation="swiglu", norm="rms"),
        "mamba2": matched("mamba2"),
        # Their mixers have more parameters than attention: one block less leaves the MLP its share.
        "rwkv6": matched("rwkv6", n_layers=3),
        "groundthink": matched("groundthink", n_layers=3),
    }


def get_sweep() -> Sweep:
    config, searches, variants = get_config(), bool(os.environ.get("SEARCH")), {}
    for name, base in models().items():
        if searches:
            for rate in TRIED:
                variants[f"{name}-{rate:g}"] = {"base": base, "optimizer.learning_rate": rate}
        else:
            variants[name] = {"base": base, "optimizer.learning_rate": RATES[name]}
    config = dataclasses.replace(config, workdir="runs/bases-search" if searches else "runs/bases")
    if searches:
        config.train.steps = 300
        return Sweep(config=config, variants=variants, seeds=(0,), baseline="modern-0.004")
    return Sweep(config=config, variants=variants, baseline="modern")

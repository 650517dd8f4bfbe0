"""Which base learns most from the same text, with the same parameters and the same tokens?

    SEARCH=1 TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/bases/sweep.py
    TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/bases/sweep.py

Eight bases, and the transformer in its modern form (SwiGLU, RMSNorm), each with as many parameters
as ResPSANN, within 1 %. SEARCH=1 runs every base with three learning rates, with one seed and 0.6 M
tokens a run; RATES has the best of each. Then three seeds: 27 runs of 2 M tokens.
"""

import dataclasses
import os

from configs.ablation import get_config, matched
from psann_jax.bases import Base
from psann_jax.run.sweep import Sweep

RATES: dict[str, float] = {}  # variant -> the best of the search; the config's for what is not here
TRIED = (2e-3, 4e-3, 8e-3, 1.6e-2)


def models() -> dict[str, Base]:
    """A base of each kind, of the same size."""
    return {
        "respsann": matched("respsann"),
        "sgrpsann": matched("sgrpsann"),
        "waveresnet": matched("waveresnet"),
        "geosparse": matched("geosparse"),
        "transformer": matched("transformer"),
        "modern": matched("transformer", mlp_activation="swiglu", norm="rms"),
        # Their mixers have more parameters than attention: one block less leaves an MLP its share.
        "rwkv6": matched("rwkv6", n_layers=3),
        "mamba2": matched("mamba2"),
        "groundthink": matched("groundthink", n_layers=3),
    }


def get_sweep() -> Sweep:
    config, searches, variants = get_config(), bool(os.environ.get("SEARCH")), {}
    for name, base in models().items():
        if searches:
            for rate in TRIED:
                variants[f"{name}-{rate:g}"] = {"base": base, "optimizer.learning_rate": rate}
        else:
            variants[name] = {"base": base}
            if name in RATES:
                variants[name]["optimizer.learning_rate"] = RATES[name]
    config = dataclasses.replace(config, workdir="runs/bases-search" if searches else "runs/bases")
    if searches:
        config.train.steps = 300
        return Sweep(config=config, variants=variants, seeds=(0,), baseline="modern-0.004")
    return Sweep(config=config, variants=variants, baseline="modern")

"""Which parameters of the sine are worth learning, and is a sine worth it at all?

    TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/sine/sweep.py

All eight subsets of learnable amplitude A, frequency f and damping d, and a GELU in place of the
sine, in ResPSANN; a GELU and SwiGLU in a transformer. Each has as many parameters, within 1 %.
Three seeds: 33 runs of 2 M tokens, about two minutes each on 2 CPU cores.

The sines are to be compared with "gelu", and "swiglu" with "transformer-gelu". A sine beside
"swiglu" compares two bases, not two activations: ResPSANN has a learned scale of every MLP besides.
TEXT is what to train on; without it the text that every Python carries.
"""

import itertools
import os

from psann_jax import bases
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.run.sweep import Sweep
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig

LETTERS = {"amplitude": "A", "frequency": "f", "damping": "d"}
WIDTH, HIDDEN = 128, 512


def get_sweep() -> Sweep:
    variants = {}
    for n in range(len(LETTERS), -1, -1):
        for chosen in itertools.combinations(LETTERS, n):
            name = "-".join(LETTERS[part] for part in chosen) or "fixed"
            variants[name] = {"base.sine.learnable": chosen}
    common = {"d_model": WIDTH, "n_layers": 4, "n_heads": 4, "dtype": "float32"}
    respsann = bases.get("respsann")(d_mlp=HIDDEN, **common)
    variants["gelu"] = {
        "base": bases.get("respsann")(d_mlp=HIDDEN, mlp_activation="gelu", **common)
    }
    # Three matrices of two thirds of the width: as many parameters as two of all of it.
    gated = {"d_mlp": 2 * HIDDEN // 3, "mlp_activation": "swiglu", "norm": "rms"}
    variants["swiglu"] = {"base": bases.get("transformer")(**gated, **common)}
    plain = {"d_mlp": HIDDEN, "mlp_activation": "gelu", "norm": "rms"}
    variants["transformer-gelu"] = {"base": bases.get("transformer")(**plain, **common)}
    text = os.environ.get("TEXT")
    config = Config(
        base=respsann,
        data=DataConfig(
            sources=(text,) if text else (), vocab_size=2048, max_length=128, val_split=0.01
        ),
        optimizer=OptimizerConfig(learning_rate=4e-3, weight_decay=0.1),
        train=TrainConfig(
            steps=1000,
            batch_tokens=2048,
            log_interval_steps=50,
            eval_interval_steps=250,
            eval_batches=64,
            save_interval_steps=250,
            keep_checkpoints=1,
            sample_tokens=0,
        ),
        workdir="runs/sine",
    )
    return Sweep(config=config, variants=variants, baseline="gelu")

"""Which base learns most from the same text, with the same parameters and the same tokens?

    SEARCH=1 TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/bases/sweep.py
    TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/bases/sweep.py

Eight bases, and the transformer in its modern form (SwiGLU, RMSNorm), each with as many parameters
as ResPSANN, within 1 %. SEARCH=1 runs every base with three learning rates, one seed and half the
tokens. The best of each is then to be written in RATES, which is empty before the search was run;
the second command runs three seeds of 2 M tokens with it. TEXT is what to train on; without it the
text that every Python carries.
"""

import dataclasses
import os

from flax import nnx
import jax

from psann_jax import bases
from psann_jax.bases import Base
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.model import LM, parameter_count
from psann_jax.run.sweep import Sweep
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig

VOCABULARY = 2048
COMMON = {"d_model": 128, "n_layers": 4, "n_heads": 4, "dtype": "float32"}
RATES: dict[str, float] = {}  # variant -> the best of the search; 4e-3 for what is not here
TRIED = (2e-3, 4e-3, 8e-3)


def models() -> dict[str, Base]:
    """A base of each kind, of the same size."""
    respsann = bases.get("respsann")(d_mlp=512, **COMMON)
    size = parameters(respsann)
    modern = {"mlp_activation": "swiglu", "norm": "rms"}
    return {
        "respsann": respsann,
        "sgrpsann": matched(size, "sgrpsann"),
        "waveresnet": matched(size, "waveresnet"),
        "geosparse": matched(size, "geosparse"),
        "transformer": matched(size, "transformer"),
        "modern": matched(size, "transformer", **modern),
        "rwkv6": matched(size, "rwkv6"),
        "mamba2": matched(size, "mamba2"),
        "groundthink": matched(size, "groundthink", n_layers=3),
    }


def parameters(base: Base, vocabulary: int = VOCABULARY) -> int:
    """How many a model of the base has."""
    sized = dataclasses.replace(base, vocab_size=vocabulary)
    return parameter_count(jax.eval_shape(lambda: LM(sized, rngs=nnx.Rngs(0))))


def matched(size: int, name: str, **fields) -> Base:
    """A base whose MLP is as wide as gives it `size` parameters, to a multiple of 8."""
    make = bases.get(name)
    less, more = (parameters(make(d_mlp=d, **{**COMMON, **fields})) for d in (256, 512))
    width = 256 + (size - less) * 256 / (more - less)
    return make(d_mlp=8 * round(width / 8), **{**COMMON, **fields})


def get_sweep() -> Sweep:
    searches = bool(os.environ.get("SEARCH"))
    variants = {}
    for name, base in models().items():
        rates = TRIED if searches else [RATES.get(name, 4e-3)]
        for rate in rates:
            variant = f"{name}-{rate:g}" if searches else name
            variants[variant] = {"base": base, "optimizer.learning_rate": rate}
    text = os.environ.get("TEXT")
    config = Config(
        base=bases.get("respsann")(**COMMON),
        data=DataConfig(
            sources=(text,) if text else (), vocab_size=VOCABULARY, max_length=128, val_split=0.01
        ),
        optimizer=OptimizerConfig(weight_decay=0.1),
        train=TrainConfig(
            steps=500 if searches else 1000,
            batch_tokens=2048,
            log_interval_steps=50,
            eval_interval_steps=250,
            eval_batches=64,
            save_interval_steps=250,
            keep_checkpoints=1,
            sample_tokens=0,
        ),
        workdir="runs/bases-search" if searches else "runs/bases",
    )
    baseline = next(name for name in variants if name.startswith("modern"))
    seeds = (0,) if searches else (0, 1, 2)
    return Sweep(config=config, variants=variants, seeds=seeds, baseline=baseline)

"""The ResPSANN that the ablations vary: 96/4/3/384, rows of 128 tokens, 2 M tokens a run.

Cost: 0.84 M parameters at vocabulary 2,048; 2,048 tokens a step, 1,000 steps, activations in
bfloat16. Hardware: any; 2.5 minutes of steps on one core of a Xeon. TEXT in the environment is what
to train on, the text that every Python carries without it.

  TEXT=path/to/tiny_books.txt.xz python -m psann_jax sweep experiments/sine/sweep.py
"""

from collections.abc import Callable
import dataclasses
import os

from flax import nnx
import jax

from psann_jax import bases
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.model import LM, parameter_count
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig

VOCABULARY = 2_048
SIZES = {"d_model": 96, "n_layers": 4, "n_heads": 3, "dtype": "bfloat16"}
HIDDEN = 384


def get_config() -> Config:
    text = os.environ.get("TEXT")
    return Config(
        base=bases.get("respsann")(d_mlp=HIDDEN, **SIZES),
        data=DataConfig(
            sources=(text,) if text else (), vocab_size=VOCABULARY, max_length=128, val_split=0.01
        ),
        optimizer=OptimizerConfig(learning_rate=4e-3, weight_decay=0.1),
        train=TrainConfig(
            steps=1_000,
            batch_tokens=2_048,
            log_interval_steps=50,
            eval_interval_steps=250,
            eval_batches=32,
            save_interval_steps=250,
            keep_checkpoints=1,
            sample_tokens=0,
        ),
        workdir="runs/ablation",
    )


def matched(name: str, **fields) -> bases.Base:
    """A base of another kind as large as the one above, within 1 %, by the width of its MLP."""

    def make(d_mlp: int) -> bases.Base:
        return bases.get(name)(d_mlp=d_mlp, **{**SIZES, **fields})

    return as_large_as(get_config().base, make, VOCABULARY)


def as_large_as(base: bases.Base, make: Callable[[int], bases.Base], vocabulary: int) -> bases.Base:
    """What `make` gives of the width of an MLP that makes it as large as a base.

    Raises:
      ValueError: no width makes it so, within 1 %.
    """
    size, width = parameters(base, vocabulary), base.mlp_features
    less, more = (parameters(make(d), vocabulary) for d in (width // 2, width))
    wanted = width / 2 + (size - less) * (width / 2) / (more - less)
    found = make(max(8, 8 * round(wanted / 8)))
    if abs(parameters(found, vocabulary) / size - 1) > 0.01:
        raise ValueError(f"{found} cannot have {size:,} parameters; change n_layers")
    return found


def parameters(base: bases.Base, vocabulary: int = VOCABULARY) -> int:
    """How many a model of the base has."""
    whole = dataclasses.replace(base, vocab_size=vocabulary)
    return parameter_count(jax.eval_shape(lambda: LM(whole, rngs=nnx.Rngs(0))))

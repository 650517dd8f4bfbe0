"""GroundThink V4 "8M" (GF-MH): a gate a token that starts in favour of Mamba-2, 50,000 steps.

Values are those of the original's log: 32 tracks x 128 characters in each of 4 micro-batches.
Cost: 6.6 M parameters at 97 characters. Hardware: a GPU.

  python -m psann_jax.main --config configs/groundthink_8m.py \
      --config.data.sources="('path/to/text.txt',)" --workdir runs/groundthink_8m
"""

from psann_jax import bases
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig


def get_config() -> Config:
    return Config(
        base=bases.preset("8M"),
        data=DataConfig(
            tokenizer="groundthink-char",
            document="file",
            max_length=128,
            val_split=0.1,
            split="tail",
            order="tracks",
        ),
        optimizer=OptimizerConfig(
            learning_rate=3e-4,
            min_lr=3e-5,
            warmup_steps=2_500,
            weight_decay=0.1,
            lr_factors=(("mamba", 0.5),),
        ),
        train=TrainConfig(
            steps=50_000,
            batch_tokens=4 * 32 * 128,
            grad_accum_steps=4,
            log_interval_steps=50,
            eval_interval_steps=500,
            save_interval_steps=5_000,
        ),
        workdir="runs/groundthink_8m",
    )

"""GroundThink V4 "5M" (HY): RWKV-6 and Mamba-2 side by side, on characters, states carried.

Values are those of the original's log: 5,000 steps of 64 tracks x 64 characters, Mamba-2 at half
the learning rate. Cost: 3.1 M parameters at 97 characters. Its `val_patience` has no counterpart:
a run goes to its end and keeps the best checkpoint.

  python -m psann_jax.main --config configs/groundthink_5m.py \
      --config.data.sources="('path/to/tinyshakespeare.txt',)" --workdir runs/groundthink_5m
"""

from psann_jax import bases
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig


def get_config() -> Config:
    return Config(
        base=bases.preset("5M"),
        data=DataConfig(
            tokenizer="groundthink-char",
            document="file",
            max_length=64,
            val_split=0.1,
            split="tail",
            order="tracks",
        ),
        optimizer=OptimizerConfig(
            learning_rate=3e-4,
            min_lr=3e-5,
            warmup_steps=500,
            weight_decay=0.1,
            lr_factors=(("mamba", 0.5),),
        ),
        train=TrainConfig(
            steps=5_000,
            batch_tokens=64 * 64,
            log_interval_steps=50,
            eval_interval_steps=100,
            save_interval_steps=1_000,
        ),
        workdir="runs/groundthink_5m",
    )

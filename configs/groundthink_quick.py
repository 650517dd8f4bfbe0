"""GroundThink V4 "5M" for 200 steps of 32 tracks x 64 characters: does everything work?

Values are those of the original's log. Cost: minutes on 2 CPU cores.

  python -m psann_jax.main --config configs/groundthink_quick.py --workdir runs/groundthink_quick
"""

from psann_jax import bases
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig


def get_config() -> Config:
    return Config(
        base=bases.preset("5M", dtype="float32"),
        data=DataConfig(
            tokenizer="groundthink-char",
            max_length=64,
            val_split=0.1,
            split="tail",
            order="tracks",
        ),
        optimizer=OptimizerConfig(
            learning_rate=3e-4,
            min_lr=3e-5,
            warmup_steps=20,
            weight_decay=0.1,
            lr_factors=(("mamba", 0.5),),
        ),
        train=TrainConfig(
            steps=200,
            batch_tokens=32 * 64,
            log_interval_steps=10,
            eval_interval_steps=50,
            eval_batches=20,
            save_interval_steps=100,
        ),
        workdir="runs/groundthink_quick",
    )

"""A small WaveResNet on text that every Python carries: its own library and documentation.

Cost: about 3 minutes on 2 CPU cores. Hardware: any. Expected: about 1.3 validation bits per
byte, below a trigram model of the same tokens (1.43); both are printed at the end, with three
sampled continuations. The text, and so the figures, are those of the Python that runs it.

  make train
  python -m psann_jax.main --config configs/quickstart.py --workdir runs/quickstart
"""

from psann_jax import bases
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig


def get_config() -> Config:
    return Config(
        base=bases.get("waveresnet")(d_model=128, n_layers=4, n_heads=4, dtype="float32"),
        data=DataConfig(vocab_size=2048, max_length=128, val_split=0.02),
        optimizer=OptimizerConfig(learning_rate=4e-3, weight_decay=0.1),
        train=TrainConfig(
            steps=1_300,
            batch_tokens=2_048,
            log_interval_steps=50,
            eval_interval_steps=260,
            save_interval_steps=260,
            ngram_baselines=True,
        ),
        workdir="runs/quickstart",
    )

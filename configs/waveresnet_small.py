"""The documented WaveResNet: 512/8/8/2048, vocabulary 32,000, rows of 1,024 tokens.

Cost: 60.1 M parameters, 0.29 GFLOP a token; 131,072 tokens a step in 4 micro-batches. Hardware:
a GPU (weights, gradients and optimizer take 1 GB); on CPU only to try, with fewer
train.batch_tokens. Expected: it begins at ln(32,000) = 10.4 nats a token; where it ends depends on
the text, of which a vocabulary of 32,000 needs some 10 MB or more.

  python -m psann_jax.main --config configs/waveresnet_small.py \
      --config.data.sources="('path/to/text',)" --workdir runs/waveresnet_small
"""

from psann_jax import bases
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig


def get_config() -> Config:
    return Config(
        base=bases.get("waveresnet")(d_model=512, n_layers=8, n_heads=8, d_mlp=2048),
        data=DataConfig(vocab_size=32_000, max_length=1024, val_split=0.01, seed=1337),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_steps=2000, weight_decay=0.01),
        train=TrainConfig(
            epochs=1,
            batch_tokens=131_072,
            grad_accum_steps=4,
            log_interval_steps=50,
            eval_interval_steps=500,
            save_interval_steps=500,
        ),
        workdir="runs/waveresnet_small",
    )

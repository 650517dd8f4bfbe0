"""The pre-LayerNorm transformer of the documented size: the yardstick, without sines.

Cost: 58.0 M parameters, 0.27 GFLOP a token; 131,072 tokens a step in 4 micro-batches. Hardware
and expected loss: as configs/waveresnet_small.py, whose values these are.

  python -m psann_jax.main --config configs/transformer_small.py \
      --config.data.sources="('path/to/text',)" --workdir runs/transformer_small
"""

from psann_jax import bases
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig


def get_config() -> Config:
    return Config(
        base=bases.get("transformer")(d_model=512, n_layers=8, n_heads=8, d_mlp=2048),
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
        workdir="runs/transformer_small",
    )

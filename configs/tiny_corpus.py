"""The small WaveResNet of the benchmark on a 50 MB text: 256/4/4/1024, rows of 512 tokens.

Cost: 7.6 M parameters at vocabulary 8,192; 32,768 tokens a step. Hardware: any; on 2 CPU cores
lower train.batch_tokens to 8,192. Expected: 2.2 validation bits per byte after 200 steps of 8,192
tokens of 52 MB of books, 1.6 after one pass at twice the rate (experiments/tiny_corpus); bits per
byte are the figure to compare, since perplexity depends on the vocabulary.

  python -m psann_jax.main --config configs/tiny_corpus.py \
      --config.data.sources="('path/to/tiny_books.txt.xz',)" --workdir runs/tiny_corpus
"""

from psann_jax import bases
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig


def get_config() -> Config:
    return Config(
        base=bases.get("waveresnet")(d_model=256, n_layers=4, n_heads=4, d_mlp=1024),
        data=DataConfig(vocab_size=8_192, document="line", max_length=512, val_split=0.02),
        optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.1),
        train=TrainConfig(
            epochs=1,
            batch_tokens=32_768,
            log_interval_steps=10,
            eval_interval_steps=200,
            save_interval_steps=100,
        ),
        workdir="runs/tiny_corpus",
    )

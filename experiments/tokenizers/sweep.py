"""With which tokenizer does a small model learn most?

    TEXT=path/to/text.txt.xz python -m psann_jax sweep experiments/tokenizers/sweep.py

The ResPSANN of configs/ablation.py, with its sines' learning rate, on the text as each tokenizer
writes it. Every run has as many steps of as many tokens, so as much computation but for the head: a
vocabulary with longer tokens sees more of the text in them. Bits per byte of all of the held-out
text can be compared all the same. The tables of embeddings grow with the vocabulary; the layers are
the same.
"""

import dataclasses

from configs.ablation import VOCABULARY, get_config
from psann_jax.run.sweep import Sweep

SIZES = (512, VOCABULARY, 8_192)


def get_sweep() -> Sweep:
    config = dataclasses.replace(get_config(), workdir="runs/tokenizers")
    config.optimizer.learning_rate = 8e-3  # the best for A-f-d in the search of sine/sweep.py
    config.train.eval_batches = 0  # all: so many tokens are not the same text for each
    config.train.eval_interval_steps = 500
    variants = {
        f"{kind}-{size}": {"data.tokenizer": kind, "data.vocab_size": size}
        for kind in ("sentencepiece", "hf")
        for size in SIZES
    }
    variants |= {kind: {"data.tokenizer": kind} for kind in ("char", "groundthink-char")}
    return Sweep(config=config, variants=variants, baseline=f"sentencepiece-{VOCABULARY}")

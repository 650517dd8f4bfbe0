"""Is a sine base worth it on 50 MB of books, beside a modern transformer of the same size?

    SEARCH=1 TEXT=tiny_books.txt.xz python -m psann_jax sweep experiments/tiny_corpus/sweep.py
    TEXT=tiny_books.txt.xz python -m psann_jax sweep experiments/tiny_corpus/sweep.py

The WaveResNet of configs/tiny_corpus.py and a transformer with SwiGLU and RMSNorm, with as many
parameters, within 1 %. SEARCH=1 tries learning rates, with one seed and 1.6 M tokens a run; RATES
has the best of each. Then two passes over the text, 26.9 M tokens, which is BMRK-01 of the
benchmark plan. A core of a Xeon or an EPYC makes 2,900 tokens/s of WaveResNet, and 3,200 of the
transformer.
"""

import dataclasses
import os

from configs.ablation import as_large_as
from configs.tiny_corpus import get_config
from psann_jax import bases
from psann_jax.run.sweep import Sweep

TRIED = (1e-3, 2e-3, 4e-3, 8e-3)  # search/ has the last of the transformer alone
RATES = {"waveresnet": 2e-3, "modern": 4e-3}  # the best of the search
WIDTHS = {"d_model": 256, "n_layers": 4, "n_heads": 4}


def transformer(d_mlp: int) -> bases.Base:
    modern = {"mlp_activation": "swiglu", "norm": "rms"}
    return bases.get("transformer")(d_mlp=d_mlp, **modern, **WIDTHS)


def get_sweep() -> Sweep:
    config, searches, variants = get_config(), bool(os.environ.get("SEARCH")), {}
    modern = as_large_as(config.base, transformer, config.data.vocab_size)
    for name, base in {"waveresnet": config.base, "modern": modern}.items():
        for rate in TRIED if searches else [RATES[name]]:
            variant = f"{name}-{rate:g}" if searches else name
            variants[variant] = {"base": base, "optimizer.learning_rate": rate}
    text = os.environ.get("TEXT")
    data = dataclasses.replace(config.data, sources=(text,) if text else ())
    length = {"steps": 200, "eval_batches": 32} if searches else {"epochs": 2}
    shared = {"batch_tokens": 8_192, "eval_interval_steps": 400, "sample_tokens": 0}
    train = dataclasses.replace(config.train, keep_checkpoints=1, **shared, **length)
    workdir = "runs/tiny_corpus-search" if searches else "runs/tiny_corpus"
    config = dataclasses.replace(config, data=data, train=train, workdir=workdir)
    baseline = "modern-0.001" if searches else "modern"
    return Sweep(config=config, variants=variants, seeds=(0,), baseline=baseline)

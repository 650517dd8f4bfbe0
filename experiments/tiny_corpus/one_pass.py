"""Where are a sine base and a modern transformer after a single pass over 50 MB of books?

    TEXT=tiny_books.txt.xz python -m psann_jax sweep experiments/tiny_corpus/one_pass.py

The two models of sweep.py, which pass over the text twice: here each token is new, the rate decays
within the pass, and it takes half the time, 80 minutes with one core of an EPYC for each model.
"""

import dataclasses

from experiments.tiny_corpus.sweep import get_sweep as get_two_passes
from psann_jax.run.sweep import Sweep


def get_sweep() -> Sweep:
    sweep = get_two_passes()
    train = dataclasses.replace(sweep.config.train, epochs=1)
    config = dataclasses.replace(sweep.config, train=train, workdir="runs/tiny_corpus-one-pass")
    return dataclasses.replace(sweep, config=config)

"""A short run that kept two checkpoints, for tests that only read one; a report that listens."""

from pathlib import Path
import threading

import numpy as np
import pytest

from psann_jax import psannLM, psannLMDataPrep
from psann_jax.run.report import Report


class Lines(Report):
    """A report that keeps what it says, and tells when it has said something."""

    def __init__(self):
        super().__init__(quiet=True)
        self.said, self.spoke = [], threading.Event()

    def line(self, text):
        self.said.append(text)
        self.spoke.set()


@pytest.fixture
def report():
    """A report whose `said` has the lines so far; the event `spoke` is set by the first."""
    return Lines()


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory) -> Path:
    """The workdir of four steps of a WaveResNet, saved at the second and at the fourth."""
    folder = tmp_path_factory.mktemp("kept")
    words = np.random.default_rng(0).choice(["sine", "wave", "amplitude", "damped", "the"], 1000)
    lines = [" ".join(line) for line in words.reshape(-1, 10)]
    (folder / "corpus.txt").write_text("\n".join(lines))
    data = psannLMDataPrep(
        folder / "corpus.txt", tokenizer="char", max_length=32, val_split=0.1, seed=1
    )
    model = psannLM(d_model=16, n_layers=2, n_heads=2, d_mlp=32, sine_params={"freq_init": 2.0})
    fit = {"amp": "fp32", "ddp": "off", "verbose": False, "lr": 1e-2, "batch_tokens": 256}
    model.fit(data, steps=4, save_interval_steps=2, checkpoint_dir=folder / "run", **fit)
    return folder / "run"

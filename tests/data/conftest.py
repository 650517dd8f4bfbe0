import pytest

from psann_jax import data


@pytest.fixture
def make_config(tmp_path):
    """DataConfig with a cache of its own, tiny rows and the quickest tokenizer."""

    def make(**changes) -> data.DataConfig:
        defaults = {"cache_dir": str(tmp_path / "cache"), "max_length": 8, "vocab_size": 300}
        return data.DataConfig(**{**defaults, "tokenizer": "char", "val_split": 0.0, **changes})

    return make

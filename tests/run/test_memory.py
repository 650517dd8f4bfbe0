"""Where the memory of a device is not enough, one line says what is needed and what helps."""

import jax
import numpy as np
import pytest

from psann_jax import bases, data, sharding
from psann_jax.config import Config
from psann_jax.run.memory import memory_bytes, out_of_memory
from psann_jax.run.plan import Plan
from psann_jax.train.config import TrainConfig


@pytest.fixture
def run():
    base = bases.get("respsann")(vocab_size=64, d_model=16, n_layers=1, n_heads=1)
    train = TrainConfig(batch_tokens=64, grad_accum_steps=2)
    config = Config(base=base, data=data.DataConfig(max_length=32), train=train)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    return config, Plan(mesh, 2, 2, 10, 64, 1000)


def test_a_full_device_is_told_with_three_ways_out(run):
    said = r"needs about .* GB.*base\.remat='full'.*mesh\.fsdp.*train\.grad_accum_steps=2 to 4"
    with pytest.raises(ValueError, match=said), out_of_memory(*run):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")


def test_other_errors_of_a_device_stay_what_they_are(run):
    with pytest.raises(jax.errors.JaxRuntimeError), out_of_memory(*run):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_what_was_taken_grows_with_what_is_held():
    before = memory_bytes()
    held = np.ones(1 << 26)  # 512 MB
    assert memory_bytes() >= before
    assert held[0] and memory_bytes() > 1 << 29

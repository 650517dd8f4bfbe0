"""What a train step keeps in memory: read from shapes and compiled programs."""

import math
import re

from flax import nnx
import jax
import jax.numpy as jnp
import pytest

from psann_jax import bases, sharding
from psann_jax.model import LM
from psann_jax.ops import cross_entropy
from psann_jax.run.dry_run import saved_bytes
from psann_jax.seq import Batch
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import init_state
from psann_jax.train.step import jit_train_step

ATTENTION = ("respsann", "waveresnet", "sgrpsann", "geosparse", "transformer")
SMALL = {"vocab_size": 32_000, "d_model": 512, "n_layers": 8, "n_heads": 8, "d_mlp": 2048}
LENGTH = 1024


def _batch(*shape):
    whole, real = (jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.int32, jnp.float32))
    return Batch(whole, whole, real, whole, whole)


def _bytes(tree):
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def _kept_a_token(name, **options):
    """Bytes a token that the forward pass keeps for the backward pass, in bfloat16.

    The difference of two batches, so that weights count for nothing.
    """
    base = bases.get(name)(**{**SMALL, **options}, dtype="bfloat16", scan_layers=True)
    model = jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))

    return (saved_bytes(model, 2, LENGTH) - saved_bytes(model, 1, LENGTH)) / LENGTH


@pytest.mark.parametrize("name", ATTENTION)
def test_a_token_keeps_at_most_a_quarter_of_a_megabyte(name):
    assert _kept_a_token(name) <= 0.25e6


def test_rematerialisation_keeps_the_less_the_more_it_computes_again():
    none, dots, full = (_kept_a_token("respsann", remat=r) for r in ("none", "dots", "full"))
    assert full < 0.3 * dots < 0.3 * 0.7 * none


def test_each_block_of_a_pattern_of_many_is_computed_again_by_itself():
    """Then the backward pass holds what one of them needs, and not what all do."""
    options = {"dilation_growth": 2, "remat": "full"}
    few, many = (_kept_a_token("waveresnet", n_layers=n, **options) for n in (2, 4))
    one_more = 2 * SMALL["d_model"]  # bytes of the features that a block reads
    assert many - few == pytest.approx(2 * one_more, rel=0.1)


@pytest.fixture(scope="module", params=ATTENTION)
def compiled(request, tiny):
    """A step of one row of 1,024 tokens and a vocabulary wider than any layer, and its state."""
    optimizer = make_optimizer(OptimizerConfig(), 10)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    options = {"n_layers": 1, "vocab_size": LENGTH}
    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(mesh):
        patch.setitem(cross_entropy._CHUNK_BYTES, "cpu", 4 * LENGTH * 128)
        model = tiny(request.param, **options)
        state, where = init_state(lambda _: model, optimizer, mesh, 0, model=model)
        return jit_train_step(optimizer, where).lower(state, _batch(1, 1, LENGTH)).compile(), state


def test_no_buffer_holds_all_logits_or_all_pairs_of_tokens(compiled):
    """Here both would have 1,024 x 1,024 entries, more than any other array."""
    program, _ = compiled
    shapes = re.findall(r"\b[a-z]+\d*\[([\d,]+)\]", program.as_text())
    largest = max(math.prod(map(int, shape.split(","))) for shape in shapes)
    assert largest < LENGTH * LENGTH


def test_the_step_writes_the_new_state_over_the_old(compiled):
    program, state = compiled
    state = state.step, state.model, state.opt_state
    assert program.memory_analysis().alias_size_in_bytes >= _bytes(state)

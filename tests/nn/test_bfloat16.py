"""bfloat16 activations leave the gradients of every parameter close to float32's."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import bases
from psann_jax.model import LM
from psann_jax.ops.cross_entropy import linear_scores
from psann_jax.seq import Batch
from psann_jax.train.step import loss_fn

ROWS, LENGTH, VOCABULARY = 64, 128, 64  # 8,192 tokens, most of them of a few frequent kinds


def _batch():
    tokens = np.minimum(np.random.default_rng(0).zipf(1.3, (ROWS, LENGTH + 1)), VOCABULARY) - 1
    tokens = tokens.astype(np.int32)
    positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH))
    ones = np.ones((ROWS, LENGTH), np.float32)
    return Batch(tokens[:, :-1], tokens[:, 1:], ones, positions, ones.astype(np.int32))


@pytest.mark.parametrize("name", ["waveresnet", "transformer"])
def test_gradients_over_many_tokens_keep_their_sums(name):
    grads = []
    for dtype in ("float32", "bfloat16"):
        base = bases.get(name)(
            vocab_size=VOCABULARY, d_model=16, n_layers=1, n_heads=2, d_mlp=32, dtype=dtype
        )
        model = LM(base, rngs=nnx.Rngs(0))
        grads.append(jax.jit(jax.grad(loss_fn))(model, _batch()))
    paths = jax.tree_util.tree_leaves_with_path(grads[0])
    for (path, exact), rounded in zip(paths, jax.tree.leaves(grads[1]), strict=True):
        error = np.linalg.norm(exact - rounded) / np.linalg.norm(exact)
        # Rounding of single activations is 0.4 %; a sum in bfloat16 would be off by 5-25 %.
        assert error < 0.03, jax.tree_util.keystr(path)


@pytest.mark.parametrize("tied", [False, True])
def test_the_likeliest_token_is_the_one_that_evaluation_counts(tied):
    """Rounded to bfloat16, the first of 1,024 logits would often tie with the second."""
    sizes = {"vocab_size": 1024, "d_model": 16, "n_layers": 1, "n_heads": 2, "d_mlp": 32}
    base = bases.get("transformer")(**sizes, tie_embeddings=tied, dtype="bfloat16")
    model, batch = LM(base, rngs=nnx.Rngs(0)), _batch()

    @jax.jit
    def hits(model, tokens):
        x, _ = model.features(tokens)
        said = jnp.argmax(model.logits(x), axis=-1)
        return linear_scores(x, model.head_kernel(), said, jnp.ones(said.shape))[1]

    assert hits(model, batch.inputs) == ROWS * LENGTH

"""Affine map of the features, and the token embedding."""

from flax import nnx
import jax
import jax.numpy as jnp

from psann_jax.ops.matmul import matmul

Axes = tuple[str | None, str | None]
Initializer = jax.nn.initializers.Initializer
XAVIER = jax.nn.initializers.xavier_uniform()
NORMAL = jax.nn.initializers.normal(0.02)


class Linear(nnx.Module):
    """x @ kernel (+ bias): kernel [I, O] as `init` draws it, zero bias, both float32."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        axes: Axes,
        *,
        init: Initializer = XAVIER,
        rngs: nnx.Rngs,
        bias: bool = False,
    ):
        self.kernel = nnx.Param(init(rngs.params(), (d_in, d_out)), axes=axes)
        self.bias = nnx.Param(jnp.zeros((d_out,)), axes=(axes[1],)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., I] -> [..., O] in x's dtype."""
        y = matmul(x, self.kernel[...])
        if self.bias is None:
            return y
        # In float32, so that the bias's gradient is summed over the tokens in float32.
        return (y.astype(jnp.float32) + self.bias[...]).astype(x.dtype)


class Embedding(nnx.Module):
    """A row of `table` [V, D] for every token id; drawn from N(0, 0.02) unless told."""

    def __init__(
        self, vocab_size: int, d_model: int, *, init: Initializer = NORMAL, rngs: nnx.Rngs
    ):
        table = init(rngs.params(), (vocab_size, d_model))
        self.table = nnx.Param(table, axes=("vocab", "embed"))

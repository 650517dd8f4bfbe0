"""x @ w with a float32 gradient of w, whatever the dtype of the activations."""

import functools
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
import jax.numpy as jnp

from psann_jax.sharding import distributed

PRODUCT = "product"  # what a policy of jax.checkpoint knows the result by


def matmul(x: jax.Array, w: jax.Array, dtype: Any = None) -> jax.Array:
    """[..., I] @ [I, O] -> [..., O] in `dtype`, None: x's; products summed in float32.

    Automatic differentiation would round the gradient of w to x's dtype and back.
    """
    return checkpoint_name(_matmul(x, w, dtype or x.dtype), PRODUCT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x: jax.Array, w: jax.Array, dtype: Any) -> jax.Array:
    out = jnp.dot(x, w.astype(x.dtype), preferred_element_type=jnp.float32)
    return out.astype(dtype)


def _fwd(x, w, dtype):
    return _matmul(x, w, dtype), (x, w)


def _bwd(dtype, saved, g):
    x, w = saved
    g = g.astype(x.dtype)
    dx = jnp.einsum("...o,io->...i", g, w.astype(x.dtype), preferred_element_type=jnp.float32)
    x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return dx.astype(x.dtype), rows_dot(x, g).astype(w.dtype)


def rows_dot(x: jax.Array, y: jax.Array) -> jax.Array:
    """[..., M, N] and [..., M, O] -> [..., N, O] float32: the product that sums over M.

    XLA:CPU would read the columns of x where they are. In bfloat16 it then uses none of the
    processor's own products, which makes it five times as slow, so x is turned in memory first. In
    float32 it is 1.4 times as slow where O is less than N, so there the product is formed the other
    way round (jaxlib 0.10.2). What is formed keeps its order, or a transpose behind it would bring
    the slow form back.
    """
    turned = jnp.swapaxes(x, -1, -2)
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
    if jax.default_backend() != "cpu" or distributed():
        return product(turned, y)
    order = Layout(tuple(range(x.ndim)))
    if x.dtype != jnp.float32:
        turned = with_layout_constraint(turned, order)
    elif y.shape[-1] < x.shape[-1]:
        other = with_layout_constraint(product(jnp.swapaxes(y, -1, -2), x), order)
        return jnp.swapaxes(other, -1, -2)
    return with_layout_constraint(product(turned, y), order)


_matmul.defvjp(_fwd, _bwd)

"""x @ w with a float32 gradient of w, whatever the dtype of the activations."""

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

PRODUCT = "product"  # what a policy of jax.checkpoint knows the result by


def matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    """[..., I] @ [I, O] -> [..., O] in x's dtype; products summed in float32.

    Automatic differentiation would round the gradient of w to x's dtype and back.
    """
    return checkpoint_name(_matmul(x, w), PRODUCT)


@jax.custom_vjp
def _matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    out = jnp.dot(x, w.astype(x.dtype), preferred_element_type=jnp.float32)
    return out.astype(x.dtype)


def _fwd(x, w):
    return _matmul(x, w), (x, w)


def _bwd(saved, g):
    x, w = saved
    g = g.astype(x.dtype)
    dx = jnp.einsum("...o,io->...i", g, w.astype(x.dtype), preferred_element_type=jnp.float32)
    dw = jnp.einsum(
        "ni,no->io",
        x.reshape(-1, x.shape[-1]),
        g.reshape(-1, g.shape[-1]),
        preferred_element_type=jnp.float32,
    )
    return dx.astype(x.dtype), dw.astype(w.dtype)


_matmul.defvjp(_fwd, _bwd)

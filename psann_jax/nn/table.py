"""Integers that are stored with the weights: index tables, drawn once and never trained."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np


class Table(nnx.Variable):
    """An int32 array of a module; gradients, moments and weight decay pass it by."""


def torch_permutation(n: int, seed: int) -> np.ndarray:
    """The permutation of 0 .. n - 1 that torch.randperm draws from a generator of this seed.

    Source: PyTorch's CPU generator, MT19937, and Fisher-Yates from the front.
    """
    twister = np.random.MT19937()
    twister._legacy_seeding(seed)  # init_genrand of the reference implementation, as in torch
    order = np.arange(n, dtype=np.int32)
    for i, draw in enumerate(twister.random_raw(n - 1)):
        j = i + int(draw) % (n - i)
        order[i], order[j] = order[j], order[i]
    return order


def table_key(seed: int | None, rngs: nnx.Rngs) -> jax.Array:
    """The key of a table: of `seed`, the same in every layer, or of its layer's weights."""
    return rngs.params() if seed is None else jax.random.key(seed)


def table(values: jax.Array | np.ndarray, axes: tuple[str | None, ...]) -> Table:
    return Table(jnp.asarray(values, jnp.int32), axes=axes)

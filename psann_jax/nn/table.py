"""Integers that are stored with the weights: index tables, drawn once and never trained."""

from typing import Any

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
    twister._legacy_seeding(seed & 0xFFFFFFFF)  # init_genrand, which torch calls alike
    order = np.arange(n, dtype=np.int32)
    for i, draw in enumerate(twister.random_raw(n - 1)):
        j = i + int(draw) % (n - i)
        order[i], order[j] = order[j], order[i]
    return order


def table_key(seed: int | None, rngs: nnx.Rngs) -> jax.Array:
    """The key of a table: of `seed`, the same in every layer, or of its layer's weights."""
    return rngs.params() if seed is None else jax.random.key(seed & 0xFFFFFFFF)


def table(values: jax.Array | np.ndarray, axes: tuple[str | None, ...], below: int) -> Table:
    """A table of indices 0 .. below - 1."""
    return Table(jnp.asarray(values, jnp.int32), axes=axes, below=below)


def check_tables(tree: Any) -> None:
    """Raises ValueError for a table of a module that holds other numbers than it may.

    JAX reads past the end of an array without a word.
    """
    for leaf in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Table)):
        if not isinstance(leaf, Table):
            continue
        values, below = np.asarray(leaf[...]), leaf.get_metadata()["below"]
        if values.size and not 0 <= values.min() <= values.max() < below:
            raise ValueError(
                f"an index table holds {values.min()} to {values.max()}; 0 to {below - 1} may be"
            )

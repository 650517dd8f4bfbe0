"""Everything a training step reads and writes, and how it is made on a mesh."""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from psann_jax import sharding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pure pytree. The place in the data is a function of `step`, so it is not in here."""

    step: jax.Array  # [] int32, updates done
    model: Any  # an nnx.Module used as a pytree; every leaf a float32 Param
    opt_state: optax.OptState
    key: jax.Array  # [] PRNG key; folded with `step`, never split


def init_state(
    make_model: Callable[[nnx.Rngs], Any],
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    seed: int,
) -> tuple[TrainState, TrainState]:
    """A TrainState created already sharded, and the same tree of its shardings.

    Raises:
      ValueError: a parameter's size does not divide over the mesh.
    """

    def init(key: jax.Array) -> TrainState:
        init_key, step_key = jax.random.split(key)
        model = make_model(nnx.Rngs(init_key))
        return TrainState(jnp.int32(0), model, optimizer.init(model), step_key)

    key = jax.random.key(seed)
    where = sharding.shardings(jax.eval_shape(init, key), mesh)
    return jax.jit(init, out_shardings=where)(key), where


def flat_arrays(state: TrainState) -> dict[str, jax.Array]:
    """The state as {"model/stack/layers/0/...": array}; the key as its data."""
    state = dataclasses.replace(state, key=jax.random.key_data(state.key))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {_name(path): leaf for path, leaf in leaves}


def from_flat_arrays(arrays: dict[str, jax.Array], like: TrainState) -> TrainState:
    """The inverse of `flat_arrays`, in the tree of `like`.

    Raises:
      ValueError: a name is missing or left over.
    """
    plain = dataclasses.replace(like, key=jax.random.key_data(like.key))
    paths, tree = jax.tree_util.tree_flatten_with_path(plain)
    names = [_name(path) for path, _ in paths]
    if set(names) != set(arrays):
        missing, extra = set(names) - set(arrays), set(arrays) - set(names)
        raise ValueError(f"checkpoint lacks {sorted(missing)[:3]} or has {sorted(extra)[:3]} over")
    state = tree.unflatten([arrays[name] for name in names])
    return dataclasses.replace(state, key=jax.random.wrap_key_data(state.key))


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")

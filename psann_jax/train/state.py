"""Everything a training step reads and writes, and how it is made on a mesh."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from psann_jax import sharding
from psann_jax.model import LMState, trainable

HOST = "pinned_host"  # the memory kind that devices read without a copy of the host's own


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pure pytree. The place in the data is a function of `step`, so it is not in here."""

    step: jax.Array  # [] int32, steps done, those that were skipped included
    model: Any  # an nnx.Module used as a pytree; every leaf a float32 Param, or an int32 Table
    opt_state: optax.OptState
    key: jax.Array  # [] PRNG key; folded with `step`, never split
    carry: LMState | None = None  # of each row, where rows go on from step to step
    skipped: jax.Array = dataclasses.field(default_factory=lambda: jnp.int32(0))  # steps
    loss_scale: jax.Array | None = None  # [] float32, of the gradients in float16


def init_state(
    make_model: Callable[[nnx.Rngs], Any],
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    seed: int,
    *,
    model: Any = None,
    make_carry: Callable[[Any], LMState] | None = None,
    offload: bool = False,
) -> tuple[TrainState, TrainState]:
    """A TrainState created already sharded, and the same tree of its shardings.

    Args:
      make_model: draws a model.
      model: weights to start from in place of those drawn.
      make_carry: gives the states of a model before any token, [B, ...]; None carries none.
      offload: keeps the optimizer's arrays in the host's pinned memory.

    Raises:
      ValueError: a parameter's size does not divide over the mesh.
    """

    init = functools.partial(_initial, make_model, optimizer, make_carry)
    key = jax.random.key(seed)
    where = _placed(jax.eval_shape(init, key, model), mesh, offload)
    if model is not None and jax.process_count() == 1:  # it may lie on other devices
        # As leaves: the model may have been made to compute in another dtype.
        leaves = jax.device_put(jax.tree.leaves(model), jax.tree.leaves(where.model))
        model = _with_leaves_of(model, leaves)
    return jax.jit(init, out_shardings=where)(key, model), where


def abstract_state(
    make_model: Callable[[nnx.Rngs], Any],
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
    *,
    make_carry: Callable[[Any], LMState] | None = None,
    offload: bool = False,
) -> tuple[TrainState, TrainState]:
    """What `init_state` would give on a mesh of devices that need not be here: shapes alone, each
    with its sharding.
    """
    init = functools.partial(_initial, make_model, optimizer, make_carry)
    like = jax.eval_shape(init, jax.random.key(0), None)
    where = _placed(like, mesh, offload)
    return jax.tree.map(shaped, like, where), where


def shaped(a: Any, where: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array, placed elsewhere."""
    return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where)


def _initial(make_model, optimizer, make_carry, key: jax.Array, model: Any) -> TrainState:
    init_key, step_key = jax.random.split(key)
    fresh = make_model(nnx.Rngs(init_key))  # also what a given model computes with
    model = fresh if model is None else _with_leaves_of(fresh, model)
    carry = make_carry(model) if make_carry else None
    opt_state, zero = optimizer.init(trainable(model)), jnp.int32(0)
    # A model without a dtype is no LM: a function's test.
    scale = jnp.float32(1) if getattr(model, "dtype", None) == jnp.float16 else None
    return TrainState(zero, model, opt_state, step_key, carry, zero, scale)


def _placed(like: TrainState, mesh: Any, offload: bool) -> TrainState:
    where = sharding.shardings(like, mesh)
    if offload:
        where = dataclasses.replace(where, opt_state=_of_kind(where.opt_state, HOST))
    return dataclasses.replace(where, carry=_rows_on(mesh, like.carry))


def _of_kind(where: Any, kind: str) -> Any:
    return jax.tree.map(lambda place: place.with_memory_kind(kind), where)


def offloaded(where: TrainState) -> bool:
    """Whether the optimizer's arrays are to be in the host's memory."""
    return any(place.memory_kind == HOST for place in jax.tree.leaves(where.opt_state))


def on_device(state: TrainState, where: TrainState) -> TrainState:
    """The state with what `where` keeps in the host's memory brought to the devices."""
    moments = jax.device_put(state.opt_state, _of_kind(where.opt_state, "device"))
    return dataclasses.replace(state, opt_state=moments)


def _rows_on(mesh: jax.sharding.Mesh, carry: LMState | None) -> Any:
    """The rows spread as those of a batch are; whole on each device where they do not divide."""
    if carry is None:
        return None
    fits = carry.position.shape[0] % sharding.batch_ways(mesh) == 0
    where = sharding.batch_sharding(mesh) if fits else sharding.whole(mesh)
    return jax.tree.map(lambda _: where, carry)


def _with_leaves_of(fresh: Any, model: Any) -> Any:
    return jax.tree.unflatten(jax.tree.structure(fresh), jax.tree.leaves(model))


def named_arrays(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a tree as {"stack/layers/0/...": leaf}, `prefix` before each name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {prefix + _name(path): leaf for path, leaf in leaves}


def from_named_arrays(arrays: dict[str, Any], like: Any, prefix: str = "") -> Any:
    """The inverse of `named_arrays`, in the tree of `like`.

    Raises:
      ValueError: a name is missing.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(like)
    names = [prefix + _name(path) for path, _ in paths]
    if missing := sorted(set(names) - arrays.keys()):
        raise ValueError(f"the checkpoint lacks {missing[0]} and {len(missing) - 1} more")
    return tree.unflatten([arrays[name] for name in names])


def flat_arrays(state: TrainState) -> dict[str, Any]:
    """The whole state as named arrays; the key as its data."""
    return named_arrays(_with_plain_key(state))


def from_flat_arrays(arrays: dict[str, Any], like: TrainState) -> TrainState:
    """The inverse of `flat_arrays`; errors as `from_named_arrays`."""
    state = from_named_arrays(arrays, _with_plain_key(like))
    return dataclasses.replace(state, key=jax.random.wrap_key_data(state.key))


def _with_plain_key(state: TrainState) -> TrainState:
    key: Any = state.key
    if isinstance(key, jax.ShapeDtypeStruct):
        plain: Any = shaped(jax.eval_shape(jax.random.key_data, key), key.sharding)
    else:
        plain = jax.random.key_data(key)
    return dataclasses.replace(state, key=plain)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")

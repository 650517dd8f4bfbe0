"""Where arrays live: logical axis names -> mesh axes, named in no other file.

The mesh always has the axes ("data", "fsdp", "tensor"). Its shape alone picks the
parallelism: (8, 1, 1) replicates the weights, (1, 8, 1) is FSDP, (1, 4, 2) adds tensor.
"""

import collections
from collections.abc import Sequence
import math
from typing import Any

from flax import nnx
import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

MESH_AXES = ("data", "fsdp", "tensor")
# Not Explicit: we let XLA propagate the shardings.
_AXIS_TYPES = (AxisType.Auto,) * len(MESH_AXES)

RULES: dict[str, str | tuple[str, ...] | None] = {  # logical axis -> mesh axes
    "batch": ("data", "fsdp"),
    "length": None,
    "embed": "fsdp",  # the model dimension of a weight, never of an activation
    "mlp": "tensor",
    "heads": "tensor",
    "vocab": "tensor",
    "norm": None,
}


def make_mesh(
    data: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """The mesh over `devices` (None: all); one size may be -1 and takes what the others leave.

    Where the network between devices is of two speeds, as between the hosts of GPUs or the slices
    of TPUs, `data` crosses the slow one, and `fsdp` and `tensor` only if it has to.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = _sizes(data, fsdp, tensor, len(devices))
    return Mesh(arranged(sizes, devices), MESH_AXES, axis_types=_AXIS_TYPES)


def arranged(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    """The devices in an array of `sizes`, neighbours along an axis being near each other."""
    slices = collections.Counter(getattr(d, "slice_index", 0) for d in devices)
    rest, across = len(slices), []
    for size in sizes:
        across.append(math.gcd(rest, size))
        rest //= across[-1]
    if len(set(slices.values())) > 1:  # of different sizes: none is a block of the array
        order = sorted(devices, key=lambda d: (d.slice_index, d.id))
        return np.array(order, dtype=object).reshape(sizes)
    within = [size // n for size, n in zip(sizes, across, strict=True)]
    if len(slices) > 1:
        return mesh_utils.create_hybrid_device_mesh(
            within, across, devices, allow_split_physical_axes=True
        )
    return mesh_utils.create_device_mesh(within, devices, allow_split_physical_axes=True)


def abstract_mesh(data: int = 1, fsdp: int = -1, tensor: int = 1, *, devices: int) -> AbstractMesh:
    """The mesh over a number of devices that need not be here; errors as `make_mesh`."""
    sizes = _sizes(data, fsdp, tensor, devices)
    return AbstractMesh(tuple(sizes), MESH_AXES, axis_types=_AXIS_TYPES)


def _sizes(data: int, fsdp: int, tensor: int, devices: int) -> list[int]:
    sizes = [data, fsdp, tensor]
    fixed = math.prod(n for n in sizes if n != -1)
    if sizes.count(-1) > 1 or any(n < 1 and n != -1 for n in sizes):
        raise ValueError(f"mesh {_named(sizes)}: sizes are positive, and one of them may be -1")
    free, rest = divmod(devices, fixed)
    if rest or (-1 not in sizes and free != 1):
        raise ValueError(
            f"mesh {_named(sizes)} does not fit {devices} devices: "
            "the sizes must multiply to the number of devices; -1 takes what is left"
        )
    return [free if n == -1 else n for n in sizes]


def _named(sizes: list[int]) -> str:
    return "(" + ", ".join(f"{a}={n}" for a, n in zip(MESH_AXES, sizes, strict=True)) + ")"


def spec(axes: tuple[str | None, ...]) -> P:
    """The PartitionSpec of logical `axes`; None leaves a dimension whole."""
    return P(*(None if a is None else RULES[a] for a in axes))


def distributed() -> bool:
    """Whether the mesh in scope spreads arrays over more than one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.size > 1


def divides(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> bool:
    """Whether the mesh in scope spreads a shape of logical `axes` in equal parts."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return True
    return all(n % _ways(entry, mesh) == 0 for n, entry in zip(shape, spec(axes), strict=True))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins an activation to `axes`; does nothing outside `jax.set_mesh`."""
    return jax.lax.with_sharding_constraint(x, spec(axes)) if distributed() else x


def by_device(x: jax.Array) -> jax.Array:
    """Rows [B, ...] as [W, B / W, ...], W the devices that the batch is spread over.

    Sums over all axes but the first then stay on their device. W is 1 outside `jax.set_mesh`, and
    where the rows do not divide.
    """
    mesh = jax.sharding.get_abstract_mesh()
    ways = 1 if mesh.empty or x.shape[0] % batch_ways(mesh) else batch_ways(mesh)
    groups = x.reshape(ways, -1, *x.shape[1:])
    return groups if ways == 1 else constrain(groups, "batch", *[None] * x.ndim)


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Sharding of a batch array whose batch axis comes after `leading` whole axes."""
    return NamedSharding(mesh, P(*(None,) * leading, RULES["batch"]))


def batch_parts(mesh: Mesh) -> tuple[int, ...]:
    """Which of the `batch_ways` equal parts of a batch's rows lie on devices of this process.

    They need not be neighbours, and several processes may hold the same one.
    """
    ways = batch_ways(mesh)
    held = batch_sharding(mesh).addressable_devices_indices_map((ways,)).values()
    return tuple(sorted({index[0].indices(ways)[0] for index in held if index}))


def whole(mesh: Mesh) -> NamedSharding:
    """Sharding of an array that each device has all of."""
    return NamedSharding(mesh, P())


def batch_ways(mesh: Mesh | AbstractMesh) -> int:
    """Over how many devices the rows of a batch are spread."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def weight_ways(mesh: Mesh | AbstractMesh) -> int:
    """Over how many devices a weight matrix is spread."""
    return mesh.shape["fsdp"] * mesh.shape["tensor"]


def shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Sharding of every leaf, read from each Param's `axes`; other leaves replicate.

    Stacked layers add leading dimensions in front of `axes`; those stay whole, so that
    scan and vmap need no metadata of their own.

    Raises:
      ValueError: a dimension is not a multiple of the devices it is spread over, or two
        logical axes of one array fall on the same mesh axis.
    """

    def of(path, leaf):
        axes = leaf.get_metadata().get("axes") if isinstance(leaf, nnx.Variable) else None
        if axes is None or not jax.tree.leaves(leaf):  # a moment that an index table has not
            return jax.tree.map(lambda _: NamedSharding(mesh, P()), leaf)
        where = spec((None,) * (leaf.ndim - len(axes)) + tuple(axes))
        _check(jax.tree_util.keystr(path, simple=True, separator="."), leaf.shape, where, mesh)
        return jax.tree.map(lambda _: NamedSharding(mesh, where), leaf)

    return jax.tree_util.tree_map_with_path(of, tree, is_leaf=lambda x: isinstance(x, nnx.Variable))


def _check(name: str, shape: tuple[int, ...], where: P, mesh: Mesh | AbstractMesh) -> None:
    used = [a for entry in where for a in ((entry,) if isinstance(entry, str) else entry or ())]
    if len(set(used)) < len(used):
        raise ValueError(f"{name} {shape}: sharding.RULES puts two of its axes on one of {used}")
    for size, entry in zip(shape, where, strict=True):
        ways = _ways(entry, mesh)
        if size % ways:
            raise ValueError(
                f"{name} {shape}: {size} is not a multiple of mesh.{entry}={ways}; "
                "change the size or the mesh"
            )


def _ways(entry: str | tuple[str, ...] | None, mesh: Mesh | AbstractMesh) -> int:
    """Over how many devices an entry of a PartitionSpec spreads its dimension."""
    return math.prod(mesh.shape[a] for a in ((entry,) if isinstance(entry, str) else entry or ()))

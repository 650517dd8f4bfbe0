"""Meshes and the shardings that parameters' logical axes get on them."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from psann_jax import bases, sharding
from psann_jax.model import LM
from psann_jax.train.state import init_state, named_arrays

pytestmark = pytest.mark.mesh


def _abstract(**fields):
    sizes = {"vocab_size": 32, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}
    base = bases.get("respsann")(**{**sizes, **fields})
    return jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))


def _specs(mesh_shape, **fields):
    where = sharding.shardings(_abstract(**fields), sharding.make_mesh(*mesh_shape))
    return {name: tuple(s.spec) for name, s in named_arrays(where).items()}


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [((1, -1, 1), (1, 8, 1)), ((-1, 2, 2), (2, 2, 2)), ((8, 1, 1), (8, 1, 1)), ((), (1, 8, 1))],
)
def test_one_size_takes_the_devices_that_are_left(sizes, shape):
    assert tuple(sharding.make_mesh(*sizes).shape.values()) == shape


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((3, 1, 1), r"mesh \(data=3, fsdp=1, tensor=1\) does not fit 8 devices"),
        ((-1, 3, 1), r"mesh \(data=-1, fsdp=3, tensor=1\) does not fit 8 devices"),
        ((2, 2, 1), "sizes must multiply to the number of devices"),
        ((-1, -1, 1), "one of them may be -1"),
        ((0, 8, 1), "sizes are positive"),
        ((16, 1, 1), "does not fit 8 devices"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(sizes, said):
    with pytest.raises(ValueError, match=said):
        sharding.make_mesh(*sizes)


def test_mesh_takes_the_devices_it_is_given():
    assert sharding.make_mesh(devices=jax.devices()[:2]).size == 2


@dataclasses.dataclass(frozen=True)
class _Device:
    """Of a host of its own, as jax tells one: every host of GPUs is a slice."""

    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "a GPU"


@pytest.mark.parametrize(
    ("sizes", "per_host"),
    [
        ((4, 4, 1), [4, 4, 4, 4]),
        ((1, 16, 1), [4, 4, 4, 4]),
        ((2, 4, 2), [4, 4, 4, 4]),
        ((2, 2, 3), [4, 4, 4]),
        ((2, 3, 1), [4, 2]),
        ((1, 1, 2), [1, 1]),
    ],
)
def test_a_mesh_over_hosts_has_those_of_a_host_side_by_side(sizes, per_host):
    hosts = [host for host, n in enumerate(per_host) for _ in range(n)]
    devices = [_Device(i, host) for i, host in enumerate(hosts)]
    placed = sharding.arranged(sizes, devices[::-1])
    assert placed.shape == sizes and set(placed.flat) == set(devices)
    if sizes[2] == 1:
        assert [d.slice_index for d in placed.flat] == hosts


def test_data_crosses_the_hosts_before_fsdp_does():
    placed = sharding.arranged((2, 4, 2), [_Device(i, i // 4) for i in range(16)])
    hosts = np.vectorize(lambda d: d.slice_index)(placed)
    assert set(hosts[0].flat) == {0, 1} and set(hosts[1].flat) == {2, 3}
    assert all(len(set(row)) == 1 for row in hosts.reshape(-1, 2))  # no host is left for `tensor`


def test_a_state_starts_from_a_model_on_other_devices():
    def make(rngs):
        return nnx.Linear(4, 4, rngs=rngs)

    model = jax.device_put(make(nnx.Rngs(1)), jax.devices()[7])
    mesh = sharding.make_mesh(devices=jax.devices()[:2])
    state, _ = init_state(make, optax.sgd(1.0), mesh, 0, model=model)
    np.testing.assert_array_equal(state.model.kernel[...], model.kernel[...])


def test_spec_maps_logical_axes_and_leaves_none_whole():
    assert sharding.spec(("batch", None, "mlp")) == P(("data", "fsdp"), None, "tensor")


def test_an_unknown_logical_axis_is_an_error():
    with pytest.raises(KeyError, match="widht"):
        sharding.spec(("widht",))


def test_stacked_layers_stay_whole_in_front_of_their_axes():
    specs = _specs((1, 4, 2))
    assert specs["stack/layers/0/mixer/q/kernel"] == (None, "fsdp", "tensor")
    assert specs["stack/layers/1/mixer/down/kernel"] == (None, "tensor", "fsdp")
    assert specs["stack/layers/1/mixer/act/amplitude"] == (None, "tensor")
    assert specs["stack/layers/0/norm/scale"] == (None, None)


def test_parameters_outside_the_stack_follow_their_axes():
    specs = _specs((1, 4, 2))
    assert specs["embed/table"] == ("tensor", "fsdp")
    assert specs["head/kernel"] == ("fsdp", "tensor")


@pytest.mark.parametrize(
    ("mesh", "fields", "said"),
    [
        (
            (1, 1, 8),
            {"vocab_size": 30},
            r"embed\.table \(30, 16\): 30 is not a multiple of mesh",
        ),
        ((1, 8, 1), {"d_model": 12, "n_heads": 2}, r"12 is not a multiple of mesh\.fsdp=8"),
        ((1, 1, 8), {"d_mlp": 20}, r"stack\.layers\.1\.mixer\..*: 20 is not a multiple"),
    ],
)
def test_a_size_that_does_not_divide_names_its_parameter(mesh, fields, said):
    with pytest.raises(ValueError, match=said):
        _specs(mesh, **fields)


def test_two_axes_of_one_array_on_one_mesh_axis_are_refused(monkeypatch):
    monkeypatch.setitem(sharding.RULES, "mlp", "fsdp")
    with pytest.raises(ValueError, match=r"mixer\.down\.kernel.*puts two of its axes on one"):
        _specs((1, 8, 1))


def test_leaves_that_are_no_parameter_are_replicated():
    mesh = sharding.make_mesh(8, 1, 1)
    where = sharding.shardings({"step": jax.ShapeDtypeStruct((), jnp.int32)}, mesh)
    assert where["step"].spec == P()


def test_constrain_is_the_identity_outside_a_mesh():
    x = jnp.ones((2, 3))
    assert sharding.constrain(x, "batch", None) is x


def test_constrain_spreads_the_batch_inside_a_mesh():
    mesh = sharding.make_mesh(4, 2, 1)
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: sharding.constrain(x * 2, "batch", None))(jnp.ones((8, 3)))
    assert y.addressable_shards[0].data.shape == (1, 3)


def test_by_device_keeps_rows_where_they_are():
    mesh = sharding.make_mesh(2, 2, 2)
    rows = jax.device_put(np.arange(24).reshape(8, 3), sharding.batch_sharding(mesh))
    with jax.set_mesh(mesh):
        apart = jax.jit(sharding.by_device)(rows)
    np.testing.assert_array_equal(apart, np.arange(24).reshape(4, 2, 3))
    for one, its in zip(apart.addressable_shards, rows.addressable_shards, strict=True):
        np.testing.assert_array_equal(one.data[0], its.data)


@pytest.mark.parametrize("rows", [6, 1])
def test_by_device_leaves_rows_that_do_not_divide_together(rows):
    with jax.set_mesh(sharding.make_mesh(1, 8, 1)):
        assert sharding.by_device(jnp.ones((rows, 3))).shape == (1, rows, 3)


def test_batch_sharding_leaves_micro_batches_whole():
    mesh = sharding.make_mesh(2, 2, 2)
    x = jax.device_put(np.zeros((3, 8, 5)), sharding.batch_sharding(mesh, leading=1))
    assert x.addressable_shards[0].data.shape == (3, 2, 5)
    assert sharding.batch_ways(mesh) == 4
    assert sharding.weight_ways(mesh) == 4

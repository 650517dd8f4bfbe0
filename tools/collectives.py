"""Bytes that the devices of a mesh exchange in a train step, read from the compiled program.

    JAX_NUM_CPU_DEVICES=8 JAX_PLATFORMS=cpu python tools/collectives.py fsdp 256 2

Prints one JSON object for a mesh of all devices along the axis (data, fsdp or tensor), d_model
and n_layers. Nothing is run, so the devices may be pretended by a CPU. A CPU sends bfloat16 as
float32; what a loop repeats is counted once.
"""

from collections import Counter
import json
import math
import re
import sys
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from psann_jax import sharding
from psann_jax.bases import ResPSANN
from psann_jax.model import LM, parameter_count, trainable
from psann_jax.seq import Batch
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import TrainState
from psann_jax.train.step import jit_train_step

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# "%name = SHAPE KIND(...": of an asynchronous pair the second, whose shape is the result alone.
_CALL = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start|-done)?\((.*)")
_SHAPE = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]*)\}|\[(\d+),(\d+)\])")


def bytes_by_kind(hlo: str) -> dict[str, int]:
    """Bytes of each kind of collective in a program's text, of whole tensors.

    That is the result of all but a reduce-scatter, whose result is one device's part of it.
    """
    total: Counter[str] = Counter()
    for shape, kind, part, rest in _CALL.findall(hlo):
        if part != "-start":
            share = _group_size(rest) if kind == "reduce-scatter" else 1
            total[kind] += share * _bytes(shape)
    return dict(total)


def _bytes(shape: str) -> int:
    return sum(
        math.prod(map(int, filter(None, sizes.split(",")))) * _width(name)
        for name, sizes in _SHAPE.findall(shape)
    )


def _width(name: str) -> int:
    """Bytes of an element of HLO's type `name`, as f32, bf16, s8, pred, f8e4m3fn."""
    bits = re.search(r"\d+", name)
    return max(1, int(bits.group()) // 8) if bits else 1


def _group_size(rest: str) -> int:
    """Devices that take part in a call, as either spelling of its groups has it."""
    found = _GROUPS.search(rest)
    if found is None:
        return 1
    members, _, each = found.groups()
    return int(each) if each else len(members.split(","))


def train_step_of(base: ResPSANN, mesh: jax.sharding.Mesh, rows: int, length: int) -> Any:
    """The compiled train step of a model that is never made, on [rows, length] tokens."""
    optimizer = make_optimizer(OptimizerConfig(), 1000)

    def init() -> TrainState:
        model = LM(base, rngs=nnx.Rngs(0))
        return TrainState(jnp.int32(0), model, optimizer.init(trainable(model)), jax.random.key(0))

    state = jax.eval_shape(init)
    where = sharding.shardings(state, mesh)
    spread = sharding.batch_sharding(mesh, leading=1)
    batch = Batch(*(_abstract((1, rows, length), dtype, spread) for dtype in "iifii"))
    with jax.set_mesh(mesh):
        return jit_train_step(optimizer, where).lower(state, batch).compile()


def _abstract(shape: tuple[int, ...], kind: str, where: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, {"i": jnp.int32, "f": jnp.float32}[kind], sharding=where)


def main() -> None:
    axis, d_model, n_layers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    base = ResPSANN(vocab_size=16 * d_model, d_model=d_model, n_layers=n_layers, n_heads=8)
    mesh = sharding.make_mesh(**{"data": 1, "fsdp": 1, "tensor": 1, axis: -1})
    program = train_step_of(base, mesh, rows=2 * mesh.size, length=128)
    count = parameter_count(jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0))))
    sent = bytes_by_kind(program.as_text())
    each = {kind: total / count for kind, total in sent.items()}
    print(json.dumps({"bytes_per_parameter": sum(each.values()), **each}))


if __name__ == "__main__":
    main()

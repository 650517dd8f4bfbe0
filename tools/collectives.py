"""Bytes that the devices of a mesh exchange in a train step, read from the compiled program.

    JAX_NUM_CPU_DEVICES=8 JAX_PLATFORMS=cpu python tools/collectives.py fsdp 256 2

Prints one JSON object for a mesh of all devices along the axis (data, fsdp or tensor), d_model
and n_layers. Nothing is run, so the devices may be pretended by a CPU, which sends bfloat16 as
float32, and has an all-reduce and a slice of it for a reduce-scatter.
"""

from collections import Counter
import json
import math
import re
import sys

import jax
import jax.numpy as jnp

from psann_jax import sharding
from psann_jax.bases import Base, ResPSANN
from psann_jax.model import LM, parameter_count
from psann_jax.seq import Batch
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import abstract_state
from psann_jax.train.step import jit_train_step

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*?\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
# "%name = SHAPE KIND(...": of an asynchronous pair the second, whose shape is the result alone.
_SEND = re.compile(rf" = (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start|-done)?\((.*)")
_CALLED = re.compile(r"(?:body|calls|to_apply|\w+_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{(.*?)\}")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_SHAPE = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]*)\}|\[(\d+),(\d+)\])")


def bytes_by_kind(hlo: str) -> dict[str, int]:
    """Bytes of each kind of collective that a run of a program's text sends, of whole tensors.

    That is the result of all but a reduce-scatter, whose result is one device's part of it. What
    a loop repeats counts as often as the text says, or once; of a condition all branches count.
    """
    entry, lines = "", {}
    for is_entry, name, body in _COMPUTATION.findall(re.sub(r"/\*.*?\*/", "", hlo)):
        entry, lines[name] = name if is_entry else entry, body.splitlines()
    total: Counter[str] = Counter()

    def walk(name: str, times: int) -> None:
        for line in lines[name]:
            if send := _SEND.search(line):
                shape, kind, part, rest = send.groups()
                share = _group_size(rest) if kind == "reduce-scatter" else 1
                total[kind] += 0 if part == "-start" else times * share * _bytes(shape)
            else:
                trips = _TRIPS.search(line) if " while(" in line else None
                for called in _computations_of(line):
                    walk(called, times * int(trips[1]) if trips else times)

    walk(entry, 1)
    return {kind: sent for kind, sent in total.items() if sent}


def _computations_of(line: str) -> list[str]:
    """Those that an instruction runs, but for a loop's condition."""
    branches = _BRANCHES.search(line)
    names = re.findall(r"[\w.-]+", branches[1]) if branches else []
    return _CALLED.findall(line) + names


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


def bytes_per_parameter(
    base: Base, mesh: jax.sharding.Mesh, rows: int, length: int, micro_batches: int = 1
) -> dict[str, float]:
    """What the train step of a model that is never made sends, by kind, a parameter of it.

    Args:
      rows: of `length` tokens, in each micro-batch of all devices together.
    """
    optimizer = make_optimizer(OptimizerConfig(), 1000)
    with jax.set_mesh(mesh):
        state, where = abstract_state(lambda rngs: LM(base, rngs=rngs), optimizer, mesh)
        shape, spread = (micro_batches, rows, length), sharding.batch_sharding(mesh, leading=1)
        whole, real = (
            jax.ShapeDtypeStruct(shape, dtype, sharding=spread)
            for dtype in (jnp.int32, jnp.float32)
        )
        batch = Batch(whole, whole, real, whole, whole)
        program = jit_train_step(optimizer, where).lower(state, batch).compile()
    sent = bytes_by_kind(program.as_text())
    return {kind: total / parameter_count(state.model) for kind, total in sent.items()}


def main() -> None:
    axis, d_model, n_layers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    base = ResPSANN(vocab_size=16 * d_model, d_model=d_model, n_layers=n_layers, n_heads=8)
    mesh = sharding.make_mesh(**{"data": 1, "fsdp": 1, "tensor": 1, axis: -1})
    each = bytes_per_parameter(base, mesh, rows=2 * mesh.size, length=128)
    print(json.dumps({"bytes_per_parameter": sum(each.values()), **each}))


if __name__ == "__main__":
    main()

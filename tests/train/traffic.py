"""What compiled train steps send between devices, of cases given as JSON; prints their bytes.

A process of its own, which test_traffic.py starts: how many devices the CPU pretends to be is
settled once a process. Nothing is executed; arrays are shapes alone.
"""

import json
import math
import re
import sys

import jax
import jax.numpy as jnp

from psann_jax import bases, sharding
from psann_jax.model import LM, parameter_count
from psann_jax.ops import cross_entropy
from psann_jax.seq import Batch
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import abstract_state
from psann_jax.train.step import jit_train_step

SIZES = {"vocab_size": 512, "d_model": 64, "n_layers": 2, "n_heads": 2, "d_mlp": 256}
LENGTH, CHUNKS = 128, 4  # tokens of a row; chunks of the loss that a row is cut into
_BYTES = {"pred": 1, "s32": 4, "u32": 4, "f32": 4}
_SENDS = re.compile(
    r" = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_CALLS = re.compile(r"(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


def sent(program: str) -> dict[str, int]:
    """Bytes of the whole arrays that each kind of collective yields, loops counted by their trips.

    Of a reduce-scatter on a CPU an all-reduce stands in the program, and a slice of it.
    """
    bodies = re.split(r"\n(?=(?:ENTRY )?%[\w.-]+ \()", re.sub(r"/\*.*?\*/", "", program))
    named = {re.match(r"(?:ENTRY )?%?([\w.-]+)", body)[1]: body for body in bodies}
    total: dict[str, int] = {}

    def walk(name: str, times: int) -> None:
        for line in named[name].splitlines()[1:]:
            if found := _SENDS.search(line):
                shape, kind = found.groups()
                total[kind] = total.get(kind, 0) + times * _size(shape)
                continue
            trips = _TRIPS.search(line) if " while(" in line else None
            for called in _CALLS.findall(line):
                walk(called, times * int(trips[1]) if trips else times)

    walk(re.search(r"^ENTRY %?([\w.-]+)", program, re.MULTILINE)[1], 1)
    return total


def _size(shape: str) -> int:
    arrays = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(_BYTES[t] * math.prod(map(int, filter(None, n.split(",")))) for t, n in arrays)


def bytes_per_parameter(
    name: str, mesh: tuple[int, int, int], micro_batches: int = 1, **fields
) -> dict[str, float]:
    """What a step of one row a device and micro-batch sends, a parameter of the model."""
    base = bases.get(name)(**{**SIZES, **fields}, dtype="float32")
    optimizer = make_optimizer(OptimizerConfig(), 10)
    mesh = sharding.make_mesh(*mesh, devices=jax.devices()[: math.prod(mesh)])
    cross_entropy._CHUNK_BYTES["cpu"] = 4 * base.vocab_size * LENGTH // CHUNKS
    with jax.set_mesh(mesh):
        state, where = abstract_state(lambda r: LM(base, rngs=r), optimizer, mesh)
        rows = micro_batches, sharding.batch_ways(mesh), LENGTH
        spread = sharding.batch_sharding(mesh, leading=1)
        whole, real = (
            jax.ShapeDtypeStruct(rows, dtype, sharding=spread) for dtype in (jnp.int32, jnp.float32)
        )
        batch = Batch(whole, whole, real, whole, whole)
        program = jit_train_step(optimizer, where).lower(state, batch).compile().as_text()
    return {kind: n / parameter_count(state.model) for kind, n in sent(program).items()}


if __name__ == "__main__":
    for case in json.loads(sys.argv[1]):
        print(json.dumps(bytes_per_parameter(**case)), flush=True)

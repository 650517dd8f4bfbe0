"""What compiled train steps send between devices, of cases given as JSON; prints their bytes.

A process of its own, which test_traffic.py starts: how many devices the CPU pretends to be is
settled once a process. Nothing is executed; arrays are shapes alone.
"""

import json
import math
import sys

import collectives
import jax

from psann_jax import bases, sharding
from psann_jax.ops import cross_entropy

SIZES = {"vocab_size": 512, "d_model": 64, "n_layers": 2, "n_heads": 2, "d_mlp": 256}
LENGTH, CHUNKS = 128, 4  # tokens of a row; chunks of the loss that a row is cut into


def bytes_per_parameter(
    name: str, mesh: tuple[int, int, int], micro_batches: int = 1, **fields
) -> dict[str, float]:
    """What a step of one row a device and micro-batch sends, a parameter of the model."""
    base = bases.get(name)(**{**SIZES, **fields}, dtype="float32")
    mesh = sharding.make_mesh(*mesh, devices=jax.devices()[: math.prod(mesh)])
    cross_entropy._CHUNK_BYTES["cpu"] = 4 * base.vocab_size * LENGTH // CHUNKS
    rows = sharding.batch_ways(mesh)
    return collectives.bytes_per_parameter(base, mesh, rows, LENGTH, micro_batches)


if __name__ == "__main__":
    for case in json.loads(sys.argv[1]):
        print(json.dumps(bytes_per_parameter(**case)), flush=True)

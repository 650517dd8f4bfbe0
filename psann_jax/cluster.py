"""Several processes as one run: how they find each other, agree, fail together and stop together.

With one process all of this does nothing. The messages here are short and few, at the start, the
end and the saves of a run; the only one of every step is the flag of `AnyAsked`.
"""

from collections.abc import Callable
import hashlib
import itertools
import json
import os
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
from orbax.checkpoint.multihost import get_barrier_sync_fn

T = TypeVar("T")

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
WANTED = "PSANN_JAX_CLUSTER"  # auto: look for a cluster everywhere; none: be alone
HEARTBEAT_SECONDS = 30  # after so long without a sign of life a process counts as dead
_SIZES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")  # processes of a job step
_MESSAGE_BYTES = 4096
_LONGEST_WAIT_MS = 24 * 3600 * 1000  # a dead process ends a wait earlier
_numbers = itertools.count()
_KINDS = {"OSError": OSError, "ValueError": ValueError}


def join() -> None:
    """Makes this process one of a cluster, where its environment tells of one.

    That is the three VARIABLES, or a step of several tasks of Slurm or Open MPI, or several TPU
    hosts of one GKE job; PSANN_JAX_CLUSTER=auto also asks what else `jax.distributed.initialize`
    knows, as the metadata of a TPU pod. To be called before anything touches a device.

    Raises:
      ValueError: the variables do not make sense.
    """
    wanted = os.environ.get(WANTED, "")
    if wanted not in ("", "auto", "none"):
        raise ValueError(f"{WANTED}={wanted!r} must be auto or none, or be left out")
    given = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if wanted == "none":
        return
    if given:
        _start(**_of_variables(given))
    elif wanted == "auto" or _is_task_of_several():
        _start()


def _of_variables(given: dict[str, str]) -> dict[str, Any]:
    if missing := [name for name in VARIABLES if name not in given]:
        raise ValueError(
            f"{', '.join(missing)} is not set, and {', '.join(given)} is: set all three, or none"
        )
    address, *numbers = (given[name] for name in VARIABLES)
    if not all(n.isdecimal() for n in numbers) or not int(numbers[1]) < int(numbers[0]):
        raise ValueError(
            f"JAX_PROCESS_ID={numbers[1]} must be a number below JAX_NUM_PROCESSES={numbers[0]}"
        )
    if not address.rpartition(":")[2].isdecimal():
        raise ValueError(f"JAX_COORDINATOR_ADDRESS={address} must be HOST:PORT")
    count, index = map(int, numbers)
    return {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
        # Within a step of Slurm or Open MPI jax would leave this process one device of its host's.
        "cluster_detection_method": "deactivate",
    }


def _is_task_of_several() -> bool:
    sizes = [os.environ.get(name, "") for name in _SIZES]
    if any(n.isdecimal() and int(n) > 1 for n in sizes):
        # A batch script knows the number of tasks too; only what srun started is one of them.
        return "SLURM_STEP_NODELIST" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _start(**where: Any) -> None:
    jax.distributed.initialize(
        **where,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )


def together(do: Callable[[], T]) -> T:
    """What `do` gives in this process, once every process is done with it.

    Raises:
      ValueError, OSError: it raised that in a process; each of the others is told which.
    """
    if jax.process_count() == 1:
        return do()
    result, failure = None, None
    try:
        result = do()
    except (ValueError, OSError) as error:
        failure = error
    kind = "OSError" if isinstance(failure, OSError) else "ValueError"
    said = _exchange("" if failure is None else f"{kind} {failure}")
    if failure is not None:
        raise failure
    for process, text in enumerate(said):
        if text:
            kind, _, words = text.partition(" ")
            raise _KINDS[kind](f"process {process} cannot go on: {words}")
    return result  # type: ignore[return-value]


def one_then_others(do: Callable[[], T]) -> T:
    """`together`, with process 0 through before the others begin: they find what it left."""
    first = jax.process_index() == 0
    result = together(lambda: do() if first else None)
    later = together(lambda: None if first else do())
    return result if first else later  # type: ignore[return-value]


def from_first(do: Callable[[], T]) -> T:
    """What `do` gives in process 0, a small JSON value, in every process; raises as `together`."""
    if jax.process_count() == 1:
        return do()
    said = together(lambda: json.dumps(do()) if jax.process_index() == 0 else "")
    return json.loads(_exchange(said)[0])


def agree(**things: Callable[[], str]) -> None:
    """Goes on only where these give the same texts in every process; asked where there are several.

    Raises:
      ValueError: a process has others than process 0.
    """
    if jax.process_count() == 1:
        return
    digests = {name: hashlib.sha256(of().encode()).hexdigest() for name, of in things.items()}
    said = [json.loads(text) for text in _exchange(json.dumps(digests))]
    for name in things:
        others = [i for i, digest in enumerate(said) if digest.get(name) != said[0][name]]
        if others:
            raise ValueError(
                f"the {name} of process {', '.join(map(str, others))} is not that of process 0: "
                "start every process with the same command, code and files"
            )


def _exchange(text: str) -> list[str]:
    """The text of every process, the longest of them cut off."""
    get_barrier_sync_fn()(key=f"psann_jax_{next(_numbers)}", timeout_ms=_LONGEST_WAIT_MS)
    content = np.zeros(_MESSAGE_BYTES, np.uint8)
    encoded = text.encode()[:_MESSAGE_BYTES]
    content[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    everyone = multihost_utils.process_allgather(content)
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in everyone]


class AnyAsked:
    """Whether any process was asked to stop, as all of them learn it at one and the same step.

    Each call starts a sum over all devices and waits for that of the call before, which ended with
    its step: nothing waits for a flag. With one process the answer is the flag itself.
    """

    def __init__(self, mesh: jax.sharding.Mesh):
        self._where = NamedSharding(mesh, P(mesh.axis_names))
        self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, P()))
        self._size, self._before = mesh.size, None

    def __call__(self, asked: bool) -> bool:
        if jax.process_count() == 1:
            return asked
        flags = jax.make_array_from_callback(
            (self._size,), self._where, lambda index: np.array([asked])
        )
        before, self._before = self._before, self._any(flags)
        return before is not None and bool(before)

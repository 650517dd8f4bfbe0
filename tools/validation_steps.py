"""The steps of the validation battery: each measures, and says by which rule it passed."""

from collections.abc import Callable

from validation_decoding import generation
from validation_mesh import data_parallel, fsdp
from validation_precision import forward_and_backward, half_precision
from validation_resuming import resuming
from validation_scale import Result, Scale
from validation_speed import checkpointing, throughput

STEPS: dict[str, Callable[[Scale], Result]] = {
    "GPU-01": forward_and_backward,
    "GPU-02": half_precision,
    "GPU-03": throughput,
    "GPU-04": checkpointing,
    "GPU-05": data_parallel,
    "GPU-06": fsdp,
    "GPU-07": generation,
    "GPU-08": resuming,
}

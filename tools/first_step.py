"""From the start of a process to the end of its first train step: `first_step.py CONFIG DTYPE`.

Prints one JSON object of the seconds since the start at which each part was done.
"""

import time

BEGAN = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402

import jax  # noqa: E402
from model_sizes import SIZES, base_of  # noqa: E402
from trainer import Trainer, packed, random_tokens  # noqa: E402

from psann_jax.run.environment import set_up  # noqa: E402


def main() -> None:
    done = {"imported_s": time.perf_counter() - BEGAN}
    set_up()
    jax.devices()
    done["devices_s"] = time.perf_counter() - BEGAN
    sizes = SIZES[sys.argv[1]]
    trainer = Trainer(base_of("respsann", sizes, sys.argv[2]), packed(random_tokens(sizes)))
    done["compiled_s"] = time.perf_counter() - BEGAN
    jax.block_until_ready(trainer.step())
    done["stepped_s"] = time.perf_counter() - BEGAN
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()

"""Trains a config: python -m psann_jax.main --config configs/quickstart.py [--workdir DIR].

Any field of the config may be set: --config.train.steps=20 --config.base.sine.frequency=3.
The file may take a preset: --config configs/x.py:PRESET. A config file is Python and is run.
"""

import sys

from psann_jax.cli import train

if __name__ == "__main__":
    sys.exit(train.main(sys.argv[1:]))

"""python -m psann_jax VERB: train, generate, eval, inspect, tokenizer, import, export, config."""

import sys

from psann_jax.cli.verbs import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

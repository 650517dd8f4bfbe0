"""eval: loss, perplexity and bits per byte of a trained model on its validation text or yours."""

import argparse
import json

from psann_jax.cli.exits import exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="WORKDIR", help="a run's workdir, or a saved model")
    parser.add_argument(
        "sources", nargs="*", help="files to read; none: the validation split of the run"
    )
    parser.add_argument("--step", help="of a run: best (default), newest or a step number")
    parser.add_argument("--batch-tokens", type=int, default=16_384, metavar="N")


def main(args: argparse.Namespace) -> int:
    return exit_code(lambda: _evaluate(args))


def _evaluate(args: argparse.Namespace) -> None:
    from psann_jax.run.environment import set_up
    from psann_jax.run.evaluate import evaluate_run, evaluate_saved, is_saved_model

    set_up()
    sources, size = tuple(args.sources), {"batch_tokens": args.batch_tokens}
    if is_saved_model(args.path):
        if args.step is not None:
            raise ValueError(f"--step={args.step} is for a run's workdir; {args.path} is a model")
        result = evaluate_saved(args.path, sources, **size)
    else:
        result = evaluate_run(args.path, sources, step=args.step or "best", **size)
    print(json.dumps(result, indent=2))

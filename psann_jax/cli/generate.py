"""generate: continue a prompt with a trained model; stdout gets the text alone."""

import argparse
import sys

from psann_jax.cli.exits import exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="WORKDIR", help="a run's workdir, or a saved model folder")
    parser.add_argument("prompt", nargs="?", default="", help="the text to continue; none: begin")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default 1)")
    parser.add_argument("--top-k", type=int, default=None, metavar="K")
    parser.add_argument("--top-p", type=float, default=0.9, metavar="P", help="default 0.9")
    parser.add_argument("--repetition-penalty", type=float, default=None, metavar="R")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", default="best", help="best (default), newest or a step number")
    parser.add_argument(
        "--long-prompt",
        choices=("error", "keep_last"),
        default="error",
        help="what a prompt longer than the training rows does",
    )


def main(args: argparse.Namespace) -> int:
    return exit_code(lambda: _generate(args))


def _generate(args: argparse.Namespace) -> None:
    from psann_jax.lm import psannLM
    from psann_jax.run.environment import set_up

    set_up()
    model = psannLM.load(args.path, step=args.step)
    if model.tokenizer is None:
        raise ValueError(f"{args.path} has no tokenizer; import it again with --tokenizer FILE")
    text = model.generate(
        args.prompt,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        repetition_penalty=args.repetition_penalty,
        seed=args.seed,
        long_prompt=args.long_prompt,
    )
    sys.stdout.buffer.write((text + "\n").encode(errors="replace"))

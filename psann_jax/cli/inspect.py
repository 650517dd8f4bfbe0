"""inspect: what a run or a saved model is made of; with --sine, its sines over the training."""

import argparse

from psann_jax.cli.exits import exit_code

_TOKENS = 8192


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="WORKDIR", help="a run's workdir, or a saved model folder")
    parser.add_argument(
        "--sine",
        action="store_true",
        help="amplitude, frequency, damping and phase of every sine, at every kept checkpoint: "
        "a table, sine.json and sine.png",
    )
    parser.add_argument("--out", metavar="FOLDER", help="where to write (default: WORKDIR)")
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="FILE",
        help="text to measure phases on (default: the validation text); may be given again",
    )
    parser.add_argument(
        "--tokens", type=int, metavar="N", help=f"tokens to measure on (default {_TOKENS})"
    )


def main(args: argparse.Namespace) -> int:
    return exit_code(lambda: _sines(args) if args.sine else _describe(args))


def _describe(args: argparse.Namespace) -> None:
    from psann_jax.run.inspect import describe

    if args.text or args.out or args.tokens is not None:
        raise ValueError(
            "--text, --tokens and --out say how the sines are measured; give --sine as well"
        )
    print(describe(args.path))


def _sines(args: argparse.Namespace) -> None:
    from psann_jax.evals.sine_table import sine_table
    from psann_jax.run.environment import set_up
    from psann_jax.run.report import Report
    from psann_jax.run.sine import measure_sines, write_sines

    set_up()
    report, folder = Report(), args.out or args.path
    tokens = _TOKENS if args.tokens is None else args.tokens
    found = measure_sines(args.path, report, text=tuple(args.text), tokens=tokens)
    print(sine_table(found))
    write_sines(found, folder)
    report.line(f"sine.json and sine.png are in {folder}")

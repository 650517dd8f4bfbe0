"""needle: whether a model finds a key's value in a long text, by length and depth."""

import argparse
from pathlib import Path

from psann_jax.cli.exits import exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="WORKDIR", help="a run's workdir, or a saved model")
    parser.add_argument(
        "--lengths",
        default="1024,2048,4096,8192,16384,32768",
        metavar="N,N",
        help="tokens of the prompts (default 1024 to 32768, doubling)",
    )
    parser.add_argument(
        "--depths",
        default="0,25,50,75,100",
        metavar="P,P",
        help="percent of the text before the needle (default 0,25,50,75,100)",
    )
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="a cell (default 20)")
    parser.add_argument("--digits", type=int, default=4, metavar="N", help="of a value (default 4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", default="best", help="best (default), newest or a step number")
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="FILE",
        help="text of the haystack (default: the validation text); may be given again",
    )
    parser.add_argument(
        "--out", metavar="FOLDER", help="where needle.json and needle.png go (default: WORKDIR)"
    )


def main(args: argparse.Namespace) -> int:
    return exit_code(lambda: _needle(args))


def _needle(args: argparse.Namespace) -> None:
    lengths = [int(n) for n in _numbers("--lengths", args.lengths, int)]
    depths = _numbers("--depths", args.depths, float)
    folder = Path(args.out or args.path)
    if folder.is_file():
        raise ValueError(f"{folder} is a file, beside which nothing is written; give --out FOLDER")
    from psann_jax.evals.needle_report import needle_table
    from psann_jax.run.environment import set_up
    from psann_jax.run.needle import measure_needles, write_needles
    from psann_jax.run.report import Report

    set_up()
    report = Report()
    found = measure_needles(
        args.path,
        report,
        lengths=lengths,
        depths=depths,
        trials=args.trials,
        digits=args.digits,
        seed=args.seed,
        text=tuple(args.text),
        step=args.step,
    )
    print(needle_table(found))
    write_needles(found, folder)
    report.line(f"needle.json and needle.png are in {folder}")


def _numbers(flag: str, text: str, kind: type[int] | type[float]) -> list[float]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{flag}={text!r} must be {what} with commas between, as 0,50") from None

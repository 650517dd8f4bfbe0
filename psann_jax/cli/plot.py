"""plot: curves of runs in one picture, a table of what they came to, and its figures as JSON."""

import argparse
from pathlib import Path

from psann_jax.cli.exits import exit_code
from psann_jax.fields import local_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's workdir")
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="where to write (default: RUN/report, of a single RUN)",
    )
    parser.add_argument(
        "--x", choices=("step", "tokens", "seconds"), default="tokens", help="(default: tokens)"
    )


def main(args: argparse.Namespace) -> int:
    return exit_code(lambda: _plot(args))


def _plot(args: argparse.Namespace) -> None:
    from psann_jax.run.plot import write_report

    if not args.out and args.runs[1:]:
        raise ValueError("--out is missing; name the folder for what several runs came to")
    folder = local_path("--out", args.out or Path(args.runs[0]) / "report").expanduser()
    print(write_report(args.runs, folder, args.x))
    print(f"curves.png, curves.csv, report.md and the figures of each run are in {folder}")

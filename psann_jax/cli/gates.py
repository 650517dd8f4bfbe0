"""gates: check a run, or a preset trained for it, step by step; exits with 1 where one fails."""

import argparse

from psann_jax.cli.exits import exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="RUN|PRESET", help="a run's workdir, or a preset as 5M, GF")
    parser.add_argument("--text", nargs="+", default=(), metavar="FILE", help="text to use instead")
    parser.add_argument("--steps", type=int, default=1000, help="a preset's steps (default 1000)")
    parser.add_argument("--out", metavar="FILE", help="JSON (default gates.json in the workdir)")


def main(args: argparse.Namespace) -> int:
    failed = []
    return exit_code(lambda: failed.extend(_check(args))) or int(bool(failed))


def _check(args: argparse.Namespace) -> list:
    from pathlib import Path

    from psann_jax.evals.gates import FAIL
    from psann_jax.run.environment import set_up
    from psann_jax.run.gates import JSON, check, write
    from psann_jax.run.report import Report

    set_up()
    found = check(args.name, Report(), sources=tuple(args.text), steps=args.steps)
    for gate in found:
        print(f"{gate.name:15} {gate.status:8} {gate.said}")
    out = args.out or (Path(args.name) / JSON if Path(args.name).is_dir() else JSON)
    write(found, out)
    print(f"{out} has the figures")
    return [gate for gate in found if gate.status == FAIL]

"""config: print a config file's fields, or the JSON that a run would save."""

import argparse

from psann_jax.cli.exits import exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON instead of flags")
    parser.add_argument("--config", required=True, metavar="FILE[:PRESET]")


def main(args: argparse.Namespace, rest: list[str]) -> int:
    return exit_code(lambda: _show(args, rest))


def _show(args: argparse.Namespace, rest: list[str]) -> None:
    from psann_jax.cli.flags import field_table, load_config
    from psann_jax.config import to_json

    config = load_config([f"--config={args.config}", *rest])
    print(to_json(config).rstrip() if args.json else field_table(config))

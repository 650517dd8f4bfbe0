"""dry-run: what a config would need on its mesh, in bytes and operations; nothing is allocated."""

import argparse

from psann_jax.cli.exits import exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE[:PRESET]")
    parser.add_argument("--devices", type=int, help="default: the product of the mesh's sizes")
    parser.add_argument("--memory", type=float, metavar="GB", help="of a device: what fits in it?")
    parser.add_argument(
        "--compile", action="store_true", help="ask XLA for the peak; needs that many devices"
    )
    parser.epilog = "--config.FIELD=VALUE changes a field, as --config.mesh.fsdp=64."


def main(args: argparse.Namespace, rest: list[str]) -> int:
    return exit_code(lambda: _show(args, rest))


def _show(args: argparse.Namespace, rest: list[str]) -> None:
    from psann_jax.cli.flags import load_config
    from psann_jax.run.dry_run import compiled_bytes, estimate

    if args.devices is not None and args.devices < 1:
        raise ValueError(f"--devices={args.devices} must be at least 1")
    if args.memory is not None and not args.memory > 0:
        raise ValueError(f"--memory={args.memory:g} must be more than 0 GB")
    config = load_config([f"--config={args.config}", *rest])
    print(estimate(config, args.devices).table(args.memory))
    if args.compile:
        print(f"  peak, of XLA      {compiled_bytes(config, args.devices) / 1e9:9.3f} GB")

"""export: write a model as a file of psannlm (PyTorch), without torch: .pt or .safetensors."""

import argparse
from pathlib import Path
import sys

from psann_jax.cli.exits import exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="WORKDIR", help="a run's workdir, or a saved model folder")
    parser.add_argument("out", metavar="FILE", help="OUT.pt, or OUT.safetensors for weights alone")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument("--no-tokenizer", action="store_true", help="leave the tokenizer out")
    parser.add_argument("--step", default="best", help="best (default), newest or a step number")


def main(args: argparse.Namespace) -> int:
    return exit_code(lambda: _export(args))


def _export(args: argparse.Namespace) -> None:
    from psann_jax.interop.export import check_ending, export
    from psann_jax.interop.psannlm_canonical import differences

    out = Path(args.out)
    check_ending(out)
    if out.is_dir() or (out.exists() and not args.force):
        raise ValueError(f"{out} is there; give a new name, or --force to replace a file")
    from psann_jax.run.environment import set_up
    from psann_jax.run.load import load_saved

    set_up()
    saved = load_saved(args.path, args.step)
    if args.no_tokenizer:
        saved = saved._replace(tokenizer=None)
    export(out, saved)
    for note in differences(saved.base):
        print(f"note: {note}", file=sys.stderr)
    if out.suffix == ".safetensors" and saved.tokenizer:
        print(f"note: {out} has no tokenizer in it; a .pt file would", file=sys.stderr)
    print(out)

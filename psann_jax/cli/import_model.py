"""import: read a model file of psannlm (PyTorch), without torch, and save it as a folder here."""

import argparse
from pathlib import Path
import sys
import tempfile
from typing import TYPE_CHECKING

from psann_jax.cli.exits import exit_code

if TYPE_CHECKING:
    from psann_jax.interop.folder import SavedModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="model.pt, or a checkpoint of its trainer")
    parser.add_argument("out", metavar="FOLDER", help="the folder to write")
    parser.add_argument("--force", action="store_true", help="replace a model that is there")
    parser.add_argument("--tokenizer", metavar="FILE", help="in place of the file's own")
    parser.add_argument("--max-length", type=int, metavar="N", help="longest row in training")
    parser.add_argument("--dtype", default="float32", help="of activations, or bfloat16")


def main(args: argparse.Namespace) -> int:
    return exit_code(lambda: _import(args))


def _import(args: argparse.Namespace) -> None:
    out = Path(args.out).resolve()
    _check_place(out, args.force)
    if args.max_length is not None and args.max_length < 1:
        raise ValueError(f"--max-length={args.max_length} must be at least 1")
    from psann_jax.data import load_tokenizer
    from psann_jax.interop.checkpoint import load_checkpoint
    from psann_jax.interop.folder import check_vocabulary
    from psann_jax.model import parameter_count
    from psann_jax.run.environment import set_up

    set_up()
    saved = load_checkpoint(args.file, args.dtype)
    if args.tokenizer:
        saved = saved._replace(tokenizer=load_tokenizer(args.tokenizer))
        check_vocabulary(saved.base, saved.tokenizer)
    if args.max_length:
        saved = saved._replace(max_length=args.max_length)
    _save(out, saved)
    for note in saved.notes:
        print(f"note: {note}", file=sys.stderr)
    if saved.tokenizer is None:
        print("note: it has no tokenizer; to generate, give one by --tokenizer", file=sys.stderr)
    print(f"{type(saved.base).__name__}, {parameter_count(saved.model):,} parameters: {args.out}")


def _check_place(out: Path, force: bool) -> None:
    from psann_jax.interop.folder import CONFIG, TOKENIZER, WEIGHTS, is_model_folder

    if out == Path.cwd():
        raise ValueError(f"{out} is the current folder, which cannot be replaced; name one in it")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_model_folder(out):
        raise ValueError(f"{out} is there and is no saved model; give a new folder")
    if not force:
        raise ValueError(f"{out} is there; give a new folder, or --force to replace the model")
    if others := sorted({p.name for p in out.iterdir()} - {CONFIG, WEIGHTS, TOKENIZER}):
        raise ValueError(
            f"{out} holds {others[0]} besides a model; move it away, or give a new folder"
        )


def _save(out: Path, saved: "SavedModel") -> None:
    """The whole folder, or nothing: written beside its place, then moved there."""
    from psann_jax.interop.folder import save_folder

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        save_folder(new, saved)
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise

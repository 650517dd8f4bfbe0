"""tokenizer: fit one on text and save it, or show how one cuts a text."""

import argparse
import sys

from psann_jax.cli.exits import exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True)
    fit = verbs.add_parser("fit", help="fit a tokenizer on files and save it")
    fit.add_argument("out", help="the file to write")
    fit.add_argument("sources", nargs="*", help="files, folders, globs; none: the embedded text")
    fit.add_argument(
        "--kind", default="auto", help="auto, sentencepiece, hf, char or groundthink-char"
    )
    fit.add_argument("--vocab-size", type=int, default=32_000)
    show = verbs.add_parser("show", help="the pieces of a text")
    show.add_argument("model", help="a tokenizer file, as a run's tokenizer.model")
    show.add_argument("text")


def main(args: argparse.Namespace) -> int:
    return exit_code(lambda: {"fit": _fit, "show": _show}[args.action](args))


def _fit(args: argparse.Namespace) -> None:
    from psann_jax.data import DataConfig, prepare

    config = DataConfig(
        sources=tuple(args.sources),
        tokenizer=args.kind,
        vocab_size=args.vocab_size,
        val_split=0.0,  # all of the text is read
    )
    tokenizer = prepare(config).tokenizer
    tokenizer.save(args.out)
    print(f"{tokenizer.kind}, {tokenizer.vocab_size} pieces: {args.out}", file=sys.stderr)


def _show(args: argparse.Namespace) -> None:
    from psann_jax.data import load_tokenizer

    tokenizer = load_tokenizer(args.model)
    for token in tokenizer.encode(args.text):
        print(f"{token}\t{tokenizer.decode([token])!r}")

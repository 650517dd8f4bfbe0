"""The verbs of `python -m psann_jax`; each is one file of this package."""

import argparse
from typing import Any

from psann_jax.cli import (
    config,
    dry_run,
    eval,
    export,
    gates,
    generate,
    import_model,
    inspect,
    needle,
    plot,
    sweep,
    tokenizer,
    train,
    user_file,
)
from psann_jax.cli.exits import DONE, exit_code

_VERBS: dict[str, Any] = {
    "generate": generate,
    "eval": eval,
    "needle": needle,
    "inspect": inspect,
    "plot": plot,
    "sweep": sweep,
    "gates": gates,
    "tokenizer": tokenizer,
    "import": import_model,
    "export": export,
    "config": config,
    "dry-run": dry_run,
}
_WITH_CONFIG_FLAGS = ("config", "dry-run")
_WITH_TEXTS = ("generate", "tokenizer")


def main(argv: list[str]) -> int:
    """Runs a verb, after the files that register bases; returns the process's exit code."""
    files, argv = _files_to_import(argv)
    if (code := exit_code(lambda: user_file.import_files(files))) != DONE:
        return code
    if argv[:1] == ["train"]:  # its flags are the config's, read by ml_collections
        return train.main(argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m psann_jax",
        description="Sine-activated language models: train, generate, evaluate, inspect.",
        allow_abbrev=False,
    )
    parser.add_argument(  # for --help; those before the verb are taken by now
        "--import", metavar="FILE", help="run a Python file first, which registers a base"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("train", help=_summary(train.__doc__), add_help=False)
    for name, module in _VERBS.items():
        summary = _summary(module.__doc__)
        module.add_arguments(verbs.add_parser(name, help=summary, description=summary))
    args, rest = parser.parse_known_args(argv)
    args.imports = files
    if args.verb in _WITH_CONFIG_FLAGS:
        return _VERBS[args.verb].main(args, rest)
    if rest:
        late = "; texts and files stand before the flags"
        if rest[0].startswith("-"):
            late = "; a text that begins with - stands last, after --" * (args.verb in _WITH_TEXTS)
        parser.error(f"unknown argument {rest[0]!r}{late}")
    return _VERBS[args.verb].main(args)


def _files_to_import(argv: list[str]) -> tuple[list[str], list[str]]:
    """Values of --import FILE and --import=FILE before the verb, and what follows them."""
    files = []
    while argv:
        first, *rest = argv
        if first == "--import" and rest:
            rest, file = rest[1:], rest[0]
        elif first.startswith("--import="):
            file = first.partition("=")[2]
        else:
            break
        files.append(file)
        argv = rest
    return files, argv


def _summary(docstring: str | None) -> str:
    return (docstring or "").split(":", 1)[-1].strip()

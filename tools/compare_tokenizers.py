"""Tokenizers beside each other on one text: `python tools/compare_tokenizers.py --text FILE`.

Each backend, and each size of its vocabulary, is fitted once on the first part of the text, and
encodes the next, in turns. The two BPE backends encode on all cores, the characters on one.
metrics.json and table.md go to --out. Which of them a model learns most with, in bits per byte, is
the question of experiments/tokenizers.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
import itertools
import json
from pathlib import Path
import sys
import tempfile
import time
from typing import Any

from timing import machine, summary, take_turns, timed

from psann_jax.data import DataConfig, fit_tokenizer
from psann_jax.data.source import filled, open_source
from psann_jax.data.text import pieces, utf8

KINDS = ("sentencepiece", "hf", "char", "groundthink-char")
SIZED = ("sentencepiece", "hf")  # those that heed a vocabulary's size beyond their characters
PACKAGES = ("sentencepiece", "tokenizers")
CUT = 10_000  # characters of a text that a tokenizer is given
COLUMNS = {
    "vocab_size": ("vocabulary", ","),
    "fit_seconds": ("fit s", ".2f"),
    "encode_seconds": ("encode s", ".3f"),
    "megabytes_per_s": ("MB/s", ".1f"),
    "tokens_per_s": ("tokens/s", ",.0f"),
    "chars_per_token": ("characters a token", ".3f"),
    "tokens_per_char": ("tokens a character", ".3f"),
    "model_bytes": ("model bytes", ","),
    "exact_share": ("come back exactly", ".1%"),
}


def parts(source: str | None, *sizes: float) -> list[list[str]]:
    """Consecutive parts of a text, of so many megabytes, in pieces of CUT characters.

    Raises:
      ValueError: the text is shorter, or cannot be read.
    """
    config = DataConfig(sources=(source,) if source else ())
    documents = (d.text for d in filled(open_source(config)))
    stream = itertools.chain.from_iterable(pieces(text, CUT) for text in documents)
    return [_taken(stream, size) for size in sizes]


def _taken(stream: Iterator[str], megabytes: float) -> list[str]:
    taken, left = [], megabytes * 1e6
    for piece in stream:
        taken.append(piece)
        left -= len(utf8(piece))
        if left <= 0:
            return taken
    raise ValueError(f"the text ends {left / 1e6:.1f} MB short of the sizes asked for; lower them")


def compared(fit_on: list[str], encoded: list[str], sizes: list[int], n: int) -> dict[str, Any]:
    """Name -> figures of each tokenizer; encoding takes turns, n rounds."""
    rows, runs = {}, {}
    for kind in KINDS:
        fit_tokenizer(kind, fit_on[:1], sizes[0])  # imports its library
        for size in sizes if kind in SIZED else sizes[-1:]:
            start = time.perf_counter()
            tokenizer = fit_tokenizer(kind, fit_on, size)
            seconds = time.perf_counter() - start
            name = f"{kind}-{size}" if kind in SIZED else kind
            rows[name] = {
                "kind": kind,
                "vocab_size": tokenizer.vocab_size,
                "fit_seconds": seconds,
                **_read(tokenizer, encoded),
            }
            runs[name] = timed(partial(tokenizer.encode_batch, encoded))
    n_bytes = sum(len(utf8(text)) for text in encoded)
    for name, seconds in take_turns(runs, n, warmup=1).items():
        taken = summary(seconds, rows[name]["tokens"])
        rows[name] |= {
            "encode_seconds": taken["median_s"],
            "encode_p10": taken["p10_s"],
            "encode_p90": taken["p90_s"],
            "tokens_per_s": taken["tokens_per_s"],
            "megabytes_per_s": n_bytes / 1e6 / taken["median_s"],
        }
    return rows


def _read(tokenizer: Any, texts: list[str]) -> dict[str, float]:
    """How a tokenizer writes the texts, and whether it reads them back."""
    ids = tokenizer.encode_batch(texts)
    n_tokens, n_characters = sum(map(len, ids)), sum(map(len, texts))
    exact = sum(
        tokenizer.decode(i, errors="surrogateescape") == text
        for i, text in zip(ids, texts, strict=True)
    )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / "model")
        size = (Path(folder) / "model").stat().st_size
    return {
        "tokens": n_tokens,
        "chars_per_token": n_characters / n_tokens,
        "tokens_per_char": n_tokens / n_characters,
        "model_bytes": size,
        "exact_share": exact / len(texts),
    }


def table(rows: dict[str, Any]) -> str:
    heading = " | ".join(title for title, _ in COLUMNS.values())
    lines = [f"| tokenizer | {heading} |", "|---|" + "---:|" * len(COLUMNS)]
    for name, row in rows.items():
        cells = (format(row[key], form) for key, (_, form) in COLUMNS.items())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _sizes(text: str) -> list[int]:
    """Sizes of vocabularies, as DataConfig takes them."""
    try:
        sizes = [int(size) for size in text.split(",")]
    except ValueError:
        raise ValueError(f"--vocab-sizes={text!r} must be numbers, as 512,2048") from None
    return [DataConfig(vocab_size=size).vocab_size for size in sizes]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", help="what to read (default: the text of this Python)")
    parser.add_argument("--fit-megabytes", type=float, default=10.0)
    parser.add_argument("--megabytes", type=float, default=5.0, help="of the text to encode")
    parser.add_argument("--vocab-sizes", default="512,2048,8192")
    parser.add_argument("--n", type=int, default=5, help="timed rounds")
    parser.add_argument("--out", type=Path, default=Path("reports/tokenizers"))
    args = parser.parse_args(argv)
    try:
        if args.n < 1:
            raise ValueError(f"--n={args.n} must be at least 1")
        args.out.mkdir(parents=True, exist_ok=True)
        sizes = _sizes(args.vocab_sizes)
        fit_on, encoded = parts(args.text, args.fit_megabytes, args.megabytes)
        rows = compared(fit_on, encoded, sizes, args.n)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record = {
        **machine(),
        "packages": {name: version(name) for name in PACKAGES},
        "fit_megabytes": args.fit_megabytes,
        "megabytes": args.megabytes,
        "n": args.n,
        "tokenizers": rows,
    }
    (args.out / "metrics.json").write_text(json.dumps(record, indent=1) + "\n")
    (args.out / "table.md").write_text(table(rows) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The host's side: rows of tokens onto the device, and text to tokens."""

import argparse
from functools import partial
import tempfile
from typing import Any

from benchmark import DTYPE, WINDOW, Benchmark, By
import jax
from model_sizes import OVERRIDES, base_of, sizes_of
from timing import ratio, summary, take_turns, timed
from trainer import Trainer

from psann_jax.data import Corpus, DataConfig, batches, fit_tokenizer, prepare
from psann_jax.data.files import embedded
from psann_jax.train.feed import on_mesh

CUT = 10_000  # characters of a text that a tokenizer is given


def text_of(megabytes: float) -> str:
    """So much of the text that every Python carries, about 12 MB; never repeated.

    Raises:
      ValueError: there is less.
    """
    wanted, parts = int(megabytes * 1e6), []
    for path in embedded():
        if wanted <= 0:
            break
        parts.append(path.read_text("utf-8", "replace")[:wanted])
        wanted -= len(parts[-1])
    if wanted > 0:
        have = sum(map(len, parts)) / 1e6
        raise ValueError(f"megabytes={megabytes} is more than the {have:.1f} that this Python has")
    return "".join(parts)


def pipeline(args: argparse.Namespace) -> dict[str, Any]:
    """Shuffled rows read ahead and put on the device; steps that wait for them, and that do not."""
    with tempfile.TemporaryDirectory() as cache:
        config = DataConfig(
            tokenizer="char", max_length=sizes_of(args).length, val_split=0.0, cache_dir=cache
        )
        corpus = prepare(config, [text_of(args.megabytes)], progress=False)
        return _fed(args, corpus)


def _fed(args: argparse.Namespace, corpus: Corpus) -> dict[str, Any]:
    sizes = sizes_of(args)._replace(vocab_size=corpus.tokenizer.vocab_size)
    base = base_of("respsann", sizes, args.dtype)
    trainer = Trainer(base, corpus.train.batch(range(sizes.batch)))
    opened = partial(batches, corpus.train, batch_rows=sizes.batch, seed=0)
    stream = opened()

    def rows() -> None:
        for _ in opened(stop_step=args.rows_batches):
            pass

    def placed() -> list[jax.Array]:
        return [on_mesh(b, trainer.mesh, 1).inputs for b in opened(stop_step=args.rows_batches)]

    def fed() -> jax.Array:
        trainer.batch = on_mesh(next(stream), trainer.mesh, 1)
        return trainer.step()

    steps = {
        "step alone": trainer.variant(args.window),
        "step with rows": timed(fed, args.window),
    }
    reads = {"rows": timed(rows), "rows on the device": timed(placed)}
    seconds = take_turns(reads | steps, args.n, args.warmup)
    stream.close()
    tokens = sizes.batch * sizes.length
    results = {n: summary(seconds[n], tokens * args.rows_batches) for n in reads}
    results |= {n: summary(seconds[n], tokens) for n in steps}
    alone, with_rows = (results[name]["median_s"] for name in steps)
    return {"results": results, "stall_share": with_rows / alone - 1}


def tokenizers(args: argparse.Namespace) -> dict[str, Any]:
    """Encoding text by each backend, and by the library `tokenizers` itself with hf's merges."""
    text = text_of(args.megabytes)
    texts = [text[i : i + CUT] for i in range(0, len(text), CUT)]
    size = len(text.encode())
    variants, counts = {}, {}
    for kind in args.kinds:
        tokenizer = fit_tokenizer(kind, texts[:: max(1, len(texts) // 200)], args.vocab_size)
        variants[kind] = timed(partial(tokenizer.encode_batch, texts))
        counts[kind] = sum(map(len, tokenizer.encode_batch(texts)))
        if kind == "hf":
            library: Any = tokenizer
            encode = partial(library._model.encode_batch_fast, texts, add_special_tokens=False)
            variants["tokenizers itself"] = timed(encode)
            counts["tokenizers itself"] = counts["hf"]
    seconds = take_turns(variants, args.n, args.warmup)
    results = {name: summary(s, counts[name]) for name, s in seconds.items()}
    for row in results.values():
        row["megabytes_per_s"] = size / 1e6 / row["median_s"]
    own = "tokenizers itself"
    kinds = [kind for kind in args.kinds if own in seconds]
    ratios = {f"ratio {own} / {kind}": ratio(seconds[own], seconds[kind]) for kind in kinds}
    return {"results": results, "bytes": size, **ratios}


BENCHMARKS = {
    "B11": Benchmark(
        pipeline,
        {
            **OVERRIDES,
            **DTYPE,
            **WINDOW,
            "config": By("tiny", "d128", "S"),
            "n": By(2, 7, 10),
            "megabytes": By(0.05, 4.0, 10.0),  # of text
            "rows_batches": By(2, 50, 50),  # read in a timed run
        },
    ),
    "B12": Benchmark(
        tokenizers,
        {
            "n": By(2, 5, 5),
            "megabytes": By(0.05, 4.0, 10.0),
            "vocab_size": By(300, 8192, 32_000),
            "kinds": ("sentencepiece", "hf", "char"),
        },
    ),
}

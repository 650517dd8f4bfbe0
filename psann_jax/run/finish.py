"""After the last step: samples, the curve, and n-gram models to compare with."""

from collections.abc import Sequence
from typing import Any

from psann_jax.data import Corpus, Tokenizer
from psann_jax.evals.ngram import ngram_bits_per_byte
from psann_jax.infer.decode import generate
from psann_jax.infer.sampling import Sampling
from psann_jax.model import LM

SAMPLES = 3
_PROMPT_TOKENS = 12


def sampled_continuations(model: LM, corpus: Corpus, n_tokens: int, seed: int) -> list[str]:
    """Beginnings of held-out documents (or of training ones), each continued by the model."""
    rows = corpus.val or corpus.train
    tokens = rows.batch(range(min(SAMPLES, len(rows)))).inputs
    prompts = [_beginning(row, corpus.tokenizer) for row in tokens]
    sampling = Sampling(temperature=0.8, top_p=0.95, seed=seed)
    new = generate(
        model,
        prompts,
        max_new_tokens=n_tokens,
        sampling=sampling,
        eos_id=corpus.tokenizer.eos_id,
    )
    decode = corpus.tokenizer.decode
    return [f"{decode(p)}▸{decode(n)}" for p, n in zip(prompts, new, strict=True)]


def _beginning(row: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """BOS and the first tokens of the first document that begins in a row."""
    row = [int(t) for t in row]
    start = row.index(tokenizer.bos_id) if tokenizer.bos_id in row[1:-_PROMPT_TOKENS] else 0
    document = row[start : start + _PROMPT_TOKENS]
    if tokenizer.eos_id in document[1:]:
        document = document[: document.index(tokenizer.eos_id, 1)]
    return document


def comparison(corpus: Corpus, ours: float) -> dict[str, Any]:
    """Validation bits per byte of n-gram models on the same tokens, and of the model."""
    meta = corpus.meta.val
    ngrams = ngram_bits_per_byte(corpus.train, corpus.val, corpus.tokenizer.vocab_size, meta.bytes)
    return {**ngrams, "model": ours}

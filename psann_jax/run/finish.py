"""After the last step: samples, the curve, and n-gram models to compare with."""

from collections.abc import Sequence

import jax

from psann_jax.config import Config
from psann_jax.data import Corpus, Tokenizer
from psann_jax.evals.ngram import ngram_bits_per_byte
from psann_jax.infer.decode import generate
from psann_jax.infer.sampling import Sampling
from psann_jax.model import LM
from psann_jax.run.curve import plot_losses
from psann_jax.run.plan import Plan
from psann_jax.run.report import Report
from psann_jax.run.train import Outcome
from psann_jax.run.validation import held_out
from psann_jax.run.workdir import Workdir
from psann_jax.train.metrics import read_metrics

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
        never=corpus.tokenizer.silent_ids,
        n_tokens=corpus.tokenizer.vocab_size,
    )
    decode, decode_after = corpus.tokenizer.decode, corpus.tokenizer.decode_after
    return [f"{decode(p)}▸{decode_after(p, n)}" for p, n in zip(prompts, new, strict=True)]


def _beginning(row: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """BOS and the first tokens of the first document that begins in a row."""
    row = [int(t) for t in row]
    start = row.index(tokenizer.bos_id) if tokenizer.bos_id in row[1:-_PROMPT_TOKENS] else 0
    document = row[start : start + _PROMPT_TOKENS]
    if tokenizer.eos_id in document[1:]:
        document = document[: document.index(tokenizer.eos_id, 1)]
    return document


def finish(
    config: Config,
    corpus: Corpus,
    plan: Plan,
    outcome: Outcome,
    workdir: Workdir,
    report: Report,
) -> None:
    """Writes samples and curve, and says how good the model is. Every process takes part."""
    texts = []
    if config.train.sample_tokens:
        texts = sampled_continuations(
            outcome.model, corpus, config.train.sample_tokens, config.train.seed
        )
    if jax.process_index() != 0:
        return
    rows = read_metrics(workdir.metrics)
    plot_losses(rows, workdir.curve)
    samples = "\n\n".join(f"--- sample {i}\n{text}" for i, text in enumerate(texts, 1))
    if texts:
        workdir.samples.write_text(samples + "\n", errors="replace")
        report.line(samples)
    validated = [r for r in rows if "val_bits_per_byte" in r]
    if validated and (val := held_out(config, corpus, plan)):
        baselines = {}
        if config.train.ngram_baselines:
            size = corpus.tokenizer.vocab_size
            baselines = ngram_bits_per_byte(corpus.train, val.rows, size, val.n_bytes)
        compared = {**baselines, "this model": validated[-1]["val_bits_per_byte"]}
        said = ", ".join(f"{name} {value:.3f}" for name, value in compared.items())
        report.line(f"validation bits per byte: {said}")
    report.line(f"loss curve {workdir.curve}, checkpoints {workdir.checkpoints}")

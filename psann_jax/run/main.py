"""From a config to a finished run in its workdir: what `train` and `main` call."""

import dataclasses
import logging

from psann_jax import cluster, sharding
from psann_jax.config import Config, checked
from psann_jax.data import Corpus, prepare
from psann_jax.data.backends import of_characters
from psann_jax.data.corpus import asked_vocab_size
from psann_jax.run.finish import finish
from psann_jax.run.going_on import check_length
from psann_jax.run.plan import make_plan, refuse_smaller_vocabulary, with_vocabulary
from psann_jax.run.report import Report
from psann_jax.run.stop import machine_failures
from psann_jax.run.tensorboard import refuse_missing
from psann_jax.run.train import Outcome, train
from psann_jax.run.workdir import Workdir


def run(config: Config, report: Report | None = None) -> Outcome:
    """Runs a config to its end, from its newest checkpoint on where there is one.

    Raises:
      ValueError: one line on what in the config or the data cannot be used.
      Preempted: a signal stopped the run; what was done is saved.
      MachineFailed: a file could not be written, for instance; what was saved is whole.
    """
    report = report or Report()
    config, workdir = checked(config), Workdir(config.workdir)

    def refuse() -> None:
        workdir.refuse(config)
        if config.train.tensorboard:
            refuse_missing()
        sharding.make_mesh(**dataclasses.asdict(config.mesh))  # before the data takes time

    with machine_failures():
        cluster.together(refuse)
    cluster.together(lambda: refuse_smaller_vocabulary(config, asked_vocab_size(config.data)))
    corpus = _corpus(config, report)
    config = with_vocabulary(config, corpus.tokenizer.vocab_size)
    plan = make_plan(config, corpus)
    check_length(workdir, config, corpus, plan, report)
    _say_what_is_read(corpus, report)
    report.line(plan.describe(config))
    with machine_failures(), workdir.held():
        workdir.open(config, corpus)
        outcome = train(config, corpus, plan, report=report, workdir=workdir)
        cluster.together(lambda: finish(config, corpus, plan, outcome, workdir, report))
    return outcome


def _corpus(config: Config, report: Report) -> Corpus:
    _show_data_log(report)
    corpus = cluster.one_then_others(lambda: prepare(config.data, progress=not report.quiet))
    meta, asked = corpus.meta, config.data
    fits_text = of_characters(meta.tokenizer) or asked.tokenizer_path
    if not fits_text and meta.vocab_size < asked.vocab_size:
        raise ValueError(
            f"data.vocab_size={asked.vocab_size} is too large for this corpus, which yields "
            f"{meta.vocab_size}; set data.vocab_size={meta.vocab_size} or add text"
        )
    if asked.pack_sequences and meta.train.tokens < asked.max_length:
        raise ValueError(
            f"the training text has {meta.train.tokens} tokens, fewer than one row of "
            f"data.max_length={asked.max_length}; add text or lower data.max_length"
        )
    return corpus


def _say_what_is_read(corpus: Corpus, report: Report) -> None:
    meta = corpus.meta
    val = f"{meta.val.documents:,} for validation" if meta.val else "no validation"
    report.line(
        f"{meta.train.documents:,} documents, {meta.train.tokens:,} tokens "
        f"({meta.train.bytes / max(1, meta.train.tokens):.2f} bytes each), {val}; "
        f"tokenizer {meta.tokenizer}, {meta.vocab_size:,} pieces"
    )


def _show_data_log(report: Report) -> None:
    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            report.line(record.getMessage())

    log = logging.getLogger("psann_jax")
    log.handlers[:] = [Lines()]
    log.propagate = False
    log.setLevel(logging.INFO)

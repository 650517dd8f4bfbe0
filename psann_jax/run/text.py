"""The rows that a run or a saved model is measured on."""

import dataclasses

from psann_jax.data import Corpus, DataConfig, Rows, Tokenizer, prepare
from psann_jax.run.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Text:
    """Rows to measure on, and what they are, in words."""

    rows: Rows
    name: str


def corpus_of_run(workdir: Workdir, data: DataConfig) -> Corpus:
    """The rows of a run of `data`, without validation rows where those were given apart.

    Its tokenizer may have been given to it, and is then another than a fit to its text.

    Raises:
      ValueError: its texts cannot be read, or have changed.
    """
    corpus = _own_rows(workdir, data)
    if not workdir.changed_data(corpus.meta):
        return corpus
    corpus = _own_rows(workdir, dataclasses.replace(data, tokenizer_path=str(workdir.tokenizer)))
    workdir.refuse_other_data(corpus.meta)
    return corpus


def _own_rows(workdir: Workdir, data: DataConfig) -> Corpus:
    corpus = prepare(data)
    if not workdir.validated_apart():
        return corpus
    return dataclasses.replace(corpus, val=None, meta=dataclasses.replace(corpus.meta, val=None))


def rows_of_run(workdir: Workdir, data: DataConfig) -> Text:
    """The validation rows of a run, its training rows if it has none or they were given apart.

    Raises:
      ValueError: its texts were in memory, cannot be read, or have changed.
    """
    if workdir.texts_in_memory():
        raise ValueError(f"{workdir.path} was trained on texts in memory")
    corpus = corpus_of_run(workdir, data)
    if corpus.val is None:
        apart = workdir.validated_apart()
        why = "the validation text was given apart" if apart else "there is no validation text"
        return Text(corpus.train, f"training text, since {why}")
    return Text(corpus.val, "validation text")


def given_rows(data: DataConfig, tokenizer: Tokenizer, files: tuple[str, ...]) -> Text:
    """Rows of files, or of the embedded text, in the model's own tokens."""
    data = dataclasses.replace(data, sources=files, val_split=0.0, tokenizer_path=None)
    rows = prepare(data, tokenizer=tokenizer).train
    return Text(rows, ", ".join(files) or "the embedded text")

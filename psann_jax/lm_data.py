"""psannLMDataPrep: texts or files as rows of tokens, for psannLM.fit."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import os
from pathlib import Path
from typing import Any
import warnings

from psann_jax.data import Corpus, DataConfig, Rows, Tokenizer, load_tokenizer, prepare
from psann_jax.lm_options import refuse_unknown

_TOKENIZERS = {"tokenizers": "hf", "simple": "char"}  # psannlm's names
_ARGUMENTS = (
    "tokenizer",
    "tokenizer_model_path",
    "tokenizer_special_map_path",
    "vocab_size",
    "max_length",
    "pack_sequences",
    "val_split",
    "split",
    "order",
    "seed",
)


class psannLMDataPrep:  # noqa: N801 - psannlm's name
    """Texts as tokens in rows, with the tokenizer fitted on them.

    Args:
      texts: documents (a list of str), or files to read: a path, or a list of pathlib.Path.
        Each line of a text file that is not blank is a document.
      tokenizer: auto, sentencepiece, tokenizers (or hf), char (or simple), groundthink-char.
      tokenizer_model_path: a tokenizer file to use as it is.
      tokenizer_special_map_path: the special_tokens_map.json of such a file, a tokenizer.json,
        where its end of text is not spelled as usual.
      vocab_size: the most pieces a fitted tokenizer gets; few texts yield fewer.
      max_length: tokens a row.
      pack_sequences: join documents into full rows; False gives each its own.
      val_split: share of the documents held out for validation; None: none.
      split: documents, or tail: the last val_split of the text is held out.
      order: shuffled, or tracks: rows follow each other and states are carried from row to row.
      seed: of the split and the order of rows.

    Raises:
      TypeError: an unknown argument.
      ValueError: no text, an unreadable file, or an argument out of range.
    """

    def __init__(
        self,
        texts: Sequence[str | Path] | str | Path,
        *,
        tokenizer: str = "auto",
        tokenizer_model_path: str | os.PathLike | None = None,
        tokenizer_special_map_path: str | os.PathLike | None = None,
        vocab_size: int = 32_000,
        max_length: int = 1024,
        pack_sequences: bool = True,
        val_split: float | None = None,
        split: str = "documents",
        order: str = "shuffled",
        seed: int = 1337,
        **unknown: Any,
    ):
        refuse_unknown("psannLMDataPrep", unknown, _ARGUMENTS)
        self._texts, sources = _texts_or_sources(texts)
        path, given = tokenizer_model_path, None
        if tokenizer_special_map_path is not None:
            if path is None:
                raise TypeError("tokenizer_special_map_path goes with tokenizer_model_path")
            path, given = None, load_tokenizer(Path(path), tokenizer_special_map_path)
        self.config = DataConfig(
            sources=sources,
            document="line",  # of a file, as psannlm reads it
            tokenizer=_TOKENIZERS.get(tokenizer, tokenizer),
            tokenizer_path=None if path is None else str(path),
            vocab_size=vocab_size,
            max_length=max_length,
            pack_sequences=pack_sequences,
            val_split=val_split or 0.0,
            split=split,
            order=order,
            seed=seed,
        )
        self.corpus = prepare(self.config, self._texts, tokenizer=given)

    def __len__(self) -> int:
        """Number of documents."""
        meta = self.corpus.meta
        return meta.train.documents + (meta.val.documents if meta.val else 0)

    @property
    def vocab_size(self) -> int:
        return self.corpus.tokenizer.vocab_size

    @property
    def tokenizer(self) -> Tokenizer:
        return self.corpus.tokenizer

    @property
    def tokenizer_backend(self) -> str:
        return self.corpus.tokenizer.kind

    @property
    def pad_id(self) -> int:
        return self.corpus.tokenizer.pad_id

    @property
    def dataset(self) -> Rows:
        """The training rows."""
        return self.corpus.train

    @property
    def val_dataset(self) -> Rows | None:
        return self.corpus.val

    @property
    def texts_in_memory(self) -> bool:
        return self._texts is not None

    def with_tokenizer(self, tokenizer: Tokenizer) -> Corpus:
        """These texts in the tokens of another tokenizer; the corpus as it is if it is the same."""
        if tokenizer.to_bytes() == self.tokenizer.to_bytes():
            return self.corpus
        config = dataclasses.replace(self.config, tokenizer_path=None)
        return prepare(config, self._texts, tokenizer=tokenizer)

    def as_validation_of(self, corpus: Corpus) -> Corpus:
        """All of these texts in the tokens and the row length of `corpus`."""
        config = dataclasses.replace(
            self.config, val_split=0.0, max_length=corpus.train.max_length, tokenizer_path=None
        )
        return prepare(config, self._texts, tokenizer=corpus.tokenizer)


def _texts_or_sources(texts: Any) -> tuple[list[str] | None, tuple[str, ...]]:
    if isinstance(texts, (str, os.PathLike)):
        return None, (str(texts),)
    table = isinstance(texts, Mapping) or hasattr(texts, "columns")  # which yields its names
    if table or isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise TypeError(
            f"texts is {type(texts).__name__}; give a list of str, of a table its column of them"
        )
    texts = list(texts)
    if texts and all(isinstance(t, os.PathLike) for t in texts):
        return None, tuple(str(t) for t in texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"texts[{i}] is {type(text).__name__}; texts are str, files are Path")
    # Path.is_file raises on what is too long for a name.
    if texts and all(t.strip() and os.path.isfile(t) for t in texts):  # noqa: PTH113
        warnings.warn(
            "every text is also the name of a file; they are taken as texts. "
            "To read the files give pathlib.Path objects",
            stacklevel=3,
        )
    return texts, ()

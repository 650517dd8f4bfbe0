"""Text in, rows out: fit the tokenizer, split, encode and pack once, then read from the cache."""

from collections.abc import Sequence
import dataclasses
import hashlib
import logging
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from psann_jax.data import backends, cache
from psann_jax.data.config import DataConfig
from psann_jax.data.preparation import Preparation
from psann_jax.data.shards import Rows
from psann_jax.data.source import Source, open_source
from psann_jax.data.tokenizer import Tokenizer
from psann_jax.seq import Batch

_log = logging.getLogger("psann_jax.data")
# Settings that change no token by themselves; what they name has a digest of its own.
_NOT_IN_FINGERPRINT = ("cache_dir", "sources", "tokenizer_path", "order")


class HeldOut(NamedTuple):
    """Rows to validate on."""

    rows: Rows
    n_bytes: int  # UTF-8 bytes of their text, the denominator of bits per byte


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A prepared corpus; `val` is None without a validation part."""

    tokenizer: Tokenizer
    train: Rows
    val: Rows | None
    meta: cache.CorpusMeta

    def held_out(self, n_rows: int = 0) -> HeldOut | None:
        """The first rows of the validation part, if there is one; 0 gives all of them.

        The bytes of a few rows are those of their tokens, with unk as it reads; where the
        vocabulary does not tell them, their share of all bytes by the number of tokens.
        """
        if self.val is None or self.meta.val is None:
            return None
        if not 0 < n_rows < len(self.val):
            return HeldOut(self.val, self.meta.val.bytes)
        rows = self.val.first(n_rows)
        targets = np.concatenate([b.targets[b.weights > 0] for b in rows.in_order()])
        counted = self.tokenizer.count_bytes(targets)
        meta = self.meta.val
        if counted is None:
            counted = round(meta.bytes * len(targets) / max(1, meta.tokens))
        elif self.tokenizer.ends_in_text:  # specials that the text spells have its bytes
            told = sum(self._told_bytes(b) for b in self.val.in_order())
            counted = round(counted * meta.bytes / max(1, told))
        return HeldOut(rows, counted)

    def _told_bytes(self, batch: Batch) -> int:
        return self.tokenizer.count_bytes(batch.targets[batch.weights > 0]) or 0


def prepare(
    config: DataConfig,
    texts: Sequence[str] | None = None,
    *,
    progress: bool = True,
    tokenizer: Tokenizer | None = None,
) -> Corpus:
    """Makes the rows of a corpus, or reads them if they were made before.

    Args:
      config: what to read and how.
      texts: documents in memory, in place of `config.sources`.
      progress: whether to show a bar; only on a terminal.
      tokenizer: used as it is, in place of fitting one.

    Raises:
      ValueError: one line on what is wrong with the config, a source or the cache folder.
    """
    source = open_source(config, texts)
    given = _given_tokenizer(config, tokenizer)
    folder = config.cache_folder / cache.fingerprint(_inputs(config, source, given))
    corpus = _opened(folder)
    if corpus is None:
        with cache.building(folder) as temporary:
            Preparation(config, source, given, progress).run(temporary)
        corpus = _open(folder)
    return corpus


def asked_vocab_size(config: DataConfig) -> int:
    """How many tokens the config alone tells of; 0 where only the text does.

    A given tokenizer's own, else the size that is asked for, of which a small text yields less.

    Raises:
      ValueError: data.tokenizer_path is no tokenizer, or data.tokenizer lacks its package.
    """
    if given := _given_tokenizer(config, None):
        return given.vocab_size
    return 0 if backends.of_characters(config.tokenizer) else config.vocab_size


def _given_tokenizer(config: DataConfig, tokenizer: Tokenizer | None) -> Tokenizer | None:
    if config.tokenizer_path is None:
        return tokenizer
    if tokenizer is not None:
        raise ValueError(
            f"data.tokenizer_path={config.tokenizer_path!r} and a tokenizer are both given; "
            "leave one of them out"
        )
    return backends.load(config.tokenizer_path)


def _inputs(config: DataConfig, source: Source, given: Tokenizer | None) -> dict[str, Any]:
    """All that the rows depend on, as JSON values."""
    settings: dict[str, Any] = dict(dataclasses.asdict(config))
    for name in _NOT_IN_FINGERPRINT:
        del settings[name]
    settings["tokenizer"] = given.kind if given else backends.chosen_kind(config.tokenizer)
    model = hashlib.sha256(given.to_bytes()).hexdigest() if given else None
    if given and given.reads_whole_texts:  # rows of its parts, as once made, may be in the cache
        settings["whole_texts"] = "uncut"
    return {"settings": settings, "source": source.digest(), "model": model}


def _opened(folder: pathlib.Path) -> Corpus | None:
    """The corpus in the folder; None, and no folder, if it was absent or damaged."""
    if not os.path.exists(folder):  # noqa: PTH110 (pathlib raises where a right is missing)
        return None
    try:
        return _open(folder)
    except cache.Unreadable:  # for now: what is there stays
        raise
    except ValueError as error:
        _log.warning("%s; preparing it again", error)
        cache.discard(folder)
        return None


def _open(folder: pathlib.Path) -> Corpus:
    meta = cache.read_meta(folder)
    content = (folder / cache.TOKENIZER_FILE).read_bytes()
    tokenizer = backends.from_bytes(content, str(folder / cache.TOKENIZER_FILE))
    tokenizer.requested_vocab_size = meta.requested_vocab_size

    def rows(split: cache.SplitMeta) -> Rows:
        return Rows(
            [folder / name for name in split.shards],
            split.rows,
            max_length=meta.max_length,
            vocab_size=tokenizer.vocab_size,
            pad_id=tokenizer.pad_id,
            bos_id=tokenizer.bos_id,
        )

    return Corpus(tokenizer, rows(meta.train), rows(meta.val) if meta.val else None, meta)

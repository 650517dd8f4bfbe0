"""Byte-pair encoding by sentencepiece, set up to keep every character of the text."""

import collections
from collections.abc import Iterable, Iterator, Sequence
import io
import os
import re
from typing import Self

import numpy as np
import sentencepiece

from psann_jax.data.text import utf8
from psann_jax.data.tokenizer import (
    BOS,
    EOS,
    PAD,
    REPLACEMENT,
    SPECIALS,
    UNK,
    Ids,
    Tokenizer,
    with_specials,
)

_SPACE = "\u2581"  # stands for a space inside pieces
# Sentences with one of these, or with a lone surrogate, would be dropped from the fit.
_UNFIT = re.compile("[\0\u2581\u2585\ud800-\udfff]+")
# Stands in the model file, so a count that depends on the machine would change its digest.
_FIT_THREADS = 8
_PROBE = "  a\r\n b\t"
_KEEP_TEXT = {
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "byte_fallback": True,
    "allow_whitespace_only_pieces": True,
}


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model: exact on any text if it was fitted here.

    A foreign model keeps its own ids and rules, which may normalise the text; `is_exact` says
    whether they do not.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes):
        self._model = model
        self._processor = _processor(model)
        self._take_specials()
        pieces = [self._processor.id_to_piece(i) for i in range(self.vocab_size)]
        self._byte_ids = _byte_ids(pieces)
        table = with_specials(self, _table(pieces, self._byte_ids))
        ids = self._processor.encode(_PROBE)
        self.is_exact = b"".join(table[i] for i in ids) == _PROBE.encode()
        self._id_bytes = table if self.is_exact else None
        if not self.is_exact:
            self._most_characters = None  # a part would begin with a space of its own
        elif self._byte_ids is not None:
            # The space's stand-in is lost as text, so it goes the way of raw bytes.
            self._escaped = re.compile(f"[\ud800-\udfff{_SPACE}]+")

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Learns pieces, newlines among them, from texts of a few thousand characters each."""
        sentences = [_UNFIT.sub("", text) for text in texts]
        rare = _rare(sentences, (vocab_size - len(SPECIALS) - 256) // 2)
        sentences = [text.translate(rare) for text in sentences] if rare else sentences
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_with_space(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            max_sentence_length=1 << 20,
            num_threads=_FIT_THREADS,
            minloglevel=2,
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
            **_KEEP_TEXT,
        )
        return cls(model.getvalue())

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Reads a .model file."""
        return cls(content)

    @property
    def vocab_size(self) -> int:
        return self._processor.get_piece_size()

    def to_bytes(self) -> bytes:
        return self._model

    def _encode_plain(self, texts: list[str]) -> Sequence[Ids]:
        threads = os.cpu_count() or 1
        return self._processor.encode(texts, out_type=int, num_threads=threads)

    def _decode_foreign(self, ids: list[int]) -> str:
        pieces = [REPLACEMENT if i == self.unk_id else self._processor.id_to_piece(i) for i in ids]
        return self._processor.decode_pieces(pieces)

    def _take_specials(self) -> None:
        eos = self._processor.eos_id()
        if eos < 0:
            raise ValueError("the sentencepiece model has no end-of-sentence id")
        found = [self._processor.pad_id(), self._processor.bos_id(), self._processor.unk_id()]
        self.pad_id, self.bos_id, self.unk_id = (i if i >= 0 else eos for i in found)
        self.eos_id = eos


def _processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except (RuntimeError, OSError) as error:
        raise ValueError(f"sentencepiece cannot read it ({str(error)[:60]}...)") from None
    if not processor.get_piece_size():
        raise ValueError("the sentencepiece model has no pieces")
    return processor


def _byte_ids(pieces: list[str]) -> np.ndarray | None:
    place = {piece: i for i, piece in enumerate(pieces)}
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    if not all(name in place for name in names):
        return None
    return np.array([place[name] for name in names], np.int32)


def _table(pieces: list[str], byte_ids: np.ndarray | None) -> list[bytes]:
    table = [utf8(piece.replace(_SPACE, " ")) for piece in pieces]
    for byte, i in enumerate(byte_ids if byte_ids is not None else ()):
        table[i] = bytes([byte])
    return table


def _rare(sentences: list[str], kept: int) -> dict[int, None]:
    """Characters that would leave no room for pieces; they are coded as bytes instead."""
    counts: collections.Counter[str] = collections.Counter()
    for text in sentences:
        counts.update(text)
    del counts[" "]
    order = sorted(counts, key=lambda c: (-counts[c], c))
    return {ord(c): None for c in order[max(kept - 1, 0) :]}


def _with_space(sentences: list[str]) -> Iterator[str]:
    """The sentences and a space, which must become a piece: its bytes would be its stand-in's."""
    yield " "
    yield from filter(None, sentences)

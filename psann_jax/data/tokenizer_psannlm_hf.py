"""Hugging Face tokenizers as psannlm 2.0.1 uses them: ids moved up by four, specials by number."""

from collections.abc import Mapping, Sequence
import re
from typing import Any, Self, TypeVar

import numpy as np
import tokenizers
from tokenizers import decoders, pre_tokenizers

from psann_jax.data.text import utf8
from psann_jax.data.tokenizer import (
    BOS,
    EOS,
    PAD,
    REPLACEMENT,
    SPECIAL_NAMES,
    SPECIALS,
    Ids,
    with_specials,
)
from psann_jax.data.tokenizer_hf import byte_ids, byte_pieces, read_model, refusals_named
from psann_jax.data.tokenizer_psannlm import PsannlmTokenizer, check_keys
from psann_jax.data.words import Words

T = TypeVar("T")
_BRACKETED = re.compile(r"<.*>|\[.*\]", re.DOTALL)
_MOST_PADDING = 1 << 16  # tokens


class PsannlmHFTokenizer(PsannlmTokenizer):
    """A tokenizer.json, the numbers of its specials, and whether psannlm uses its ids as they are.

    If it does not, the specials have ids 0 to 3 and all others are 4 higher: the vocabulary is 4
    larger than it need be, and some ids stand for nothing. Ids for which psannlm's model has no
    embedding are unk. What the JSON does to every text (a template of specials, truncation,
    padding) is done here too, as it was in training.

    Decoding differs from psannlm's where that loses text. Unk reads U+FFFD. A special that the
    vocabulary lacks has the number of another piece (0 to 3), which is shown. Without a decoder,
    pieces join as the marks in them say, else as `Words` does; psannlm sets a space between any
    two.
    """

    kind = "hf"
    backend = "tokenizers"
    _most_characters = None

    def __init__(self, model: str, passthrough_ids: bool, special_ids: Mapping[str, int]):
        self._json, self._passthrough, self._special_ids = model, passthrough_ids, special_ids
        self._model = _read(model)
        self.truncates = self._model.truncation is not None
        self._size = self._model.get_vocab_size(with_added_tokens=True)
        self._take_specials(_checked(special_ids, self._size))
        pieces = {i: piece for piece, i in self._model.get_vocab(with_added_tokens=True).items()}
        self._pieces = self._by_id(pieces, REPLACEMENT)
        self._words = Words(self._model)
        raw = byte_ids(self._model)
        if raw is not None:
            self._byte_ids = self._renumbered(raw)
            content = self._by_id(byte_pieces(self._model), REPLACEMENT.encode())
            table = [content.get(i, b"") for i in range(self.vocab_size)]
            self._id_bytes = with_specials(self, table)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        check_keys(state, "model", "passthrough_ids", "special_ids")
        model, passthrough = state["model"], state["passthrough_ids"]
        if not isinstance(model, str):
            found = type(model).__name__
            raise ValueError(f"model must be the text of a tokenizer.json, not {found}")
        if not isinstance(passthrough, bool):
            found = type(passthrough).__name__
            raise ValueError(f"passthrough_ids must be True or False, not {found}")
        return cls(model, passthrough, state["special_ids"])

    def to_state(self) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "model": self._json,
            "passthrough_ids": self._passthrough,
            "special_ids": dict(self._special_ids),
        }

    @property
    def vocab_size(self) -> int:
        return self._size + (0 if self._passthrough else len(SPECIALS))

    def _encode_plain(self, texts: list[str]) -> Sequence[Ids]:
        with refusals_named():
            if self._model.padding is None:
                encodings = self._model.encode_batch_fast(texts)
            else:  # a batch would be padded to its longest
                encodings = [self._model.encode(text) for text in texts]
        return [self._renumbered(np.array(encoding.ids, np.int64)) for encoding in encodings]

    def _decode_foreign(self, ids: list[int]) -> str:
        pieces = [self._pieces[i] for i in ids if i in self._pieces]
        decoder = self._model.decoder
        return self._words.join(pieces) if decoder is None else decoder.decode(pieces)

    def _take_specials(self, numbers: list[int]) -> None:
        self._ids = np.arange(self._size, dtype=np.int32)
        self.pad_id, self.bos_id, self.eos_id, _ = numbers
        if not self._passthrough:
            self.pad_id, self.bos_id, self.eos_id = PAD, BOS, EOS
            self._ids += len(SPECIALS)
            for own in reversed(range(len(SPECIAL_NAMES))):  # of equal numbers, the first name's
                self._ids[numbers[own]] = own
        self.unk_id = int(self._ids[numbers[-1]])
        # A special that was not found has psannlm's own number, which is some other piece.
        pieces = {i for own, i in enumerate(numbers) if i == own and self._is_text(i)}
        unknown = {i for own, i in enumerate(numbers[:-1]) if i == own == numbers[-1]}
        self._shown = frozenset(int(self._ids[i]) for i in pieces | unknown)
        self._unk_is_text = numbers[-1] in pieces

    def _is_text(self, number: int) -> bool:
        """Whether the piece is one of text, and no special by its looks."""
        added = self._model.get_added_tokens_decoder().get(number)
        piece = self._model.id_to_token(number)
        return bool(piece) and not (added and added.special) and not _BRACKETED.fullmatch(piece)

    def _renumbered(self, numbers: np.ndarray) -> np.ndarray:
        """psannlm's ids of the library's."""
        known = self._ids[np.minimum(numbers, self._size - 1)]
        return np.where(numbers < self._size, known, np.int32(self.unk_id))

    def _by_id(self, contents: Mapping[int, T], unk: T) -> dict[int, T]:
        """What stands under the library's ids, under psannlm's, with `unk` for the unknown."""
        found = {int(self._ids[i]): c for i, c in contents.items() if i < self._size}
        return found if self._unk_is_text else found | {self.unk_id: unk}


def _checked(special_ids: Mapping[str, int], size: int) -> list[int]:
    """The numbers of pad, bos, eos and unk.

    Raises:
      ValueError: they are not four ids of the vocabulary.
    """
    if not isinstance(special_ids, Mapping) or set(special_ids) != set(SPECIAL_NAMES):
        names = ", ".join(SPECIAL_NAMES)
        raise ValueError(f"special_ids must map {names} to ids, and nothing else")
    for name, number in special_ids.items():
        if type(number) is not int or not 0 <= number < size:
            raise ValueError(
                f"special_ids[{name!r}] must be an int from 0 to {size - 1}, "
                "since the vocabulary has no other ids"
            )
    return [special_ids[name] for name in SPECIAL_NAMES]


def _read(text: str) -> tokenizers.Tokenizer:
    """The library's tokenizer, with the decoder that it needs and without what may hang it."""
    try:
        model = read_model(utf8(text))
    except ValueError as error:
        raise ValueError(f"model: {error}") from None
    padding, truncation = model.padding or {}, model.truncation
    for name in ("length", "pad_to_multiple_of"):
        if (padding.get(name) or 0) > _MOST_PADDING:
            raise ValueError(f"model: its padding has {name}={padding[name]}, over {_MOST_PADDING}")
    if truncation:  # the stride is about what is cut off, and panics if it is too large
        model.enable_truncation(**(truncation | {"stride": 0}))
    if model.decoder is None and (decoder := _implied_decoder(model)):
        model.decoder = decoder
    return model


def _implied_decoder(model: tokenizers.Tokenizer) -> decoders.Decoder | None:
    """What undoes a pre-tokenizer that keeps the spaces, where pieces have no marks for words."""
    marks = ("end_of_word_suffix", "continuing_subword_prefix")
    if any(getattr(model.model, mark, None) for mark in marks):
        return None
    if model.pre_tokenizer is None:
        return decoders.Fuse()
    if isinstance(model.pre_tokenizer, pre_tokenizers.ByteLevel):
        return decoders.ByteLevel()
    if isinstance(model.pre_tokenizer, pre_tokenizers.Metaspace):
        return decoders.Metaspace()
    return None

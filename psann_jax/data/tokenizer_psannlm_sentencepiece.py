"""Sentencepiece models as psannlm 2.0.1 uses them."""

from collections.abc import Mapping
from typing import Any, Self

from psann_jax.data.tokenizer import BOS, EOS, Tokenizer
from psann_jax.data.tokenizer_psannlm import PsannlmTokenizer, check_keys
from psann_jax.data.tokenizer_sentencepiece import SentencePieceTokenizer


class PsannlmSentencePieceTokenizer(PsannlmTokenizer, SentencePieceTokenizer):
    """A sentencepiece model in which a text begins with 1 and ends with 2, whatever these are.

    So psannlm trains with any model. Where 1 or 2 is a piece of text, decoding shows it; psannlm
    drops it, be it every "l" or every space of the text. Newlines are the model's matter: psannlm
    turns them into spaces only in the text that it fits.
    """

    backend = "sentencepiece"

    def __init__(self, model: bytes):
        super().__init__(model)
        # As the library does it alone: the whole text at once, and U+2581 as a space.
        self._escaped = Tokenizer._escaped
        self._most_characters = None

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        check_keys(state, "model")
        model = state["model"]
        if not isinstance(model, bytes) or not model:
            found = "no bytes" if model == b"" else type(model).__name__
            raise ValueError(f"model must be the bytes of a sentencepiece model, not {found}")
        try:
            return cls(model)
        except ValueError as error:
            raise ValueError(f"model: {error}") from None

    def to_state(self) -> dict[str, Any]:
        return {"backend": self.backend, "model": self._model}

    def ordinary(self) -> Tokenizer:
        same_specials = self._processor.bos_id() == BOS and self._processor.eos_id() == EOS
        return SentencePieceTokenizer(self._model) if same_specials and not self.is_exact else self

    def _take_specials(self) -> None:
        if self.vocab_size <= EOS:
            raise ValueError(
                f"{self.vocab_size} pieces are too few: psannlm ends a text with {EOS}"
            )
        pad = self._processor.pad_id()
        self.pad_id, self.bos_id, self.eos_id = (pad if pad >= 0 else EOS), BOS, EOS
        self.unk_id = self._processor.unk_id()
        silent = self._processor.is_control, self._processor.is_unknown, self._processor.is_unused
        self._shown = frozenset(i for i in (BOS, EOS) if not any(f(i) for f in silent))

"""Text of pieces from which a pre-tokenizer has dropped the spaces."""

from collections.abc import Sequence
import itertools

import tokenizers

# No "]" and "[": joined, the pieces of "[ EOS ]" would be psannlm's end of text.
_NO_SPACE_BEFORE = frozenset(".,!?:;)}%")
_NO_SPACE_AFTER = frozenset("({")
_NO_SPACE_AROUND = frozenset(("'", "\u2019", "-", "/"))


class Words:
    """Joins pieces to words by the model's marks, and words by spaces but for punctuation.

    The ids do not say where the spaces were. What is left out here, the pre-tokenizer cuts
    anyway, so the text encodes to the same pieces. Without marks every piece is a word. Then, of
    the places between two pieces of English prose and manuals (BPE of 13,575 pieces), 13% have a
    wrong space or none, and 28% with a space everywhere. Of the 13%, two in five are within words
    that are cut in two, which nothing tells from two words; the rest are quotes and markup.
    """

    def __init__(self, model: tokenizers.Tokenizer):
        self._pre_tokenizer = model.pre_tokenizer
        self._prefix = getattr(model.model, "continuing_subword_prefix", None)
        self._suffix = getattr(model.model, "end_of_word_suffix", None)

    def join(self, pieces: Sequence[str]) -> str:
        words = self._whole(pieces)
        gaps = ["", *(self._gap(left, right) for left, right in itertools.pairwise(words))]
        return "".join(gap + word for gap, word in zip(gaps, words, strict=False))

    def _whole(self, pieces: Sequence[str]) -> list[str]:
        words: list[str] = []
        is_open = False
        for piece in pieces:
            goes_on = bool(self._prefix) and piece.startswith(self._prefix)
            text = piece.removeprefix(self._prefix or "").removesuffix(self._suffix or "")
            if words and (goes_on or is_open):
                words[-1] += text
            else:
                words.append(text)
            is_open = bool(self._suffix) and not piece.endswith(self._suffix)
        return [word for word in words if word]

    def _gap(self, left: str, right: str) -> str:
        near = (
            right[0] in _NO_SPACE_BEFORE
            or left[-1] in _NO_SPACE_AFTER
            or left in _NO_SPACE_AROUND
            or right in _NO_SPACE_AROUND
        )
        return "" if near and self._cuts(left[-1] + right[0]) else " "

    def _cuts(self, pair: str) -> bool:
        cutter = self._pre_tokenizer
        return cutter is not None and len(cutter.pre_tokenize_str(pair)) == 2

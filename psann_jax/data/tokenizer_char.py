"""Characters as tokens, rarer ones as their UTF-8 bytes: needs no package."""

import collections
from collections.abc import Iterable, Sequence
import json
from typing import Self

import numpy as np

from psann_jax.data.tokenizer import SPECIALS, Ids, Tokenizer, with_specials

_FIRST_CHARACTER = len(SPECIALS) + 256
_BYTE_IDS = np.arange(len(SPECIALS), _FIRST_CHARACTER, dtype=np.int32)
CODE_POINTS = 0x110000


class CharTokenizer(Tokenizer):
    """Ids 4 to 259 are the bytes, then the characters from the most frequent on."""

    kind = "char"
    _byte_ids = _BYTE_IDS

    def __init__(self, characters: str):
        self._characters = characters
        known = [character.encode() for character in characters]
        self._id_bytes = with_specials(self, [b""] * 4 + [bytes([b]) for b in range(256)] + known)
        self._ids = np.full((CODE_POINTS,), -1, np.int32)
        self._ids[code_points(characters)] = _FIRST_CHARACTER + np.arange(len(characters))

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Keeps the most frequent characters that fit; ties go to the lower code point."""
        counts: collections.Counter[str] = collections.Counter()
        for text in texts:
            counts.update(text)
        order = sorted(filter(_is_character, counts), key=lambda c: (-counts[c], c))
        return cls("".join(order[: vocab_size - _FIRST_CHARACTER]))

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Reads what `to_bytes` wrote."""
        characters = json.loads(content)["characters"]
        if not isinstance(characters, str) or len(set(characters)) != len(characters):
            raise ValueError("its 'characters' must be text in which each occurs once")
        if not all(map(_is_character, characters)):
            raise ValueError("its 'characters' hold a surrogate")
        return cls(characters)

    @property
    def vocab_size(self) -> int:
        return _FIRST_CHARACTER + len(self._characters)

    def to_bytes(self) -> bytes:
        return json.dumps({"kind": self.kind, "characters": self._characters}).encode()

    def _encode_plain(self, texts: list[str]) -> Sequence[Ids]:
        return [self._encode_one(text) for text in texts]

    def _encode_one(self, text: str) -> np.ndarray:
        ids = self._ids[code_points(text)]
        unknown = np.flatnonzero(ids < 0)
        if not unknown.size:
            return ids
        raw = [np.frombuffer(text[i].encode(), np.uint8) for i in unknown]
        sizes = [len(bytes_) for bytes_ in raw]
        ids = np.delete(ids, unknown)
        places = np.repeat(unknown - np.arange(len(unknown)), sizes)
        return np.insert(ids, places, _BYTE_IDS[np.concatenate(raw)])


def _is_character(code: str) -> bool:
    return not "\ud800" <= code <= "\udfff"


def code_points(text: str) -> np.ndarray:
    """The number of each character, surrogates too: [n] uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)

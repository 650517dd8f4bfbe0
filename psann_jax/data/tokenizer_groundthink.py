"""The character tokenizer of GroundThink V4, with its ids: needs no package.

Ids 0 to 31 are reserved, the first eight of them for the specials, and the characters follow in the
order of their code points. Unlike our other tokenizers, text that spells a special encodes to that
special, as one token: "<|user|>" is 5. What follows "<|eos|>" in a text begins a segment, as a new
document does, though in the same row; decoding skips it.

Source: GroundThink's build log, entry 2; the ids are those of its repository.
"""

import collections
from collections.abc import Iterable, Sequence
import json
import re
from typing import Self

import numpy as np

from psann_jax.data.tokenizer import Ids, Tokenizer
from psann_jax.data.tokenizer_char import CODE_POINTS, code_points

KIND = "groundthink-char"
SPECIALS = tuple(
    f"<|{name}|>"
    for name in ("pad", "unk", "bos", "eos", "system", "user", "assistant", "endofturn")
)
PAD, UNK, BOS, EOS = range(4)
RESERVED = 32
_SPECIAL = re.compile("|".join(map(re.escape, SPECIALS)))


class GroundThinkCharTokenizer(Tokenizer):
    """Characters from id 32 on; any other is unk, which reads "?" like the reserved ids.

    An undecodable byte, a surrogate escape in a str, is a character like any other.
    """

    kind = KIND
    pad_id, unk_id, bos_id, eos_id = PAD, UNK, BOS, EOS
    ends_in_text = True
    _escaped = re.compile("(?!)")
    _most_characters = None  # a cut could part a special

    def __init__(self, characters: str):
        self._characters = characters
        table = [b"?"] * RESERVED + [c.encode("utf-8", "surrogateescape") for c in characters]
        for special in (PAD, BOS, EOS):
            table[special] = b""
        for special in range(EOS + 1, len(SPECIALS)):
            table[special] = SPECIALS[special].encode()
        self._id_bytes = table
        self._ids = np.full((CODE_POINTS,), UNK, np.int32)
        self._ids[code_points(characters)] = RESERVED + np.arange(len(characters))

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Every character of the texts; where vocab_size is too small, the most frequent ones."""
        counts: collections.Counter[str] = collections.Counter()
        for text in texts:
            counts.update(text)
        frequent = sorted(counts, key=lambda c: (-counts[c], c))[: vocab_size - RESERVED]
        return cls("".join(sorted(frequent)))

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Reads what `to_bytes` wrote."""
        characters = json.loads(content).get("characters")
        if not isinstance(characters, str) or sorted(set(characters)) != list(characters):
            raise ValueError("its 'characters' must be text in the order of the code points")
        if not all(map(_is_text, characters)):
            raise ValueError("its 'characters' hold a lone surrogate")
        return cls(characters)

    @property
    def vocab_size(self) -> int:
        return RESERVED + len(self._characters)

    def to_bytes(self) -> bytes:
        return json.dumps({"kind": KIND, "characters": self._characters}).encode()

    def _encode_plain(self, texts: list[str]) -> Sequence[Ids]:
        return [self._encode_one(text) for text in texts]

    def _encode_one(self, text: str) -> np.ndarray:
        parts, start = [], 0
        for match in _SPECIAL.finditer(text):
            parts.append(self._ids[code_points(text[start : match.start()])])
            parts.append(np.array([SPECIALS.index(match.group())], np.int32))
            start = match.end()
        return np.concatenate([*parts, self._ids[code_points(text[start:])]])


def _is_text(code: str) -> bool:
    """Whether it is a character or the escape of a byte."""
    return not "\ud800" <= code <= "\udfff" or "\udc80" <= code <= "\udcff"

"""The tokenizers of psannlm 2.0.1 that no other model file stands for, id for id.

Their model file is JSON: "kind": "psannlm", and the state as which psannlm saves the tokenizer.
Text that spells a special of theirs may encode to it, as it did when the model was trained.
Source: psannlm 2.0.1 (PyPI), observed.
"""

import abc
import base64
from collections.abc import Mapping, Sequence
import json
import re
from typing import Any, Self

import numpy as np

from psann_jax.data.tokenizer import REPLACEMENT, SPECIALS, UNK, Ids, Tokenizer, with_specials
from psann_jax.data.tokenizer_char import CODE_POINTS, code_points

PSANNLM = "psannlm"
# psannlm's names of the backends -> kinds.
KINDS = {"simple": "char", "sentencepiece": "sentencepiece", "tokenizers": "hf"}


class PsannlmTokenizer(Tokenizer):
    """What the three have in common: the state, and the file that holds it."""

    backend: str

    @classmethod
    @abc.abstractmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The tokenizer of psannlm's state.

        Raises:
          ValueError: what is wrong with it, the key first.
        """

    @abc.abstractmethod
    def to_state(self) -> dict[str, Any]:
        """The state, as psannlm reads and writes it."""

    def ordinary(self) -> Tokenizer:
        """The same tokenizer as a plain model file has it, if that has the same ids; else this."""
        return self

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Reads what `to_bytes` wrote."""
        fields = json.loads(content)
        del fields["kind"]
        return cls.from_state({name: _plain(value) for name, value in fields.items()})

    def to_bytes(self) -> bytes:
        return json.dumps({"kind": PSANNLM, **self.to_state()}, default=_in_base64).encode()


class PsannlmCharTokenizer(PsannlmTokenizer):
    """psannlm's "simple": characters from id 4 on, any other is unk.

    An unknown character decodes to U+FFFD, where psannlm writes a question mark.
    """

    kind = "char"
    backend = "simple"
    _escaped = re.compile("(?!)")  # a surrogate is a character like any other

    def __init__(self, characters: Sequence[str]):
        self._characters = list(characters)
        self._id_bytes = with_specials(self, [b""] * 4 + [_utf8(c) for c in self._characters])
        self._ids = np.full((CODE_POINTS,), UNK, np.int32)
        places = [ord(c) for c in self._characters]
        self._ids[places] = len(SPECIALS) + np.arange(len(places))

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        check_keys(state, "vocabulary")
        characters = state["vocabulary"]
        if not isinstance(characters, list):
            found = type(characters).__name__
            raise ValueError(f"vocabulary must be a list of characters, not {found}")
        for i, character in enumerate(characters):
            if not isinstance(character, str) or len(character) != 1:
                raise ValueError(f"vocabulary[{i}] must be a str of one character")
        if len(set(characters)) != len(characters):
            raise ValueError("vocabulary holds a character twice, so its id is not known")
        return cls(characters)

    def to_state(self) -> dict[str, Any]:
        return {"backend": self.backend, "vocabulary": list(self._characters)}

    @property
    def vocab_size(self) -> int:
        return len(SPECIALS) + len(self._characters)

    def _encode_plain(self, texts: list[str]) -> Sequence[Ids]:
        return [self._ids[code_points(text)] for text in texts]


def check_keys(state: Mapping[str, Any], *expected: str) -> None:
    """Whether the state has these keys and "backend", which alone is checked before.

    Raises:
      ValueError: one is missing, or there is another.
    """
    for name in expected:
        if name not in state:
            raise ValueError(f"{name} is missing, which the backend {state['backend']!r} needs")
    for name in state:
        if name != "backend" and name not in expected:
            shown = ascii(name[:40]).strip("'") if isinstance(name, str) else type(name).__name__
            raise ValueError(
                f"{shown} is unknown to the backend {state['backend']!r}, "
                f"which has {', '.join(expected)}"
            )


def _in_base64(content: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(content).decode()}


def _plain(value: Any) -> Any:
    in_base64 = isinstance(value, dict) and isinstance(value.get("base64"), str)
    return base64.b64decode(value["base64"], validate=True) if in_base64 else value


def _utf8(character: str) -> bytes:
    try:
        return character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return REPLACEMENT.encode()

r"""Needle in a haystack: filler with one key and value in it, and the key again at the end.

A prompt is BOS, filler, "\nKEY=VALUE\n", more filler, "\nKEY="; the answer is VALUE. It is put
together from tokens and not from text, so that it has exactly the length asked for with every
tokenizer, and the needle ends before the query begins. Keys are letters, values are digits; a
vocabulary that lacks some of these characters has others in their place.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import string

import numpy as np

from psann_jax.data import Tokenizer

DIGITS = 4
_MOST_DIGITS = 6
_KEY_LETTERS = 2
_EDGES, _SIGNS = "\n ", "=:-,;."
_OTHERS = string.ascii_lowercase + string.ascii_uppercase + string.digits


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One question: what the model reads, and what it should say next.

    Attributes:
      tokens: the prompt, with BOS, exactly as long as asked for.
      answer: the tokens of the value, which come after the prompt.
      needle: where the key and value stand among `tokens`.
      query: where the question stands; it ends with the prompt.
    """

    tokens: list[int]
    answer: list[int]
    needle: slice
    query: slice


@dataclasses.dataclass(frozen=True)
class Form:
    """The characters of needles, all of which the tokenizer can write."""

    letters: str = string.ascii_uppercase  # of keys
    digits: str = string.digits  # of values
    sign: str = "="
    edge: str = "\n"  # before the key and after the value

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Form":
        """The usual characters; in place of those that do not survive a round trip, others.

        Raises:
          ValueError: too few do.
        """
        others = "".join(c for c in _OTHERS if _survives(tokenizer, c))
        digits = cls.digits if all(d in others for d in cls.digits) else others[:10]
        capitals = "".join(c for c in cls.letters if c in others)
        letters = capitals if len(capitals) > 1 else "".join(c for c in others if c not in digits)
        signs = [c for c in _SIGNS if _survives(tokenizer, c)]
        edges = [c for c in _EDGES if len(others) > 0 and _parts(tokenizer, others[0], c)]
        kinds = {"letters": len(letters) > 1, "digits": len(digits) > 1}
        kinds |= {"a sign as =": bool(signs), "a newline or space": bool(edges)}
        if lacking := [name for name, found in kinds.items() if not found]:
            raise ValueError(
                f"the tokenizer cannot write {', '.join(lacking)}, of which needles are made; "
                "take a model whose tokenizer was fitted on text that has them"
            )
        return cls(letters, digits, signs[0], edges[0])

    def parts(self, key: str, value: str) -> tuple[str, str, str]:
        """The needle in the parts that are tokenised apart; the first one is also the query."""
        return f"{self.edge}{key}{self.sign}", value, self.edge


def _survives(tokenizer: Tokenizer, character: str) -> bool:
    """Whether it comes back; a foreign vocabulary may add spaces."""
    return tokenizer.decode(tokenizer.encode(character)).strip() == character


def _parts(tokenizer: Tokenizer, letter: str, edge: str) -> bool:
    said = tokenizer.decode(tokenizer.encode(f"{letter}{edge}{letter}"))
    return said.strip() == f"{letter}{edge}{letter}"


class Haystack:
    """Makes prompts from a text that is cut at random and read around in a circle.

    Args:
      filler: ids of the text, without specials; one token at least.
      digits: of a value, 1 to 6. Values that the filler holds itself are not used, nor keys.

    Raises:
      ValueError: digits out of range, no value or key is left, or the tokenizer cannot write them.
    """

    def __init__(self, tokenizer: Tokenizer, filler: Sequence[int] | np.ndarray, digits: int):
        if not 1 <= digits <= _MOST_DIGITS:
            raise ValueError(f"--digits={digits} must be 1 to {_MOST_DIGITS}")
        self.tokenizer, self.filler = tokenizer, np.asarray(filler, np.int32)
        if not len(self.filler):
            raise ValueError("the filler has no tokens; give a text with --text FILE")
        text = tokenizer.decode(np.concatenate([self.filler, self.filler[:64]]))
        self.form = Form.of(tokenizer)
        self.values = _absent(text, self.form.digits, digits)
        if not self.values:
            raise ValueError(
                f"--digits={digits}: the filler holds every such value; give more digits"
            )
        self._keys = set(_absent(text, self.form.letters, _KEY_LETTERS, self.form.sign))
        if not self._keys:
            raise ValueError(
                f"the filler holds every key of {_KEY_LETTERS} of the letters {self.form.letters} "
                f"with {self.form.sign!r} after it; give another text with --text FILE"
            )

    @property
    def chance(self) -> float:
        """How often a guess of a value is right."""
        return 1 / len(self.values)

    def prompts(
        self, length: int, depths: Sequence[float], trials: int, seed: int
    ) -> Iterator[Prompt]:
        """The prompts of one length, depth by depth; each is drawn by its own seed.

        Raises:
          ValueError: the length has no room for needle and query.
        """
        for depth in depths:
            for trial in range(trials):
                place = [seed, length, round(1000 * depth), trial]
                yield self.prompt(length, depth, np.random.default_rng(place))

    def prompt(self, length: int, depth: float, rng: np.random.Generator) -> Prompt:
        """A prompt of `length` tokens with `depth` percent of the filler before the needle."""
        key, value = self._key(rng), self.values[rng.integers(len(self.values))]
        question, answer, end = map(self.tokenizer.encode, self.form.parts(key, value))
        needle = [*question, *answer, *end]
        room = length - 1 - len(needle) - len(question)
        if room < 0:
            raise ValueError(
                f"--lengths={length} has no room for needle and query; "
                f"give {length - room} tokens or more"
            )
        before = round(room * depth / 100)
        places = rng.integers(len(self.filler)) + np.arange(room)
        filler = self.filler[places % len(self.filler)].tolist()
        tokens = [self.tokenizer.bos_id, *filler[:before], *needle, *filler[before:], *question]
        at = slice(1 + before, 1 + before + len(needle))
        return Prompt(tokens, answer, at, slice(length - len(question), length))

    def _key(self, rng: np.random.Generator) -> str:
        while True:  # until a free one; there is one
            key = "".join(rng.choice(list(self.form.letters), _KEY_LETTERS))
            if key in self._keys:
                return key


def _absent(text: str, characters: str, length: int, end: str = "") -> list[str]:
    """The words of the characters, of `length`, that with `end` after them the text lacks."""
    size = length + len(end)
    used = {text[i : i + size] for i in range(len(text))}
    words = map("".join, itertools.product(characters, repeat=length))
    return [word for word in words if word + end not in used]

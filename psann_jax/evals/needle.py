r"""Needle in a haystack: filler with one key and value in it, and the key again at the end.

A prompt is BOS, filler, "\nKEY=VALUE\n", more filler, "\nKEY="; the answer is VALUE. It is put
together from tokens and not from text, so that it has exactly the length asked for with every
tokenizer, and the needle ends before the query begins. Keys are letters, values are digits.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import re
import string

import numpy as np

from psann_jax.data import Tokenizer

DIGITS = 4
_MOST_DIGITS = 6
_KEY_LETTERS = 2


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


class Haystack:
    """Makes prompts from a text that is cut at random and read around in a circle.

    Args:
      filler: ids of the text, without specials; one token at least.
      digits: of a value, 1 to 6. Values that the filler holds itself are not used.

    Raises:
      ValueError: digits out of range, no value is left, or the tokenizer cannot write digits.
    """

    def __init__(self, tokenizer: Tokenizer, filler: Sequence[int] | np.ndarray, digits: int):
        if not 1 <= digits <= _MOST_DIGITS:
            raise ValueError(f"--digits={digits} must be 1 to {_MOST_DIGITS}")
        self.tokenizer, self.filler = tokenizer, np.asarray(filler, np.int32)
        if not len(self.filler):
            raise ValueError("the filler has no tokens; give a text with --text FILE")
        text = tokenizer.decode(np.concatenate([self.filler, self.filler[:64]]))
        used = {run[i : i + digits] for run in re.findall(r"\d+", text) for i in range(len(run))}
        self.values = [v for i in range(10**digits) if (v := f"{i:0{digits}}") not in used]
        if not self.values:
            raise ValueError(
                f"--digits={digits}: the filler holds every such value; give more digits"
            )
        self._text = text
        said = tokenizer.decode(tokenizer.encode(string.digits))
        if "".join(said.split()) != string.digits:  # a foreign vocabulary may part them
            raise ValueError(f"the tokenizer writes {string.digits} as {said!r}; values are digits")

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
        question, answer, end = map(self.tokenizer.encode, needle_parts(key, value))
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
        while True:
            key = "".join(rng.choice(list(string.ascii_uppercase), _KEY_LETTERS))
            if f"{key}=" not in self._text:
                return key


def needle_parts(key: str, value: str) -> tuple[str, str, str]:
    """The needle in the parts that are tokenised apart; the first one is also the query."""
    return f"\n{key}=", value, "\n"

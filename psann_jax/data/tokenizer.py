"""The interface of every tokenizer: text to ids and exactly back.

Ids 0 to 3 are pad, bos, eos and unk in a tokenizer fitted here. Text never encodes to them. The
one exception to both is "groundthink-char".

Bytes that are not UTF-8 travel in a str as Python's surrogate escapes (U+DC80 to U+DCFF) and in
tokens as byte pieces, so any file that is decoded with errors="surrogateescape" comes back exact.
"""

import abc
from collections.abc import Iterable, Sequence
import pathlib
import re

import numpy as np

from psann_jax.data.text import pieces, utf8

PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
SPECIAL_NAMES = ("pad", "bos", "eos", "unk")
Ids = Sequence[int] | np.ndarray
REPLACEMENT = "\ufffd"


class Tokenizer(abc.ABC):
    """Text to token ids and back.

    Attributes:
      kind: "sentencepiece", "hf", "char" or "groundthink-char".
      requested_vocab_size: what the fit asked for; None if the model was loaded. `vocab_size` may
        be smaller, since a small corpus has no more pieces to offer.
      pad_id, bos_id, eos_id, unk_id: ids of the specials; a foreign vocabulary that lacks pad, bos
        or unk has its eos there.
      ends_in_text: whether text can spell eos, after which a new segment begins.
      truncates: whether it keeps the beginning of a long text alone.
    """

    kind: str
    requested_vocab_size: int | None = None
    pad_id: int = PAD
    bos_id: int = BOS
    eos_id: int = EOS
    unk_id: int = UNK
    ends_in_text: bool = False
    truncates: bool = False
    # What the backend cannot take as it is, and byte pieces carry instead.
    _escaped = re.compile("[\ud800-\udfff]+")
    # The backend gets longer texts in parts; None where it must see the whole text.
    _most_characters: int | None = 8192
    # Specials that are pieces of text as well, so that decode shows them.
    _shown: frozenset[int] = frozenset()
    # Ids of the 256 bytes; None in a foreign vocabulary without byte pieces.
    _byte_ids: np.ndarray | None = None
    # The bytes of each id; None where only the library knows how its pieces join.
    _id_bytes: list[bytes] | None = None

    @property
    def silent_ids(self) -> frozenset[int]:
        """The ids of pad, bos and eos that never stand for text: decode skips them."""
        return frozenset((self.pad_id, self.bos_id, self.eos_id)) - self._shown

    @property
    def reads_whole_texts(self) -> bool:
        """Whether the ids of a long text are not those of its parts in turn."""
        return self._most_characters is None

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """One more than the largest id."""

    @abc.abstractmethod
    def to_bytes(self) -> bytes:
        """The content of the model file that `load` reads."""

    @abc.abstractmethod
    def _encode_plain(self, texts: list[str]) -> Sequence[Ids]:
        """Ids of texts that hold nothing `_escaped` matches."""

    def _decode_foreign(self, ids: list[int]) -> str:
        """Text of ids where there is no table of bytes."""
        raise NotImplementedError(f"{type(self).__name__} decodes by its table of bytes")

    def encode(self, text: str) -> list[int]:
        """Token ids of one text, without specials; see `encode_batch`."""
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, [n] int32, without specials, by the library's own threads.

        Raises:
          ValueError: a text holds a lone surrogate that stands for no byte, or what a foreign
            vocabulary has no piece for, not even unk.
        """
        plain: list[str] = []
        plans = [self._plan(text, plain) for text in texts]
        encoded = self._encode_plain(plain) if plain else []
        return [_joined(plan, encoded) for plan in plans]

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """Text of the ids; `silent_ids` are skipped, unk reads U+FFFD.

        Args:
          ids: 0 to vocab_size - 1.
          errors: for bytes that are not UTF-8, as in `bytes.decode`: "replace" never raises,
            "surrogateescape" returns what was encoded.
        """
        ids = [int(i) for i in ids]
        if ids and not (min(ids) >= 0 and max(ids) < self.vocab_size):
            raise ValueError(
                f"token ids {min(ids)} to {max(ids)} leave the vocabulary 0 to "
                f"{self.vocab_size - 1}; decode with the tokenizer that encoded them"
            )
        if self._id_bytes is None:
            silent = self.silent_ids
            return self._decode_foreign([i for i in ids if i not in silent])
        return b"".join(map(self._id_bytes.__getitem__, ids)).decode("utf-8", errors)

    def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Text of the ids where they follow those before: with the space that begins it.

        A foreign vocabulary may drop the space before the first word of what it decodes.
        """
        if self._id_bytes is None:
            text, start = self.decode([*before, *ids]), self.decode(before)
            if text.startswith(start):
                return text[len(start) :]
        return self.decode(ids)

    def count_bytes(self, ids: np.ndarray) -> int | None:
        """UTF-8 bytes of the text of the ids; None where the vocabulary alone does not tell."""
        if self._id_bytes is None:
            return None
        return int(np.array([len(content) for content in self._id_bytes])[ids].sum())

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the one model file that `load` reads."""
        pathlib.Path(path).write_bytes(self.to_bytes())

    def _plan(self, text: str, plain: list[str]) -> list[int | np.ndarray]:
        """What the text is made of, in order: an index into `plain`, or the ids of raw bytes."""
        plan: list[int | np.ndarray] = []
        start = 0
        for match in self._escaped.finditer(text):
            self._add_plain(text[start : match.start()], plan, plain)
            plan.append(self._raw_ids(match))
            start = match.end()
        self._add_plain(text[start:] if start else text, plan, plain)
        return plan

    def _add_plain(self, text: str, plan: list[int | np.ndarray], plain: list[str]) -> None:
        parts = pieces(text, self._most_characters) if self._most_characters else [text]
        for part in parts:
            plan.append(len(plain))
            plain.append(part)

    def _raw_ids(self, match: re.Match[str]) -> np.ndarray:
        raw = utf8(match.group(), offset=match.start())
        if self._byte_ids is None:
            raise ValueError(
                f"text[{match.start()}]={match.group()[0]!a} needs byte pieces, which this "
                f"{self.kind} vocabulary lacks; remove it, or fit a tokenizer instead"
            )
        return self._byte_ids[np.frombuffer(raw, np.uint8)]


def with_specials(tokenizer: Tokenizer, table: list[bytes]) -> list[bytes]:
    """The bytes of each id, where pad, bos and eos are silent and unk shows."""
    if tokenizer.unk_id not in tokenizer._shown:
        table[tokenizer.unk_id] = REPLACEMENT.encode()
    for special in tokenizer.silent_ids:
        table[special] = b""
    return table


def _joined(plan: list[int | np.ndarray], encoded: Sequence[Ids]) -> np.ndarray:
    parts = [encoded[part] if isinstance(part, int) else part for part in plan]
    if not parts:
        return np.zeros((0,), np.int32)
    return np.concatenate([np.asarray(part, np.int32) for part in parts])

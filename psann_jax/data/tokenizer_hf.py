"""Byte-level byte-pair encoding by Hugging Face tokenizers, and any tokenizer.json."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import json
from typing import Self

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from psann_jax.data import special_map
from psann_jax.data.tokenizer import SPECIALS, Ids, Tokenizer, with_specials

_PARTS = ("a b\n", "c d")  # of a text that is cut as `text.pieces` does
# How foreign vocabularies spell the specials, the surest first.
_SPELLINGS = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>"),
    "bos": ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>", "<|startoftext|>", "[CLS]"),
    "eos": ("</s>", "<eos>", "[EOS]", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "[SEP]"),
    "unk": ("<unk>", "[UNK]", "<|unk|>"),
}


class HFTokenizer(Tokenizer):
    """A tokenizer.json: exact on any text if it was fitted here or is byte-level like GPT-2's.

    Args:
      named: pieces that are pad, bos, eos or unk, where the usual spellings do not tell.
    """

    kind = "hf"

    def __init__(self, model: tokenizers.Tokenizer, named: Mapping[str, str] | None = None):
        self._model, self._named = model, dict(named or {})
        self._vocab = model.get_vocab(with_added_tokens=True)
        self._size = max(self._vocab.values(), default=-1) + 1
        # Else "</s>" in a text would end the document.
        model.encode_special_tokens = True
        model.no_padding()
        model.no_truncation()
        self._take_specials()
        if not self._reads_parts_alike():
            self._most_characters = None
        self._byte_ids = byte_ids(model)
        if self._byte_ids is not None:
            table = [b""] * self._size
            for i, content in byte_pieces(model).items():
                table[i] = content
            self._id_bytes = with_specials(self, table)

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Learns merges of bytes; pieces cross no word boundary (GPT-2's rule)."""
        model = tokenizers.Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        model.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=_alphabet(),
            show_progress=False,
        )
        valid = (text.encode("utf-8", "ignore").decode() for text in texts)
        model.train_from_iterator(valid, trainer)
        return cls(model)

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Reads a tokenizer.json."""
        plain, named = special_map.split(content)
        return cls(read_model(plain), named)

    @property
    def vocab_size(self) -> int:
        return self._size

    def to_bytes(self) -> bytes:
        content = self._model.to_str()
        if self._named:
            content = json.dumps({**json.loads(content), special_map.KEY: self._named})
        return content.encode()

    def _encode_plain(self, texts: list[str]) -> Sequence[Ids]:
        with refusals_named():
            encodings = self._model.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _decode_foreign(self, ids: list[int]) -> str:
        return self._model.decode(ids, skip_special_tokens=False)

    def _reads_parts_alike(self) -> bool:
        """Whether the parts of a text are coded as within it; some models begin each by a space."""
        try:
            whole, *apart = self._encode_plain(["".join(_PARTS), *_PARTS])
        except ValueError:  # the vocabulary lacks these letters, and has no unk
            return False
        return list(whole) == [i for ids in apart for i in ids]

    def _take_specials(self) -> None:
        self.eos_id = self._special("eos", -1)
        if self.eos_id < 0:
            raise ValueError(
                f"its vocabulary has no end of text ({', '.join(_SPELLINGS['eos'])}), and no map "
                "of specials names another"
            )
        self.pad_id = self._special("pad", self.eos_id)
        self.bos_id = self._special("bos", self.eos_id)
        self.unk_id = self._special("unk", self.eos_id)

    def _special(self, name: str, default: int) -> int:
        if (piece := self._named.get(name)) is not None and piece not in self._vocab:
            raise ValueError(f"the map of specials has {name} {piece!r}, its vocabulary has not")
        spellings = _SPELLINGS[name] if piece is None else (piece,)
        return next((self._vocab[name] for name in spellings if name in self._vocab), default)


def read_model(content: bytes) -> tokenizers.Tokenizer:
    """The library's tokenizer of a tokenizer.json.

    Raises:
      ValueError: it is none.
    """
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({str(error)[:80]})") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), dict):
        raise ValueError("a tokenizer.json needs a 'model'")
    try:
        return tokenizers.Tokenizer.from_buffer(content)
    except BaseException as error:
        if not refused(error) and not isinstance(error, ValueError):
            raise
        said = str(error).removeprefix("Cannot instantiate Tokenizer from buffer: ")[:80]
        raise ValueError(f"tokenizers cannot read it ({said})") from None


def refused(error: BaseException) -> bool:
    """Whether the library refused its input: by the bare Exception, or where Rust panics."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


@contextlib.contextmanager
def refusals_named() -> Iterator[None]:
    """Raises what the library refuses to encode, as a letter without unk, as a ValueError."""
    try:
        yield
    except BaseException as error:
        if not refused(error):
            raise
        raise ValueError(f"the tokenizer refuses the text ({str(error)[:80]})") from None


def byte_ids(model: tokenizers.Tokenizer) -> np.ndarray | None:
    """The ids of the 256 bytes; None if the model is not byte-level, as GPT-2's is."""
    ids = [model.token_to_id(symbol) for symbol in _alphabet()]
    if not isinstance(model.decoder, decoders.ByteLevel) or None in ids:
        return None
    return np.array(ids, np.int64)


def byte_pieces(model: tokenizers.Tokenizer) -> dict[int, bytes]:
    """The bytes of each id of a byte-level model; added tokens are plain text."""
    byte_of = {symbol: byte for byte, symbol in enumerate(_alphabet())}
    added = model.get_added_tokens_decoder()
    pieces = {}
    for piece, i in model.get_vocab(with_added_tokens=True).items():
        plain = i in added or any(symbol not in byte_of for symbol in piece)
        pieces[i] = piece.encode() if plain else bytes(byte_of[symbol] for symbol in piece)
    return pieces


def _alphabet() -> list[str]:
    """The symbol of each byte, 0 to 255: GPT-2's map of bytes to visible characters.

    Source: github.com/openai/gpt-2, src/encoder.py, bytes_to_unicode.
    """
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(b if b in visible else 256 + hidden.index(b)) for b in range(256)]

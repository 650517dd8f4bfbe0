"""What the data is, how it becomes tokens, and where the prepared rows are kept."""

import dataclasses
import difflib
import pathlib

from psann_jax.fields import cache_folder, local_path

DOCUMENTS = ("auto", "file", "line")
INVALID_UTF8 = ("keep", "error")
TOKENIZERS = ("auto", "sentencepiece", "hf", "char", "groundthink-char")
SPLITS = ("documents", "tail")
ORDERS = ("shuffled", "tracks")
MIN_VOCAB_SIZE = 264  # 4 specials, 256 bytes and room for a first few pieces


@dataclasses.dataclass(kw_only=True)
class DataConfig:
    """Every choice that decides which tokens a run sees; part of the cache's fingerprint.

    Attributes:
      sources: files, folders and globs; empty means the embedded corpus.
      text_key: the field of a .jsonl record that holds its text.
      document: "line" makes each non-blank line a document, "file" each file and "auto" too. Where
        that gives just one, "auto" cuts it at line ends into about 1 / val_split, of which some
        can be held out, unless split="tail". A .jsonl record is a document under each of the three.
      invalid_utf8: "keep" carries undecodable bytes through the tokens, "error" refuses them.
      tokenizer: the backend; "auto" takes the first installed of sentencepiece, hf, char.
        "groundthink-char" has the characters from id 32 on, as GroundThink has them.
      tokenizer_path: a model file used as it is, in place of fitting one.
      vocab_size: the size asked for, special ids included; a small corpus may yield less. It
        bounds the characters of "groundthink-char", the rarest of which become unk.
      tokenizer_bytes: how much training text the tokenizer is fitted on, in bytes;
        "groundthink-char" always reads all of it, so that no character is missed.
      max_length: T, targets in a row.
      pack_sequences: join documents into full rows; False starts a row for each document.
      val_split: share of the documents held out for validation, 0 to 0.5; 0 is none.
      split: "documents" draws those held out; "tail" holds out the last val_split of the text:
        of n characters int(n * (1 - val_split)) are for training, and the document in which they
        end is cut in two.
      order: "shuffled" draws the rows of each step; "tracks" cuts the rows in their order into as
        many parallel tracks as a step has rows, and trains with the state that each track's row
        before left behind. It needs a base whose state has a fixed size.
      seed: decides the split, the tokenizer's sample and the order of rows.
      cache_dir: None means $PSANN_JAX_CACHE, else ~/.cache/psann_jax.
    """

    sources: tuple[str, ...] = ()
    text_key: str = "text"
    document: str = "auto"
    invalid_utf8: str = "keep"
    tokenizer: str = "auto"
    tokenizer_path: str | None = None
    vocab_size: int = 32000
    tokenizer_bytes: int = 10_000_000
    max_length: int = 1024
    pack_sequences: bool = True
    val_split: float = 0.01
    split: str = "documents"
    order: str = "shuffled"
    seed: int = 1337
    cache_dir: str | None = None

    def __post_init__(self):
        _check_sources(self.sources)
        _check_text("text_key", self.text_key, "name the field that holds the text, as 'text'")
        _check_choice("document", self.document, DOCUMENTS)
        _check_choice("invalid_utf8", self.invalid_utf8, INVALID_UTF8)
        _check_choice("tokenizer", self.tokenizer, TOKENIZERS)
        _check_choice("split", self.split, SPLITS)
        _check_choice("order", self.order, ORDERS)
        _check_integer("vocab_size", self.vocab_size, MIN_VOCAB_SIZE, 1 << 24)
        _check_integer("tokenizer_bytes", self.tokenizer_bytes, 1, 1 << 40)
        _check_integer("max_length", self.max_length, 1, 1 << 24)
        _check_integer("seed", self.seed, 0, (1 << 63) - 1)
        _check_boolean("pack_sequences", self.pack_sequences)
        _check_share("val_split", self.val_split)
        if self.order == "tracks" and not self.pack_sequences:
            raise ValueError(
                "data.order='tracks' needs rows that follow each other without a gap, and "
                "data.pack_sequences=False begins one at each document; set "
                "data.pack_sequences=True, or data.order='shuffled'"
            )
        for name in ("tokenizer_path", "cache_dir"):
            if getattr(self, name) is not None:
                _check_text(name, getattr(self, name), "give a path, or None for the default")

    @property
    def cache_folder(self) -> pathlib.Path:
        """The folder that holds one sub-folder for each prepared corpus."""
        if self.cache_dir:
            return local_path("data.cache_dir", self.cache_dir).expanduser()
        return cache_folder()


def _check_sources(value: object) -> None:
    if isinstance(value, str) or not isinstance(value, (tuple, list)):
        raise ValueError(
            f"data.sources={value!r} must be a tuple of paths; write data.sources=({value!r},)"
        )
    for source in value:
        _check_text("sources", source, "each entry is the path of a file or folder, or a glob")


def _check_text(name: str, value: object, way_out: str) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"data.{name}={value!r} must be non-empty text; {way_out}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"data.{name}={value!r} must be one of {', '.join(choices)}{hint}")


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"data.{name}={value!r} must be an integer, {low} to {high}")
    if value <= 0 < low:
        raise ValueError(f"data.{name}={value} must be positive; choose {low} to {high}")
    if not low <= value <= high:
        raise ValueError(f"data.{name}={value} is out of range; choose {low} to {high}")


def _check_boolean(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"data.{name}={value!r} must be True or False")


def _check_share(name: str, value: object) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= 0.5:
        raise ValueError(
            f"data.{name}={value!r} must be a share from 0 (no validation) to 0.5; "
            "0.01 holds out one document in a hundred"
        )

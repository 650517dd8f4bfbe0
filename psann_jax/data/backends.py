"""Which tokenizer a name or a model file stands for: fit and load."""

from collections.abc import Iterable
import difflib
import importlib
import json
import os
import pathlib

from psann_jax.data.config import MIN_VOCAB_SIZE
from psann_jax.data.special_map import with_special_map
from psann_jax.data.text import pieces
from psann_jax.data.tokenizer import Tokenizer
from psann_jax.data.tokenizer_psannlm import (
    KINDS,
    PSANNLM,
    PsannlmCharTokenizer,
    PsannlmTokenizer,
)

# In the order in which "auto" tries them; the package each needs.
_PACKAGES = {
    "sentencepiece": "sentencepiece",
    "hf": "tokenizers",
    "char": "numpy",
    "groundthink-char": "numpy",
}
_FIT_CHARACTERS = 2048
_LEAST = {"groundthink-char": 33}  # which has no bytes, but 32 reserved ids


def fit(kind: str, texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Fits a tokenizer; equal texts in equal order give equal model files.

    Args:
      kind: "auto", "sentencepiece", "hf", "char" or "groundthink-char".
      texts: what to learn from; long texts are cut, so their size does not matter.
      vocab_size: specials and the 256 bytes included; read `vocab_size` of the result back.

    Raises:
      ValueError: vocab_size leaves no room beside what every vocabulary of the kind has.
    """
    least = _LEAST.get(kind, MIN_VOCAB_SIZE)
    if vocab_size < least:
        raise ValueError(f"vocab_size={vocab_size} must be at least {least} for {kind!r}")
    short = (piece for text in texts for piece in pieces(text, _FIT_CHARACTERS))
    tokenizer = _backend(chosen_kind(kind)).fit(short, vocab_size)
    tokenizer.requested_vocab_size = vocab_size
    return tokenizer


def load(path: str | pathlib.Path, special_map_path: str | os.PathLike | None = None) -> Tokenizer:
    """Reads a model file of any kind, recognised by its content.

    Args:
      special_map_path: the special_tokens_map.json of a tokenizer.json whose end of text is not
        spelled as usual. The tokenizer keeps what it says when it is saved.

    Raises:
      ValueError: no such file, or it holds no tokenizer.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(
            f"data.tokenizer_path={str(path)!r} is not a file; name a sentencepiece .model or a "
            "tokenizer.json, or None to fit one"
        )
    content = path.read_bytes()
    if special_map_path is not None:
        content = with_special_map(content, special_map_path)
    return from_bytes(content, str(path))


def from_bytes(content: bytes, name: str) -> Tokenizer:
    """The tokenizer in the content of a model file; `name` is for the error message."""
    try:
        return _reader_of(content).from_bytes(content)
    except ValueError as error:
        raise ValueError(
            f"data.tokenizer_path={name!r} holds no usable tokenizer: {error}; "
            "name another file, or None to fit one"
        ) from None


def chosen_kind(kind: str) -> str:
    """The backend a value of `data.tokenizer` stands for.

    Raises:
      ValueError: the kind is unknown, or its package is not installed.
    """
    if kind == "auto":
        return next(name for name in _PACKAGES if _installed(name))
    if kind not in _PACKAGES:
        near = difflib.get_close_matches(kind, _PACKAGES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(_PACKAGES)
        raise ValueError(f"data.tokenizer={kind!r} must be auto or one of {known}{hint}")
    if not _installed(kind):
        raise ValueError(
            f"data.tokenizer={kind!r} needs the package {_PACKAGES[kind]}; "
            f"pip install {_PACKAGES[kind]}, or choose data.tokenizer='auto'"
        )
    return kind


def _installed(kind: str) -> bool:
    try:
        importlib.import_module(_PACKAGES[kind])
    except ImportError:
        return False
    return True


def _backend(kind: str) -> type:
    """The class of a kind; imported here, so that the others' packages stay unloaded."""
    if kind == "sentencepiece":
        from psann_jax.data.tokenizer_sentencepiece import SentencePieceTokenizer as backend
    elif kind == "hf":
        from psann_jax.data.tokenizer_hf import HFTokenizer as backend
    elif kind == "char":
        from psann_jax.data.tokenizer_char import CharTokenizer as backend
    else:
        from psann_jax.data.tokenizer_groundthink import GroundThinkCharTokenizer as backend
    return backend


def reads_all(kind: str) -> bool:
    """Whether a fit of this kind must see all of the training text, and no sample of it."""
    return chosen_kind(kind) == "groundthink-char"


def of_characters(kind: str) -> bool:
    """Whether the text alone says how many tokens there are, whatever vocab_size asks for."""
    return chosen_kind(kind) in ("char", "groundthink-char")


def psannlm_backend(name: object) -> type[PsannlmTokenizer]:
    """The class of what psannlm calls a backend.

    Raises:
      ValueError: psannlm has no such backend, or its package is not installed.
    """
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"backend must be one of psannlm's: {', '.join(KINDS)}")
    if not _installed(kind):
        raise ValueError(f"backend={name!r} needs a package; pip install {_PACKAGES[kind]}")
    if kind == "sentencepiece":
        from psann_jax.data.tokenizer_psannlm_sentencepiece import (
            PsannlmSentencePieceTokenizer as backend,
        )
    elif kind == "hf":
        from psann_jax.data.tokenizer_psannlm_hf import PsannlmHFTokenizer as backend
    else:
        backend = PsannlmCharTokenizer
    return backend


def _reader_of(content: bytes) -> type:
    """The class of which the content is the model file."""
    if not content:
        raise ValueError("the file is empty")
    if content.lstrip()[:1] != b"{":
        return _backend(chosen_kind("sentencepiece"))
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is the former
        raise ValueError(f"it begins as JSON but is not ({error})") from None
    if fields.get("kind") == PSANNLM:
        return psannlm_backend(fields.get("backend"))
    if fields.get("kind") == "groundthink-char":
        return _backend("groundthink-char")
    return _backend(chosen_kind("char" if "characters" in fields else "hf"))

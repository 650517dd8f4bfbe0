"""The tokenizer inside a model that psannlm 2.0.1 saved, and back.

psannlm's state of a tokenizer is a dict of plain values. By "backend" it holds
  "simple": vocabulary, a list of characters, which have the ids from 4 on;
  "sentencepiece": model, the bytes of a .model file;
  "tokenizers": model, the text of a tokenizer.json; passthrough_ids, False if psannlm adds 4 to
    its ids; special_ids, the JSON's ids of pad, bos, eos and unk.
Source: psannlm 2.0.1 (PyPI), Tokenizer.to_state, observed.
"""

from collections.abc import Mapping
import json
from typing import Any

from psann_jax.data import Tokenizer, special_map
from psann_jax.data.backends import psannlm_backend
from psann_jax.data.tokenizer import BOS, EOS, SPECIAL_NAMES
from psann_jax.data.tokenizer_psannlm import PsannlmTokenizer


def from_state(state: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of psannlm's state, with the same ids for any text.

    Its pad, bos, eos and unk are those with which psannlm trains, its vocabulary is as large as
    the model's, and it keeps its ids when it is saved and loaded. Text comes back from `decode`
    as far as the ids tell; psannlm drops or alters more of it, as the classes of `data` say.

    Raises:
      ValueError: what is wrong with the state, and under which key.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"tokenizer must be psannlm's state, a dict, not {type(state).__name__}")
    if "backend" not in state:
        raise ValueError("tokenizer.backend is missing; psannlm saves one of its own")
    try:
        return psannlm_backend(state["backend"]).from_state(state).ordinary()
    except ValueError as error:
        raise ValueError(f"tokenizer.{error}") from None


def to_state(tokenizer: Tokenizer) -> dict[str, Any]:
    """The state from which psannlm makes a tokenizer with the same ids.

    What came from psannlm goes back as it came. Another encodes in psannlm as here, but for what
    psannlm does not do: it refuses bytes that are not UTF-8, cuts no text into parts of 8192
    characters, and reads U+2581 as a space where sentencepiece does.

    Raises:
      ValueError: psannlm has no such tokenizer.
    """
    if isinstance(tokenizer, PsannlmTokenizer):
        return tokenizer.to_state()
    if tokenizer.kind == "sentencepiece":
        return _sentencepiece_state(tokenizer)
    if tokenizer.kind == "hf":
        return _hf_state(tokenizer)
    raise ValueError(
        f"psannlm has no tokenizer of kind {tokenizer.kind!r} with byte pieces; train with "
        "data.tokenizer='sentencepiece' or 'hf' to save for psannlm"
    )


def _sentencepiece_state(tokenizer: Tokenizer) -> dict[str, Any]:
    if (tokenizer.bos_id, tokenizer.eos_id) != (BOS, EOS):
        raise ValueError(
            f"psannlm begins a sentencepiece text with id {BOS} and ends it with {EOS}, this model "
            f"with {tokenizer.bos_id} and {tokenizer.eos_id}; train with a tokenizer fitted here"
        )
    return {"backend": "sentencepiece", "model": tokenizer.to_bytes()}


def _hf_state(tokenizer: Tokenizer) -> dict[str, Any]:
    from psann_jax.data.tokenizer_hf import read_model  # here, since its package may be missing

    content, _ = special_map.split(tokenizer.to_bytes())
    model = read_model(json.dumps(_without_specials(json.loads(content))).encode())
    vocab = model.get_vocab()
    if vocab != read_model(content).get_vocab():
        raise ValueError(
            "psannlm reads the specials of this tokenizer.json wherever a text spells them, and "
            "they are not in its model's vocabulary; train with a tokenizer fitted here"
        )
    if len(vocab) != tokenizer.vocab_size:
        raise ValueError(
            f"psannlm has {len(vocab)} ids for this tokenizer.json, where the largest is "
            f"{tokenizer.vocab_size - 1}; train with a tokenizer fitted here"
        )
    specials = tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id
    return {
        "backend": "tokenizers",
        "model": model.to_str(),
        "passthrough_ids": True,
        "special_ids": dict(zip(SPECIAL_NAMES, specials, strict=True)),
    }


def _without_specials(fields: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer.json in which no text spells a special, as psannlm has no switch for that."""
    special = [token for token in fields["added_tokens"] if token["special"]]
    rest = [token for token in fields["added_tokens"] if not token["special"]]
    model = fields["model"]
    if model["type"] == "BPE":
        vocab = {token["content"]: token["id"] for token in special} | model["vocab"]
        model = model | {"vocab": vocab}
    return fields | {"added_tokens": rest, "model": model, "post_processor": None}

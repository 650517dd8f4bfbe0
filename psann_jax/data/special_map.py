"""Which pieces of a foreign tokenizer.json are its specials, told by a file beside it."""

from collections.abc import Mapping
import json
import os
from pathlib import Path

from psann_jax.data.tokenizer import SPECIAL_NAMES

KEY = "psann_jax_specials"  # under which a tokenizer.json saved here has them


def with_special_map(content: bytes, path: str | os.PathLike) -> bytes:
    """The content of a tokenizer.json with the specials that a map names.

    Args:
      path: a special_tokens_map.json as Hugging Face has it: {"eos_token": "<end>"}, or with
        {"content": "<end>"}; "eos" does for "eos_token". Other keys are passed over.

    Raises:
      ValueError: the map cannot be read or names none, or the content is no tokenizer.json.
    """
    try:
        fields = json.loads(content)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), dict):
        raise ValueError(
            f"tokenizer_special_map_path={str(path)!r} tells the specials of a tokenizer.json; "
            "leave it out with another tokenizer"
        )
    return json.dumps({**fields, KEY: _read(Path(path))}).encode()


def split(content: bytes) -> tuple[bytes, dict[str, str]]:
    """A tokenizer.json as the library knows it, and the specials that a map named."""
    if KEY.encode() not in content:
        return content, {}
    fields = json.loads(content)
    named = fields.pop(KEY, {})
    return json.dumps(fields).encode(), named


def _read(path: Path) -> dict[str, str]:
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"tokenizer_special_map_path={str(path)!r} cannot be read ({error}); name a "
            "special_tokens_map.json"
        ) from None
    fields = fields if isinstance(fields, Mapping) else {}
    found = {name: _piece(fields.get(f"{name}_token", fields.get(name))) for name in SPECIAL_NAMES}
    named = {name: piece for name, piece in found.items() if piece is not None}
    if not named:
        raise ValueError(
            f"tokenizer_special_map_path={str(path)!r} names no special; give at least "
            '{"eos_token": "..."}'
        )
    return named


def _piece(value: object) -> str | None:
    piece = value.get("content") if isinstance(value, Mapping) else value
    return piece if isinstance(piece, str) else None

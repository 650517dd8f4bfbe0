"""A model file of psannlm (PyTorch), read as a model here. Neither package is needed for it."""

from collections.abc import Mapping
import os
from typing import Any, NamedTuple

import numpy as np

from psann_jax.bases import Base
from psann_jax.fields import nearest
from psann_jax.interop import torch_file
from psann_jax.interop.checkpoint_sizes import check_numbers, check_sizes
from psann_jax.interop.folder import SavedModel, check_vocabulary
from psann_jax.interop.psannlm import with_state
from psann_jax.interop.psannlm_canonical import canonical_base, differences
from psann_jax.interop.psannlm_legacy import legacy_base
from psann_jax.interop.psannlm_tokenizer import from_state
from psann_jax.model import LM

SCHEMAS = ("psannlm.model", "psannlm.trainer")
VERSION = 1
_COMMON = ("schema", "schema_version", "package_version", "config")
_KEYS = {  # kind -> (keys that are read, keys that are there for psannlm's own use)
    "psannlm.model": (("config", "state_dict", "tokenizer"), (*_COMMON, "device")),
    "psannlm.trainer": (
        ("config", "model", "data_state"),
        (*_COMMON, "optim", "cfg", "state", "scaler", "scheduler", "rng"),
    ),
    "legacy model": (("config", "state_dict"), ("device",)),
    "legacy trainer": (("config", "model", "data_state"), ("optim", "state", "cfg")),
}
_LENGTH = 1024  # psannlm's default row length, for files that do not say theirs


class Checkpoint(NamedTuple):
    """What a file holds: a model, and what it was trained with.

    Attributes:
      tokenizer: psannlm's state of it, or None; see `psannlm_tokenizer.from_state`.
      max_length: the row length of the training; 1024 where the file does not say.
      kind: psannlm.model, psannlm.trainer, legacy model or legacy trainer.
      notes: lines on what was not taken along, or is computed otherwise here.
    """

    base: Base
    model: LM
    tokenizer: dict[str, Any] | None
    max_length: int
    kind: str
    notes: tuple[str, ...]


def read_checkpoint(path: str | os.PathLike, dtype: str = "float32") -> Checkpoint:
    """Reads a model that psannlm saved, a checkpoint of its trainer, or one from before 2.0.

    Args:
      dtype: of the activations; weights are float32.

    Raises:
      ValueError: the file cannot be read, is of another kind, or holds a model that has no
        counterpart here; one line that names the file and the dotted key.
    """
    tree = torch_file.read(path)
    try:
        return _checkpoint(tree, dtype)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def load_checkpoint(path: str | os.PathLike, dtype: str = "float32") -> SavedModel:
    """What `read_checkpoint` reads, its tokenizer ready for use; errors as there."""
    found = read_checkpoint(path, dtype)
    try:
        tokenizer = None if found.tokenizer is None else from_state(found.tokenizer)
        check_vocabulary(found.base, tokenizer)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return SavedModel(found.base, found.model, tokenizer, found.max_length, found.notes)


def _checkpoint(tree: Any, dtype: str) -> Checkpoint:
    kind = _kind(tree)
    state = _state(tree, kind)
    check_numbers("config", tree["config"])
    base, notes = _base(tree, kind, state, dtype)
    check_sizes(base, state)
    model = with_state(base, state)
    if kind.endswith("trainer"):
        notes += ("its optimizer and step are not taken along; a training begins anew",)
    tokenizer, length = tree.get("tokenizer"), _length(tree)
    return Checkpoint(base, model, tokenizer, length, kind, notes + differences(base))


def _kind(tree: Any) -> str:
    if not isinstance(tree, dict):
        raise ValueError(f"it holds a {type(tree).__name__}, no model of psannlm")
    kind, version = tree.get("schema"), tree.get("schema_version")
    if "schema" not in tree:
        kind = next((k for k in ("state_dict", "model") if k in tree), None)
        if kind is None:
            raise ValueError("it holds no model of psannlm: no schema, state_dict or model")
        kind = {"state_dict": "legacy model", "model": "legacy trainer"}[kind]
    elif kind not in SCHEMAS:
        raise ValueError(f"schema={kind!r:.60} must be one of {', '.join(SCHEMAS)}")
    elif type(version) is not int or version != VERSION:
        raise ValueError(f"schema_version={version!r:.60} is not {VERSION}, the one known here")
    read, unread = _KEYS[kind]
    for key in tree:
        if key not in (*read, *unread):
            raise ValueError(f"{key} is unknown in a {kind}{nearest(str(key), (*read, *unread))}")
    if "config" not in tree:
        raise ValueError("it has no config; load it with psannlm, which can be given one, and save")
    return kind


def _state(tree: dict[str, Any], kind: str) -> dict[str, np.ndarray]:
    name = "model" if kind.endswith("trainer") else "state_dict"
    state = tree.get(name)
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{name} holds no tensors")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            raise ValueError(f"{name}.{key!s:.60} is no tensor")
        if value.dtype.kind == "c":
            raise ValueError(f"{name}.{key} is complex")
    if kind == "legacy trainer" and all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _base(
    tree: dict[str, Any], kind: str, state: Mapping[str, np.ndarray], dtype: str
) -> tuple[Base, tuple[str, ...]]:
    if kind != "legacy model":
        return canonical_base(tree["config"], dtype), ()
    table = state.get("embed.weight")
    if table is None or table.ndim != 2:
        raise ValueError("state_dict has no matrix embed.weight")
    return legacy_base(tree["config"], len(table), dtype)


def _length(tree: dict[str, Any]) -> int:
    data = tree.get("data_state")
    length = data.get("seq_len") if isinstance(data, dict) else None
    return length if type(length) is int and length > 0 else _LENGTH

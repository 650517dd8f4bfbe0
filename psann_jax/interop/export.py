"""A model as a file of psannlm (PyTorch): the one that its `load` reads, or weights alone."""

import json
import os
from pathlib import Path

from safetensors.numpy import save_file

from psann_jax.interop import torch_write
from psann_jax.interop.checkpoint import VERSION
from psann_jax.interop.folder import SavedModel
from psann_jax.interop.psannlm import to_state
from psann_jax.interop.psannlm_canonical import canonical_config
from psann_jax.interop.psannlm_tokenizer import to_state as tokenizer_state
from psann_jax.interop.whole_file import whole_file

PACKAGE_VERSION = "2.0.1"  # of the psannlm whose format this is
TORCH, SAFETENSORS = ".pt", ".safetensors"


def export(path: str | os.PathLike, saved: SavedModel) -> None:
    """Writes a model for psannlm; the file appears whole or not at all.

    A .pt file is what PSANNLM.save writes, tokenizer included. A .safetensors file has the
    weights under psannlm's names, and its config as JSON in the metadata "psannlm_config".

    Raises:
      ValueError: another ending, or psannlm has no such model or tokenizer; the way out.
    """
    path = Path(path)
    check_ending(path)
    config = canonical_config(saved.base)
    state = to_state(saved.model)
    if path.suffix == SAFETENSORS:
        with whole_file(path) as part:
            save_file(state, part, {"format": "pt", "psannlm_config": json.dumps(config)})
        return
    tree = {
        "schema": "psannlm.model",
        "schema_version": VERSION,
        "package_version": PACKAGE_VERSION,
        "config": config,
        "state_dict": state,
        "tokenizer": None if saved.tokenizer is None else tokenizer_state(saved.tokenizer),
        "device": "cpu",
    }
    torch_write.write(path, tree)


def check_ending(path: str | os.PathLike) -> None:
    """Raises ValueError for a name that says neither format."""
    if (ending := Path(path).suffix) not in (TORCH, SAFETENSORS):
        raise ValueError(f"{path} ends in {ending!r}; end it in {TORCH} or {SAFETENSORS}")

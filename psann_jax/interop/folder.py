"""A model as a folder: config.json, model.safetensors, tokenizer.model. JSON and arrays only."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from psann_jax import bases
from psann_jax.data import Tokenizer, load_tokenizer
from psann_jax.fields import is_whole, local_path
from psann_jax.interop.whole_file import whole_file
from psann_jax.model import LM
from psann_jax.nn.table import check_tables
from psann_jax.train.state import from_named_arrays, named_arrays

FORMAT, VERSION = "psann_jax.model", 1
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.model"
_MOST_JSON = 1 << 20  # bytes of a config that is read


class SavedModel(NamedTuple):
    """What a folder holds; `max_length` is the row length the model was trained on.

    `notes` are lines on what a file of another package held otherwise; no folder keeps them.
    """

    base: bases.Base
    model: LM
    tokenizer: Tokenizer | None
    max_length: int
    notes: tuple[str, ...] = ()


def save_folder(path: str | os.PathLike, saved: SavedModel) -> None:
    """Writes the folder; each file appears whole or not at all.

    Raises:
      ValueError: the folder cannot be written, or has a run's or another's files of these names.
    """
    folder = local_path("path", path)
    _refuse_files_of_others(folder)
    tree = {
        "format": FORMAT,
        "version": VERSION,
        "max_length": saved.max_length,
        "base": bases.to_tree(saved.base),
    }
    arrays = {name: np.ascontiguousarray(a) for name, a in named_arrays(saved.model).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the model cannot be saved in {folder}: {error}") from None
    with whole_file(folder / WEIGHTS) as part:
        save_file(arrays, part)
    if saved.tokenizer:
        with whole_file(folder / TOKENIZER) as part:
            saved.tokenizer.save(part)
    else:  # of a model that was saved here before
        (folder / TOKENIZER).unlink(missing_ok=True)
    with whole_file(folder / CONFIG) as part:
        part.write_text(json.dumps(tree, indent=2) + "\n")


def _refuse_files_of_others(folder: Path) -> None:
    """Raises ValueError where a file that would be replaced is not of a model saved before."""
    config, weights = folder / CONFIG, folder / WEIGHTS
    if config.exists():
        try:
            _config(config)
        except ValueError:
            raise ValueError(
                f"path {folder} has a config.json that is no saved model's, of a run for instance, "
                "which psannLM.load reads as it is; save the model in another folder"
            ) from None
    elif (folder / TOKENIZER).exists() and not weights.exists():
        raise ValueError(
            f"path {folder} has a tokenizer.model and no model; save the model in another folder"
        )


def is_model_folder(path: str | os.PathLike) -> bool:
    return (Path(path) / WEIGHTS).is_file()


def load_folder(path: str | os.PathLike) -> SavedModel:
    """Reads what `save_folder` wrote.

    Raises:
      ValueError: a file is missing, damaged, or does not fit the others.
    """
    folder = Path(path)
    for name in (CONFIG, WEIGHTS, TOKENIZER):
        if (folder / name).is_symlink():
            raise ValueError(f"{folder / name} is a link; copy the file that it names in its place")
    tree = _config(folder / CONFIG)
    base = bases.from_tree(tree["base"])
    like = jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))
    try:
        arrays = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, AttributeError) as error:  # the last: of a dtype
        raise ValueError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    for name, leaf in named_arrays(like).items():
        found = (arrays[name].shape, str(arrays[name].dtype)) if name in arrays else None
        if found != (wanted := (leaf.shape, str(leaf.dtype))):
            raise ValueError(f"{folder / WEIGHTS}: {name} is {found}, config.json wants {wanted}")
    model = jax.tree.map(jnp.asarray, from_named_arrays(arrays, like))
    try:
        check_tables(model)
    except ValueError as error:
        raise ValueError(f"{folder / WEIGHTS}: {error}") from None
    tokenizer = load_tokenizer(folder / TOKENIZER) if (folder / TOKENIZER).exists() else None
    check_vocabulary(base, tokenizer)
    return SavedModel(base, model, tokenizer, tree["max_length"])


def check_vocabulary(base: bases.Base, tokenizer: Tokenizer | None) -> None:
    """Raises ValueError for a tokenizer with ids that the model does not know."""
    if tokenizer and tokenizer.vocab_size > (known := base.vocab_size or 0):
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model knows {known}; "
            "take the tokenizer that it was trained with"
        )


def _config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ValueError(f"it is larger than {_MOST_JSON} bytes")
        tree = json.loads(path.read_text())
        if tree["format"] != FORMAT or tree["version"] != VERSION:
            raise ValueError(f"it is not of format {FORMAT} {VERSION}")
        if not is_whole(tree["max_length"]) or tree["max_length"] < 1:
            raise ValueError(f"max_length={tree['max_length']!r} must be a whole number above 0")
        return {"base": dict(tree["base"]), "max_length": tree["max_length"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no model config: {error}") from None

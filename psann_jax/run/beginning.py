"""What a run began with that its config does not say: the rows, and what a program gave it."""

import dataclasses
import hashlib

import numpy as np

from psann_jax.data import CorpusMeta
from psann_jax.model import LM
from psann_jax.train.state import named_arrays


@dataclasses.dataclass(frozen=True)
class Given:
    """What a program gave a run, so that no field of the config leads back to it."""

    texts_in_memory: bool = False
    validation_apart: bool = False  # texts of its own, not a split of data.sources
    weights: str | None = None  # `digest` of those that the run began from; None: it drew new ones


def identity(meta: CorpusMeta) -> dict[str, int | str]:
    """What tells one corpus from another without its text: counts, and a digest of the rows."""
    parts = {"train": meta.train, "val": meta.val}
    return {
        f"{name}_{unit}": getattr(part, unit)
        for name, part in parts.items()
        if part
        for unit in ("documents", "tokens", "bytes", "rows", "sha256")
    }


def digest(model: LM | None) -> str | None:
    """SHA-256 of a model's weights; None of none."""
    if model is None:
        return None
    found = hashlib.sha256()
    for name, array in sorted(named_arrays(model).items()):
        found.update(f"{name} {array.dtype} {array.shape} ".encode())
        found.update(np.asarray(array).tobytes())
    return found.hexdigest()

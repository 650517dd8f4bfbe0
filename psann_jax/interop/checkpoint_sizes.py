"""Whether a config is of the size of its weights, before anything of that size is made.

A file may ask for more memory or time than there is; every number is held against the arrays
that the file really has.
"""

from collections.abc import Mapping
import re
from typing import Any

from flax import nnx
import jax
import numpy as np

from psann_jax.model import LM, parameter_count

# Of what a config may ask for: times the numbers in its file; pairs of a feature and a neighbour.
_MOST_EXTRA, _MOST_NEIGHBOURS = 2, 1 << 26
_MOST_NUMBER, _MOST_SEED = (1 << 31) - 1, (1 << 63) - 1


def check_numbers(name: str, value: Any) -> None:
    """Raises ValueError for a number in a config that no size, rate or seed can be."""
    if isinstance(value, dict):
        for key, inside in value.items():
            check_numbers(f"{name}.{key}", inside)
    elif isinstance(value, list | tuple):
        for inside in value:
            check_numbers(name, inside)
    elif isinstance(value, int | float):
        most = _MOST_SEED if name.endswith("seed") else _MOST_NUMBER
        if not -most <= value <= most:
            raise ValueError(f"{name}={value!s:.40} is not within {most}")


def check_sizes(base: Any, state: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError if the config of a base is of another size than the weights.

    Args:
      state: the weights under psannlm's names.
    """
    _check_shape(state, "embed.weight", (base.vocab_size, base.d_model))
    _check_count(state, r"blocks\.(\d{1,9})\.", "n_layers", base.n_layers)
    if (geometry := getattr(base, "geometry", None)) is not None:
        width = base.mlp_features
        _check_shape(state, "blocks.0.mlp.blocks.0.fc1.weight", (width, geometry.k))
        depth = r"blocks\.0\.mlp\.blocks\.(\d{1,9})\."
        _check_count(state, depth, "architecture.geometry_execution.depth", geometry.depth)
        near = len(geometry.offsets) if geometry.offsets else (2 * geometry.radius + 1) ** 2
        if width * near > _MOST_NEIGHBOURS:
            raise ValueError(
                f"config.architecture.geometry.radius={geometry.radius} gives {width} features "
                f"{near} neighbours each, more than {_MOST_NEIGHBOURS} in all"
            )
    wanted = parameter_count(jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0))))
    if wanted > _MOST_EXTRA * (there := sum(array.size for array in state.values())):
        raise ValueError(f"its config wants {wanted} weights, the file has {there}")


def _check_shape(state: Mapping[str, np.ndarray], name: str, wanted: tuple) -> None:
    if name not in state:
        raise ValueError(f"its weights lack {name}")
    if (found := state[name].shape) != wanted:
        raise ValueError(f"{name} has shape {found}, the config wants {wanted}")


def _check_count(state: Mapping[str, np.ndarray], pattern: str, key: str, wanted: int) -> None:
    numbers = (re.match(pattern, name) for name in state)
    there = 1 + max((int(number[1]) for number in numbers if number), default=-1)
    if wanted != there:
        raise ValueError(f"config.{key}={wanted}, but the weights have {there} blocks")

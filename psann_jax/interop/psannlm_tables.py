"""Index tables of psannlm's geometric-sparse network, and what it leaves out of its files."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from psann_jax.bases import Base
from psann_jax.model import LM
from psann_jax.nn.attention import Attention
from psann_jax.nn.mixed import Mixed, order
from psann_jax.nn.sparse import GeoSparseMLP, SparsePair, of_block
from psann_jax.nn.table import table
from psann_jax.ops.stencil import neighbours


class _Place(NamedTuple):
    """A pair of sparse layers, stacked over `rows`, as block `depth` of its MLP."""

    pair: SparsePair
    depth: int
    rows: range

    def names(self, row: int) -> list[str]:
        prefix = f"blocks.{row}.mlp.blocks.{self.depth}"
        return [f"{prefix}.fc{i}.in_index_per_out" for i in (1, 2)]

    def near(self) -> np.ndarray:
        """Candidates of every feature, [M, C]."""
        return neighbours(self.pair.shape, self.pair.offsets, self.pair.border)


def rows(model: LM, number: int) -> range:
    """The blocks there that sublayer `number` of the period stands for, one a repeat."""
    sublayers = list(model.stack.layers)
    blocks = sum(isinstance(s.mixer, Attention) for s in sublayers)  # every block has one
    per_block = len(sublayers) // blocks
    return range(number // per_block, model.stack.repeats * blocks, blocks)


def _places(model: LM) -> Iterator[_Place]:
    for number, sublayer in enumerate(model.stack.layers):
        if isinstance(sublayer.mixer, GeoSparseMLP):
            for depth, block in enumerate(sublayer.mixer.blocks):
                pair: Any = block.mixer
                yield _Place(pair, depth, rows(model, number))


def names(model: LM) -> list[str]:
    """The tables in a state dict of this model."""
    return [n for place in _places(model) for row in place.rows for n in place.names(row)]


def edges(model: LM, state: Mapping[str, np.ndarray]) -> set[str]:
    """Names of what psannlm's scatter mode stores beside a table: the same connections, listed.

    Raises:
      ValueError: a list says something else than its table.
    """
    found: set[str] = set()
    for name in names(model):
        index = np.asarray(state.get(name, np.zeros((0, 0))))
        lists = {"src_index": index.ravel(), "dst_index": np.indices(index.shape)[0].ravel()}
        for end, wanted in lists.items():
            other = name.replace("in_index_per_out", end)
            if other in state and not np.array_equal(state[other], wanted):
                raise ValueError(f"{other} does not list the connections of {name}")
            found |= {other} & set(state)
    return found


def dump(model: LM) -> dict[str, np.ndarray]:
    """The tables of a model, (M, k) int64 each."""
    state: dict[str, np.ndarray] = {}
    for place in _places(model):
        near, choice = place.near(), place.pair.choice
        for i, row in enumerate(place.rows):
            index = near if choice is None else _chosen(near, np.asarray(choice[...])[i])
            index = np.ascontiguousarray(index, np.int64)  # safetensors writes memory as it lies
            state |= dict.fromkeys(place.names(row), index)
    return state


def _chosen(near: np.ndarray, choice: np.ndarray) -> np.ndarray:
    return np.take_along_axis(near, choice.T, axis=1)


def load(base: Base, like: LM, state: Mapping[str, np.ndarray]) -> LM:
    """`like`, its tables filled from a state dict; its weights stay shapes.

    Raises:
      ValueError: a table is not of the config's geometry, or cannot be known.
    """
    model = jax.tree.map(lambda a: a, like)
    for place in _places(model):
        tables = [_choice(place, row, state) for row in place.rows]
        if place.pair.choice is not None:
            place.pair.choice = table(np.stack(tables), (None, "mlp"), len(place.pair.offsets))
        act: Any = place.pair.act
        if isinstance(act, Mixed):
            features = place.near().shape[0]
            one = _order(base, features, place.depth)
            act.order = table(np.stack([one] * len(place.rows)), (None,), features)
    return model


def _choice(place: _Place, row: int, state: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which neighbour each connection of a block is, [k, M]."""
    near, (first, second) = place.near(), place.names(row)
    index = np.asarray(state[first])
    if not np.array_equal(index, state[second]):
        raise ValueError(f"{first} and {second} differ; both layers of a block read one table")
    if place.pair.choice is None:
        if not np.array_equal(index, near):
            raise ValueError(f"{first} is not the local neighbourhood of the config's geometry")
        return np.zeros(0)
    wanted = (near.shape[0], place.pair.choice.shape[-2])
    if index.shape != wanted:
        raise ValueError(f"{first} has shape {index.shape}, the config wants {wanted}")
    choice = np.empty(wanted[::-1], np.int32)
    for i in range(wanted[1]):  # all k at once would be [M, k, C]
        same = index[:, i, None] == near  # [M, C]
        if not same.any(-1).all():
            raise ValueError(f"{first} connects features that the config's radius does not reach")
        choice[i] = same.argmax(-1)
    return choice


def _order(base: Any, features: int, depth: int) -> np.ndarray:
    """Which features are of which kind: psannlm stores the seed of it alone."""
    config = of_block(base.mixed, depth)
    if config.layout == "random" and config.seed is None:
        raise ValueError(
            "psannlm drew the layout of the mixed activation without a seed and did not store it, "
            "so no reader can know which feature is of which kind"
        )
    return np.asarray(order(features, config))

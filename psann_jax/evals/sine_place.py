"""Where the sines of a model are, and what to call them."""

from collections.abc import Sequence
import dataclasses
import re
from typing import Any

from flax import nnx

from psann_jax.bases import Base
from psann_jax.model import LM
from psann_jax.nn.block import Residual
from psann_jax.nn.sine import Sine

Path = tuple[Any, ...]  # attributes and indices, from the model on


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a sine is: the layer, counted from 0, and what holds it there ("mlp", "wave 2")."""

    layer: int | None  # None: outside of the layers
    holder: str

    @property
    def name(self) -> str:
        return self.holder if self.layer is None else f"layer {self.layer} {self.holder}"


def sine_paths(apart: LM) -> list[Path]:
    """Attributes and indices that lead to each sine of a model with its layers apart."""
    return [path for path, module in nnx.iter_modules(apart) if isinstance(module, Sine)]


def at(module: Any, path: Path) -> Any:
    """What the path leads to."""
    for key in path:
        module = module[key] if isinstance(key, int) else getattr(module, key)
    return module


def put(module: Any, path: Path, value: Any) -> None:
    """Sets what the path leads to."""
    parent, key = at(module, path[:-1]), path[-1]
    if isinstance(key, int):
        parent[key] = value
    else:
        setattr(parent, key, value)


def sine_places(apart: LM, base: Base, paths: Sequence[Path]) -> list[Place]:
    """The place of each path; sines of one name in one layer are numbered from 1."""
    pattern = base.pattern()
    blocks = [i for i, block in enumerate(pattern) for _ in block]  # of each sublayer
    found: list[Place] = []
    for path in paths:
        if path[:2] != ("stack", "layers"):
            found.append(Place(None, " ".join(map(str, path))))
            continue
        layer = path[2] * len(pattern) + blocks[path[3]]
        found.append(Place(layer, _holder(at(apart, path[:4]), path[4:])))
    numbered = []
    for i, place in enumerate(found):
        if found.count(place) > 1:
            nth = found[: i + 1].count(place)
            place = dataclasses.replace(place, holder=f"{place.holder} {nth}")
        numbered.append(place)
    return numbered


def _holder(module: Any, path: Path) -> str:
    """The mixer in words, and the way from it to a sine that is not simply its `act`."""
    while isinstance(module, Residual):
        module, path = at(module, path[:1]), path[1:]
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(module).__name__).lower()
    return " ".join([words, *(str(key) for key in path if key != "act")])

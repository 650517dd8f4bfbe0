"""The assembled config of a run: a tree of dataclasses, checked as a whole, and its JSON."""

import dataclasses
import json

from psann_jax import bases
from psann_jax.data import DataConfig
from psann_jax.fields import checked, from_tree, leaves, nearest
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig

__all__ = ["Config", "MeshConfig", "checked", "from_json", "leaves", "nearest", "to_json"]


@dataclasses.dataclass(kw_only=True)
class MeshConfig:
    """Sizes of the device mesh; one may be -1 and takes the devices that are left."""

    data: int = -1  # copies of the model, each with its share of the batch
    fsdp: int = 1  # the batch is spread, and so are weights and optimizer
    tensor: int = 1  # heads, MLP features and vocabulary are spread


@dataclasses.dataclass(kw_only=True)
class Config:
    """Everything a run is made from; saved as config.json beside what it makes."""

    base: bases.Base = dataclasses.field(default_factory=bases.get("waveresnet"))
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    workdir: str = "runs/default"

    def __post_init__(self):
        if self.train.batch_tokens < self.data.max_length:
            raise ValueError(
                f"train.batch_tokens={self.train.batch_tokens} is less than one row of "
                f"data.max_length={self.data.max_length} tokens; raise it or shorten the rows"
            )
        if self.data.order == "tracks" and not self.base.recurrent:
            fit = [name for name in bases.names() if bases.get(name).recurrent]
            raise ValueError(
                f"data.order='tracks' carries states over all of the text, and those of "
                f"base={bases.name_of(self.base)!r} grow with it; set data.order='shuffled', or "
                f"take a base whose states have a fixed size{': ' if fit else ''}{', '.join(fit)}"
            )


def to_json(config: Config) -> str:
    """The config as JSON; the base carries its registered name."""
    tree = {**dataclasses.asdict(config), "base": bases.to_tree(config.base)}
    return json.dumps(tree, indent=2) + "\n"


def from_json(text: str) -> Config:
    """The config of `to_json`.

    Raises:
      ValueError: it is no JSON object with a base, or has an unknown field or base.
    """
    tree = json.loads(text)
    if not isinstance(tree, dict) or not isinstance(tree.get("base"), dict):
        raise ValueError("the config is not a JSON object with a base")
    return from_tree(Config, {**tree, "base": bases.from_tree(tree["base"])})

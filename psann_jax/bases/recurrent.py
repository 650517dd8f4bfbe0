"""What the bases share that read text without attention: no positions, states of one size."""

import dataclasses
from typing import ClassVar

from psann_jax.bases.base import Base


@dataclasses.dataclass(kw_only=True)
class Recurrent(Base):
    """A base whose mixers know the order of tokens by themselves, and carry states of one size."""

    positions: ClassVar[tuple[str, ...]] = ("none",)
    recurrent: ClassVar[bool] = True

    positional_encoding: str = "none"

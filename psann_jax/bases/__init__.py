"""Bases by name: `get("waveresnet")(vocab_size=512)`. A base says which mixers repeat."""

from psann_jax.bases.base import Base
from psann_jax.bases.geosparse import GeoSparse
from psann_jax.bases.groundthink import GroundThink
from psann_jax.bases.mamba2 import Mamba2LM
from psann_jax.bases.presets import list_presets, preset
from psann_jax.bases.recurrent import Recurrent
from psann_jax.bases.registry import elsewhere, from_tree, get, name_of, names, register, to_tree
from psann_jax.bases.respsann import ResPSANN
from psann_jax.bases.rwkv6 import RWKV6
from psann_jax.bases.sgrpsann import SGRPSANN
from psann_jax.bases.transformer import Transformer
from psann_jax.bases.waveresnet import WaveResNet

__all__ = [
    "Base",
    "GeoSparse",
    "GroundThink",
    "RWKV6",
    "Recurrent",
    "Mamba2LM",
    "ResPSANN",
    "SGRPSANN",
    "Transformer",
    "WaveResNet",
    "elsewhere",
    "from_tree",
    "get",
    "list_presets",
    "name_of",
    "names",
    "preset",
    "register",
    "to_tree",
]

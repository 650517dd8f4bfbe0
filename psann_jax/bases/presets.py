"""Ready-made bases by name: the sizes and fusions of GroundThink V4.

The names "1M", "5M" and "8M" are the family's; the models have 0.5, 3.1 and 6.6 million parameters
with a vocabulary of 97 characters.
"""

from typing import Any

from psann_jax.bases.base import Base
from psann_jax.bases.groundthink import GroundThink
from psann_jax.fields import nearest
from psann_jax.nn.fusion import FusionConfig

_1M = {"d_model": 64, "n_layers": 4, "n_heads": 2}
_5M = {"d_model": 128, "n_layers": 8, "n_heads": 4}
_8M = {"d_model": 192, "n_layers": 8, "n_heads": 6}
_PRESETS: dict[str, dict[str, Any]] = {
    "1M": _1M,
    "5M": _5M,
    "HY": _5M,
    "GF": _5M | {"fusion": FusionConfig(kind="gate")},
    "WS": _5M | {"fusion": FusionConfig(kind="blend")},
    "RF": _5M | {"fusion": FusionConfig(kind="correction")},
    "CP": _5M | {"fusion": FusionConfig(kind="projection")},
    "GF-RH": _5M | {"fusion": FusionConfig(kind="gate", gate_init=0.7)},
    "GF-MH": _5M | {"fusion": FusionConfig(kind="gate", gate_init=0.3)},
    "HGF": _5M | {"fusion": FusionConfig(kind="wide_gate")},
    "8M": _8M | {"fusion": FusionConfig(kind="gate", gate_init=0.3)},
}
_ALSO = {"TINY": "1M", "SMALL": "5M", "MEDIUM": "8M"}


def list_presets() -> list[str]:
    """The names that `preset` knows."""
    return list(_PRESETS)


def preset(name: str, **fields: Any) -> Base:
    """The base called `name`, in whatever case; `fields` replace its own.

    Raises:
      ValueError: no preset has this name, or the base refuses a value.
    """
    if not isinstance(name, str):
        raise ValueError(f"preset={name!r} must be a name; known: {', '.join(_PRESETS)}")
    known = _ALSO.get(name.upper(), name.upper())
    if known not in _PRESETS:
        near = nearest(known, _PRESETS)
        raise ValueError(f"preset={name!r} is unknown{near}; known: {', '.join(_PRESETS)}")
    return GroundThink(**{**_PRESETS[known], **fields})

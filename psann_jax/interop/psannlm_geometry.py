"""psannlm's flat geosparse_* arguments -> the fields of the geosparse base."""

from collections.abc import Mapping
import re
from typing import Any

from psann_jax.fields import from_tree
from psann_jax.nn.mixed import MixedConfig
from psann_jax.nn.sparse import GeometryConfig

_GEOMETRY = ("shape", "k", "pattern", "radius", "offsets", "wrap_mode", "bias", "seed", "depth")
_MIXED = {"activation_types": "types", "activation_ratios": "ratios", "activation_layout": "layout"}
_BASE = {"norm": "norm", "drop_path_max": "drop_path", "residual_alpha_init": "alpha_init"}
# How psannlm computes, not what: gather or scatter, how many outputs at a time, a tolerance.
_WAYS = ("compute_mode", "chunk_size", "activation_ratio_sum_tol")
_PREFIX = "geosparse_"
SPARSE_NAMES = tuple(_PREFIX + n for n in (*_GEOMETRY, *_MIXED, *_BASE, *_WAYS, "activation"))


def sparse_fields(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments that are not geosparse's own, and the fields that those set.

    psannlm's one seed is of the tables and of the mixed activation; there the activation is
    `geosparse_activation`, and `mlp_activation` has no effect.

    Raises:
      ValueError: a value that the geometry refuses.
    """
    own = {k.removeprefix(_PREFIX): v for k, v in config.items() if k in SPARSE_NAMES}
    rest = {k: v for k, v in config.items() if k not in SPARSE_NAMES}
    fields = {theirs: own[name] for name, theirs in _BASE.items() if name in own}
    for name, theirs in _BASE.items():
        if name in own and rest.get(theirs) is not None:
            raise ValueError(f"{theirs} and {_PREFIX}{name} set the same; give one")
    _check_ways(own)
    geometry = {name: own[name] for name in _GEOMETRY if name in own}
    if isinstance(shape := geometry.get("shape"), str):
        if not re.fullmatch(r"\d+[xX]\d+", shape):
            raise ValueError(f"geosparse_shape={shape!r} must be two whole numbers, as '16x32'")
        geometry["shape"] = [int(n) for n in shape.lower().split("x")]
    if geometry and rest.get("geometry") is not None:
        raise ValueError(f"geometry and {_PREFIX}{next(iter(geometry))} set the same; give one")
    mixed = {ours: own[name] for name, ours in _MIXED.items() if own.get(name) is not None}
    activation = rest.get("mlp_activation")
    if "activation" in own:
        if activation is not None and _ours(activation) not in ("sine", _ours(own["activation"])):
            raise ValueError(
                f"mlp_activation={activation!r} and geosparse_activation={own['activation']!r} "
                "set the same; give one"
            )
        rest.pop("mlp_activation", None)
        activation = fields["mlp_activation"] = _ours(own["activation"])
    if "types" in mixed:
        mixed["types"] = tuple(map(_ours, mixed["types"]))
    if mixed and activation != "mixed":
        raise ValueError(
            f"geosparse_activation={activation!r} has no types and ratios; give 'mixed'"
        )
    if mixed and rest.get("mixed") is not None:
        name = next(name for name in _MIXED if own.get(name) is not None)
        raise ValueError(f"mixed and {_PREFIX}{name} set the same; give one")
    if activation == "mixed" and rest.get("mixed") is None:
        fields["mixed"] = from_tree(MixedConfig, {**mixed, "seed": own.get("seed")}, "base.mixed.")
    if geometry:
        fields["geometry"] = from_tree(GeometryConfig, geometry, "base.geometry.")
    return rest, fields


def _check_ways(own: Mapping[str, Any]) -> None:
    """What moves no number must at least be what psannlm takes."""
    if own.get("compute_mode", "gather") not in ("gather", "scatter"):
        mode = own["compute_mode"]
        raise ValueError(f"geosparse_compute_mode={mode!r} must be gather or scatter")
    for name in ("chunk_size", "activation_ratio_sum_tol"):
        value = own.get(name)
        if value is not None and not (isinstance(value, int | float) and value >= 0):
            raise ValueError(f"{_PREFIX}{name}={value!r} must be a number >= 0")


def _ours(kind: str) -> str:
    return "sine" if kind == "psann" else kind

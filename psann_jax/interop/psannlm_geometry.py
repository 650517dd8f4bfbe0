"""psannlm's flat geosparse_* arguments -> the fields of the geosparse base."""

from collections.abc import Mapping
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
    geometry = {name: own[name] for name in _GEOMETRY if name in own}
    if isinstance(geometry.get("shape"), str):  # "16x32"
        geometry["shape"] = [int(n) for n in geometry["shape"].lower().split("x")]
    mixed = {ours: own[name] for name, ours in _MIXED.items() if own.get(name) is not None}
    if "activation" in own:
        rest.pop("mlp_activation", None)
        fields["mlp_activation"] = _ours(own["activation"])
    if "types" in mixed:
        mixed["types"] = tuple(map(_ours, mixed["types"]))
    if fields.get("mlp_activation") == "mixed":
        fields["mixed"] = from_tree(MixedConfig, {**mixed, "seed": own.get("seed")}, "base.mixed.")
    if geometry:
        fields["geometry"] = from_tree(GeometryConfig, geometry, "base.geometry.")
    return rest, fields


def _ours(kind: str) -> str:
    return "sine" if kind == "psann" else kind

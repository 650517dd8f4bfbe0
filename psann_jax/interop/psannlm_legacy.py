"""The flat config of models that psannlm saved before its version 2.0 -> a base here."""

from collections.abc import Mapping
from typing import Any

from psann_jax.bases import Base
from psann_jax.fields import nearest
from psann_jax.interop.psannlm_config import base_config

_DEFAULTS: dict[str, Any] = {  # of psannlm's psannLM
    "base": "waveresnet",
    "d_model": 512,
    "n_layers": 8,
    "n_heads": 8,
    "d_mlp": None,
    "vocab_size": None,
    "positional_encoding": None,
    "rope": True,
    "sine": None,
    "overrides": None,
}
_SINE = {f"{name}_init{end}": 0.0 for name in ("amp", "freq", "damp") for end in ("", "_std")}
_SINE |= {"amp_init": 1.0, "freq_init": 1.0, "damp_init": 0.01, "trainable": True}
_FLAT_SINE = {f"sine_{n}": n for n in ("amp_init", "freq_init", "damp_init", "trainable")}
_READ_OVERRIDES = ("dropout", "mlp_activation")  # psannlm kept the others, and read none of them


def legacy_base(
    config: Mapping[str, Any], vocab_size: int, dtype: str = "float32"
) -> tuple[Base, tuple[str, ...]]:
    """The base that psannlm built from a flat config, and what of the config it did not read.

    Args:
      vocab_size: of the weights, for a config that leaves it open.

    Raises:
      ValueError: an unknown key, or a value that the base refuses; the dotted name.
    """
    given = _known(config, "config", {**_DEFAULTS, **_FLAT_SINE})
    found = {**_DEFAULTS, **given}
    overrides = found.pop("overrides") or {}
    if not isinstance(overrides, Mapping):
        raise ValueError(f"config.overrides={overrides!r:.60} must be a mapping")
    sine = _known(found.pop("sine") or {}, "config.sine", _SINE)
    sine |= {name: found.pop(key) for key, name in _FLAT_SINE.items() if key in found}
    name, rope = found.pop("base"), found.pop("rope")
    fields = found | {key: overrides[key] for key in _READ_OVERRIDES if key in overrides}
    fields["positional_encoding"] = found["positional_encoding"] or (
        "rope" if rope else "sinusoidal"
    )
    fields["vocab_size"] = found["vocab_size"] or vocab_size
    for key in ("d_model", "d_mlp", "vocab_size"):
        if not isinstance(found[key], int | None):
            raise ValueError(f"config.{key}={found[key]!r:.60} must be a whole number")
    fields["d_mlp"] = found["d_mlp"] or 4 * found["d_model"]
    if name == "geosparse":
        fields.pop("mlp_activation", None)  # its activation was an option that was not read
    if name != "transformer" and fields.get("mlp_activation", "sine") in ("sine", "psann"):
        fields["sine"] = {**_SINE, **sine}
    idle = sorted(set(overrides) - set(_READ_OVERRIDES))
    said = "psannlm did not read its config.overrides.{}, and nor is it read here"
    return base_config(name, fields, dtype=dtype), tuple(map(said.format, idle))


def _known(config: Any, path: str, known: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(config, Mapping):
        raise ValueError(f"{path}={config!r:.60} must be a mapping")
    for key in config:
        if key not in known:
            raise ValueError(f"{path}.{key} is unknown{nearest(str(key), known)}")
    return dict(config)

"""psannlm's argument names -> the config of a base here."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from psann_jax import bases
from psann_jax.bases import Base
from psann_jax.fields import from_tree, nearest
from psann_jax.interop.psannlm_geometry import SPARSE_NAMES, sparse_fields
from psann_jax.nn.sine import PARAMETERS, SineConfig

_SIZES = ("vocab_size", "d_model", "n_layers", "n_heads", "d_mlp", "dropout")
_SINE = {"amp": "amplitude", "freq": "frequency", "damp": "damping"}
_ALIASES = {**_SINE, "decay": "damping"}
_SUFFIXES = {"_init": "", "_init_std": "_std", "_range": "_range", "_bounds": "_bounds"}
_SINE_OPTIONS = {
    ours + end: theirs + to for ours, theirs in _SINE.items() for end, to in _SUFFIXES.items()
}
WAVE_NAMES = {
    "wave_kernel_size": "kernel",
    "wave_dilation_growth": "dilation_growth",
    "wave_dropout": "wave_dropout",
}
_MODES = {  # (wave_interleave, wave_replace) -> what psannlm computes
    (False, False): "off",
    (True, False): "interleave",
    (True, True): "psannlm-replace",
    (False, True): "psannlm-attention-only",
}
ATTENTION_IMPLEMENTATIONS = ("math", "sdpa", "auto")  # one function, so all mean the same here


def base_config(base_name: str, config: Mapping[str, Any], dtype: str = "float32") -> Base:
    """The base that computes what psannlm's `base_name` does with these builder arguments.

    Raises:
      ValueError: an unknown base or argument, or one that the base does not have.
    """
    fields: dict[str, Any] = {"dtype": dtype, **flat_fields(base_name, config)}
    if base_name == "waveresnet":
        modes = bool(config.get("wave_interleave")), bool(config.get("wave_replace"))
        fields["wave"] = _MODES[modes]
        if not modes[0]:  # without the wave psannlm reads none of its options
            fields = {k: v for k, v in fields.items() if k not in WAVE_NAMES.values()}
    return bases.from_tree({"name": base_name, **fields})


def flat_fields(base_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the base that psannlm's flat arguments set, without the wave's mode."""
    known = {f.name for f in dataclasses.fields(bases.get(base_name))}
    fields: dict[str, Any] = {}
    if base_name == "geosparse":
        config, fields = sparse_fields(config)
    for name, value in config.items():
        if name in ("wave_interleave", "wave_replace") and "wave" in known:
            continue
        fields |= _translated(base_name, name, value, known)
    return fields


def _translated(base_name: str, name: str, value: Any, known: set[str]) -> dict[str, Any]:
    if name in ("positional_encoding", "pos_enc"):
        return {"positional_encoding": str(value).lower().strip()}
    if name == "attn_impl" and value in ATTENTION_IMPLEMENTATIONS:
        return {}
    if name == "mlp_activation":
        value = "sine" if value == "psann" else value
        coerced = value == "sine" and "sine" not in known  # as psannlm's transformer does
        return {name: "gelu" if coerced else value}
    if name in ("sine", "sine_params") and "sine" in known:
        return {"sine": sine_config(value)}
    ours = WAVE_NAMES.get(name, name)
    if ours not in known or ours == "sine":
        raise ValueError(_unknown(base_name, name, known))
    return {ours: value}


def _unknown(base_name: str, name: str, known: set[str]) -> str:
    if where := bases.elsewhere(WAVE_NAMES.get(name, name)):
        return f"base {base_name!r} has no option {name!r}{where}"
    theirs = SPARSE_NAMES if base_name == "geosparse" else WAVE_NAMES if "wave" in known else ()
    return f"base {base_name!r} has no option {name!r}{nearest(name, sorted({*known, *theirs}))}"


def sine_config(options: Mapping[str, Any] | object) -> SineConfig:
    """SineConfig of psannlm's sine_params: a mapping, or an object with these attributes.

    Takes amp_init, freq_init, damp_init, their _init_std, _range and _bounds, trainable,
    learnable and decay_mode, and the names of SineConfig themselves.

    Raises:
      ValueError: an unknown name, or a value that SineConfig refuses.
    """
    if isinstance(options, SineConfig):
        return options
    if not isinstance(options, Mapping) and not hasattr(options, "__dict__"):
        raise ValueError(f"sine_params={options!r} must be a mapping, as {{'freq_init': 2.0}}")
    options = dict(options) if isinstance(options, Mapping) else dict(vars(options))
    trainable = options.pop("trainable", True)
    if not isinstance(trainable, bool):
        raise ValueError(f"sine_params.trainable={trainable!r} must be True or False")
    learnable = options.pop("learnable", None)
    fields: dict[str, Any] = {}
    for name, value in options.items():
        fields[_sine_field(name)] = tuple(value) if isinstance(value, list) else value
    if learnable is not None:
        learnable = [learnable] if isinstance(learnable, str) else learnable
        if not isinstance(learnable, list | tuple | set | frozenset):
            raise ValueError(f"sine_params.learnable={learnable!r} must name parameters")
        fields["learnable"] = tuple(_parameter(n) for n in learnable)
    elif not trainable:
        fields["learnable"] = ()
    for name in PARAMETERS:
        std = fields.get(f"{name}_std", 0.0)
        if isinstance(std, int | float) and std < 0:  # psannlm takes it for none
            fields[f"{name}_std"] = 0.0
        elif isinstance(std, int | float) and std > 0:  # there it goes before a range
            fields.pop(f"{name}_range", None)
    return from_tree(SineConfig, fields, "base.sine.")


def _sine_field(name: str) -> str:
    if name in ("decay_mode", "envelope"):
        return "envelope"
    ours = {f.name for f in dataclasses.fields(SineConfig)}
    if name in _SINE_OPTIONS or name in ours:
        return _SINE_OPTIONS.get(name, name)
    start = _ALIASES.get(name, "")
    options = [*_SINE_OPTIONS, *sorted(ours), "trainable"]
    hint = next((f"; give {o}" for o in options if _SINE_OPTIONS.get(o) == start), "")
    hint = hint or nearest(name, options)
    raise ValueError(f"sine_params has no option {name!r}{hint}")


def _parameter(name: str) -> str:
    return _ALIASES.get(name, name)

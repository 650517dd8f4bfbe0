"""psannlm's canonical config, a mapping of kind "lm" <-> the base here that computes the same.

Both ways are exact: every key of theirs becomes a field or is refused, and what a base becomes
is complete and has no value without effect, as psannlm demands.
"""

from collections.abc import Mapping
from typing import Any

from psann_jax import bases
from psann_jax.bases import Base
from psann_jax.fields import nearest
from psann_jax.interop import psannlm_policies as theirs
from psann_jax.interop.psannlm_policies import Tree

_ACTIVATIONS = {  # base -> the values of mlp_activation that psannlm has too
    "respsann": ("sine", "gelu"),
    "sgrpsann": ("sine", "gelu"),
    "waveresnet": ("sine", "gelu"),
    "geosparse": ("sine", "gelu", "relu", "tanh", "mixed"),
    "transformer": ("gelu", "relu"),
}
_WAY_OUT = "save it as a folder instead"


def canonical_base(mapping: Mapping[str, Any], dtype: str = "float32") -> Base:
    """The base that computes what psannlm does with this config, but for `differences`.

    Args:
      mapping: psannlm's LMConfig as a mapping; keys left out have its defaults.
      dtype: of the activations.

    Raises:
      ValueError: a key is unknown, or has no counterpart or no effect; its dotted name.
    """
    model = _section(mapping, "config", theirs.MODEL)
    architecture = _section(model["architecture"], "config.architecture", theirs.ARCHITECTURE)
    kind = architecture["kind"]
    if model["kind"] != "lm":
        raise ValueError(f"config.kind={model['kind']!r} must be 'lm'")
    if not isinstance(kind, str) or kind not in theirs.BASES or kind == "spectral":
        raise ValueError(f"config.architecture.kind={kind!r} is unknown")
    if kind == "residual" and architecture["spectral"] is not None:
        kind = "spectral"
    name, policies = theirs.BASES[kind]
    fields = {key: model[key] for key in theirs.SIZES} | _activation(architecture)
    for policy, names in theirs.NAMES.items():
        if (architecture[policy] is not None) != (policy in policies):
            wants = "is needed" if policy in policies else "has no effect"
            raise ValueError(f"config.architecture.{policy} {wants} in a {kind} network")
        if policy in policies:
            found = _ours(_policy(architecture, policy, used=names), names)
            _into(fields, policy).update(found)
    return bases.from_tree({"name": name, "dtype": dtype, **fields})


def _into(fields: Tree, policy: str) -> Tree:
    """Where the fields of a policy stand in those of a base."""
    return fields.setdefault("geometry", {}) if policy in theirs.GEOMETRY else fields


def _activation(architecture: Tree) -> Tree:
    """mlp_activation, and `sine` and `mixed` if they are read."""
    path = "config.architecture.activation"
    asked = _section(architecture["activation"], path, theirs.POLICIES["activation"])
    mixed = theirs.MIXED if asked["kind"] == "mixed" else {}
    has_sine = "psann" in ((asked["activation_types"] or ()) if mixed else (asked["kind"],))
    sine = (*theirs.SINE, "bounds") if has_sine else ()
    found = _policy(architecture, "activation", used=("kind", *mixed, *sine))
    fields: Tree = {"mlp_activation": _value("kind", found["kind"])}
    if mixed:
        fields["mixed"] = _ours(found, mixed)
    start = architecture["activation_initialization"]
    if has_sine:
        bounds = _section(found["bounds"] or {}, f"{path}.bounds", dict.fromkeys(theirs.BOUNDS))
        fields["sine"] = _ours(found, theirs.SINE) | _ours(bounds, theirs.BOUNDS)
    elif start is not None:
        raise ValueError("config.architecture.activation_initialization has no sine to start")
    if start is not None:
        names = theirs.INITIALIZATION
        fields["sine"] |= _ours(_policy(architecture, "activation_initialization", names), names)
    return fields


def _section(tree: Any, path: str, defaults: Tree) -> Tree:
    if not isinstance(tree, Mapping):
        raise ValueError(f"{path}={tree!r:.60} must be a mapping")
    for key in tree:
        if key not in defaults:
            raise ValueError(f"{path}.{key} is unknown{nearest(str(key), defaults)}")
    for key, default in defaults.items():
        if default is theirs.REQUIRED and key not in tree:
            raise ValueError(f"{path}.{key} is missing")
    return {**defaults, **tree}


def _policy(architecture: Tree, policy: str, used: Any) -> Tree:
    """A policy, of which all keys but those used have their default."""
    path = f"config.architecture.{policy}"
    found = _section(architecture[policy], path, theirs.POLICIES[policy])
    for key, default in theirs.POLICIES[policy].items():
        value = _plain(found[key])
        if key not in used and key not in theirs.WAYS and value != default:
            raise ValueError(f"{path}.{key}={value!r:.60} has no effect here; only {default!r} can")
    return found


def _ours(found: Tree, names: Mapping[str, str]) -> Tree:
    return {ours: _value(key, found[key]) for key, ours in names.items()}


def _value(key: str, value: Any) -> Any:
    """A value of theirs as ours; lists by their entries."""
    return _translated(value, theirs.VALUES.get(key, {}))


def _translated(value: Any, table: Mapping[str, str]) -> Any:
    if isinstance(value, list | tuple):
        return [_translated(v, table) for v in value]
    return table.get(value, value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    return _translated(value, {})


def canonical_config(base: Base) -> Tree:
    """psannlm's LMConfig of a base, as the complete mapping in its files.

    Raises:
      ValueError: psannlm cannot compute this; names the field and the way out.
    """
    name, fields = bases.name_of(base), _plain_tree(bases.to_tree(base))
    kinds = {ours: kind for kind, (ours, _) in theirs.BASES.items()}
    if name not in kinds:
        raise ValueError(f"psannlm has no base {name!r} ({', '.join(kinds)}); {_WAY_OUT}")
    _refuse_ours_alone(name, base)
    policies = theirs.BASES[kinds[name]][1]
    architecture: Tree = {"kind": kinds[name].replace("spectral", "residual")}
    architecture |= dict.fromkeys(theirs.POLICIES) | _their_activation(base, fields)
    for policy in policies:
        values = _theirs(_into(fields, policy), theirs.NAMES[policy])
        architecture[policy] = theirs.POLICIES[policy] | values
    if fields.get("wave") == "psannlm-attention-only":  # nothing reads these
        architecture |= {"activation": dict(theirs.DEFAULT_SINE), "activation_initialization": None}
        architecture["residual"] |= {"alpha_init": 1.0, "drop_path": 0.0}
    sizes = {key: fields[key] for key in theirs.SIZES} | {"d_mlp": base.mlp_features}
    ways = {"attention_implementation": "math"}
    return {"kind": "lm", "architecture": architecture, **sizes, **ways}


def _refuse_ours_alone(name: str, base: Any) -> None:
    said = ""
    if base.vocab_size is None:
        raise ValueError("base.vocab_size is not set; give the tokenizer's vocabulary size")
    if base.mlp_activation not in (allowed := _ACTIVATIONS[name]):
        said = f"base.mlp_activation={base.mlp_activation!r}, only {', '.join(allowed)}"
    if name == "transformer" and base.norm != "layer":
        said = f"base.norm={base.norm!r} in a transformer, only 'layer'"
    if name == "waveresnet" and base.wave == "replace":
        said = "base.wave='replace', which keeps the stream; its own, 'psannlm-replace', drops it"
    if name == "waveresnet" and base.kernel % 2 == 0:
        said = f"base.kernel={base.kernel}, only odd numbers of taps"
    if getattr(base, "k_fft", 2) < 2:
        said = f"base.k_fft={base.k_fft}, only 2 and more"
    if base.mlp_activation == "mixed" and (base.mixed.layout, base.mixed.seed) == ("random", None):
        said = "base.mixed.seed=None: its files hold the seed of a random layout, not the layout"
    if said:
        raise ValueError(f"psannlm does not have {said}; {_WAY_OUT}")


def _their_activation(base: Any, fields: Tree) -> Tree:
    kind = base.mlp_activation
    found = theirs.POLICIES["activation"] | {"kind": _theirs(fields, theirs.KIND)["kind"]}
    start, has_sine = None, kind == "sine"
    if kind == "mixed":
        found |= _theirs(fields["mixed"], theirs.MIXED)
        shares = dict(zip(base.mixed.types, base.mixed.counts(base.mlp_features), strict=True))
        has_sine = shares.get("sine", 0) > 0
    if has_sine:
        sine = fields["sine"]
        bounds = {k: v for k, v in _theirs(sine, theirs.BOUNDS).items() if v is not None}
        found |= _theirs(sine, theirs.SINE) | {"bounds": bounds or None}
        start = _start(_theirs(sine, theirs.INITIALIZATION))
    return {"activation": found, "activation_initialization": start}


def _start(found: Tree) -> Tree | None:
    """How the sine is drawn; a deviation wins over a range, as here. None: it is not."""
    for key in [k for k in found if k.endswith("_range") and found[k] is not None]:
        deviates = found[key.replace("_range", "_std")] > 0
        found[key] = None if deviates else sorted(found[key])
    return found if any(found.values()) else None


def _theirs(fields: Tree, names: Mapping[str, str]) -> Tree:
    back = {key: {v: k for k, v in theirs.VALUES.get(key, {}).items()} for key in names}
    return {key: _translated(fields[ours], back[key]) for key, ours in names.items()}


def _plain_tree(tree: Any) -> Any:
    """Tuples as lists, in dicts too."""
    if isinstance(tree, dict):
        return {key: _plain_tree(value) for key, value in tree.items()}
    return _plain(tree)


def differences(base: Any) -> tuple[str, ...]:
    """What of a base psannlm computes otherwise, a line each; none for most."""
    said = []
    if getattr(base, "wave", "off") in ("interleave", "psannlm-replace") and base.kernel > 1:
        said.append("its wave reads past tokens here, and future ones too in psannlm")
    if hasattr(base, "gate_type"):
        said.append("its spectral gate reads past tokens here, and future ones too in psannlm")
    return tuple(f"{line}, so the logits differ" for line in said)

"""The keys of psannlm's canonical config, their defaults, and the fields that they are here.

Source: psannlm 2.0.1 (PyPI).
"""

from typing import Any

from psann_jax.nn.sine import PARAMETERS

Tree = dict[str, Any]
REQUIRED = object()
POLICIES: dict[str, Tree] = {  # psannlm's keys and defaults
    "activation": {
        "kind": REQUIRED,
        "amplitude_init": 1.0,
        "frequency_init": 1.0,
        "decay_init": 0.1,
        "learnable": ["amplitude", "frequency", "decay"],
        "decay_mode": "abs",
        "bounds": None,
        "slope_init": 1.0,
        "slope_trainable": True,
        "clip_max": 1.0,
        "activation_types": None,
        "activation_ratios": None,
        "phase_init": 0.0,
        "phase_trainable": True,
        "ratio_sum_tol": 1e-3,
        "mix_layout": "random",
        "mix_seed": None,
        "feature_dim": -1,
    },
    "activation_initialization": {
        "amplitude_std": 0.0,
        "frequency_std": 0.0,
        "decay_std": 0.0,
        "amplitude_range": None,
        "frequency_range": None,
        "decay_range": None,
    },
    "residual": {
        "norm": "rms",
        "alpha_init": 0.0,
        "drop_path": 0.0,
        "first_w0": 12.0,
        "hidden_w0": 1.0,
    },
    "spectral": {
        "k_fft": 64,
        "gate_type": "rfft",
        "groups": "depthwise",
        "init": 0.0,
        "strength": 1.0,
    },
    "temporal": {"mode": "disabled", "kernel_size": 3, "dilation_growth": 1, "dropout": 0.0},
    "geometry": {
        "shape": None,
        "k": 8,
        "pattern": "local",
        "radius": 1,
        "offsets": None,
        "wrap_mode": "clamp",
        "bias": True,
        "compute_mode": "gather",
        "seed": None,
    },
    "geometry_execution": {"depth": 1, "chunk_size": 32},
}
ARCHITECTURE = {"kind": REQUIRED, **dict.fromkeys(POLICIES), "activation": REQUIRED}
SIZES = {
    "d_model": 512,
    "n_layers": 8,
    "n_heads": 8,
    "d_mlp": None,
    "vocab_size": None,
    "dropout": 0.0,
    "positional_encoding": "rope",
}
MODEL = {
    "kind": "lm",
    "architecture": REQUIRED,
    **SIZES,
    "attention_implementation": "math",
}
# How psannlm computes, or what it accepts; not what it computes.
WAYS = ("attention_implementation", "compute_mode", "chunk_size", "ratio_sum_tol")

BASES = {  # a kind -> our base, the policies it has
    "residual": ("respsann", ("residual",)),
    "spectral": ("sgrpsann", ("residual", "spectral")),
    "wave": ("waveresnet", ("residual", "temporal")),
    "geometric-sparse": ("geosparse", ("residual", "geometry", "geometry_execution")),
    "transformer": ("transformer", ()),
}
OURS = tuple(ours for ours, _ in BASES.values())
NAMES: dict[str, dict[str, str]] = {  # policy -> key there -> field here
    "residual": {n: n for n in ("norm", "alpha_init", "drop_path")},
    "spectral": {
        "k_fft": "k_fft",
        "gate_type": "gate_type",
        "groups": "gate_groups",
        "init": "gate_init",
        "strength": "gate_strength",
    },
    "temporal": {
        "mode": "wave",
        "kernel_size": "kernel",
        "dilation_growth": "dilation_growth",
        "dropout": "wave_dropout",
    },
    "geometry": {
        n: n for n in ("shape", "k", "pattern", "radius", "offsets", "wrap_mode", "bias", "seed")
    },
    "geometry_execution": {"depth": "depth"},
}
SINE = {
    "amplitude_init": "amplitude",
    "frequency_init": "frequency",
    "decay_init": "damping",
    "learnable": "learnable",
    "decay_mode": "envelope",
}
INITIALIZATION = {
    f"{theirs}_{end}": f"{ours}_{end}"
    for theirs, ours in zip(("amplitude", "frequency", "decay"), PARAMETERS, strict=True)
    for end in ("std", "range")
}
BOUNDS = {
    "amplitude": "amplitude_bounds",
    "frequency": "frequency_bounds",
    "decay": "damping_bounds",
}
MIXED = {
    "activation_types": "types",
    "activation_ratios": "ratios",
    "mix_layout": "layout",
    "mix_seed": "seed",
}
VALUES = {  # key there -> value there -> value here
    "kind": {"psann": "sine"},
    "activation_types": {"psann": "sine"},
    "learnable": {"decay": "damping"},
    "gate_type": {"fourier-features": "fourier_features"},
    "mode": {
        "disabled": "off",
        "replace": "psannlm-replace",
        "attention-only": "psannlm-attention-only",
    },
}
KIND = {"kind": "mlp_activation"}
GEOMETRY = ("geometry", "geometry_execution")  # two policies, one field here
DEFAULT_SINE = POLICIES["activation"] | {"kind": "psann", "decay_init": 0.01}

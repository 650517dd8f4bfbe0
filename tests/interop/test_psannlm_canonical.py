"""psannlm's canonical config becomes a base and comes back, each key of it and each field."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest

from psann_jax import bases
from psann_jax.interop.psannlm_canonical import canonical_base, canonical_config, differences
from psann_jax.interop.psannlm_config import base_config
from psann_jax.interop.psannlm_policies import OURS
from psann_jax.nn.mixed import MixedConfig
from psann_jax.nn.sine import SineConfig
from psann_jax.nn.sparse import GeometryConfig

MANIFEST = Path(__file__).parent.parent / "golden" / "psannlm" / "manifest.json"
CASES = {
    case["name"]: case
    for case in json.loads(MANIFEST.read_text())["cases"]
    if case["type"] == "model"
}
TINY = {"vocab_size": 32, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}
OURS_ALONE = {("transformer", "norm"), ("geosparse", "mixed")}  # refused, or tested below
# On the function that a base computes, or on what psannlm computes: it gets a copy of a tied head.
WITHOUT_EFFECT = ("dtype", "scan_layers", "remat", "tie_embeddings")
OTHER = {  # than the default
    "vocab_size": 33,
    "d_model": 32,
    "n_layers": 4,
    "n_heads": 4,
    "d_mlp": 64,
    "positional_encoding": "alibi",
    "dropout": 0.1,
    "mlp_activation": "gelu",
    "sine": SineConfig(frequency=2.0),
    "mixed": MixedConfig(types=("relu", "sine"), seed=1),
    "geometry": GeometryConfig(k=3),
    "norm": "none",
    "alpha_init": 0.5,
    "drop_path": 0.1,
    "wave": "off",
    "kernel": 5,
    "dilation_growth": 2,
    "wave_dropout": 0.1,
    "k_fft": 8,
    "gate_type": "fourier_features",
    "gate_groups": "full",
    "gate_init": 0.5,
    "gate_strength": 0.5,
}
OTHER_SINE = {
    "learnable": ("damping",),
    "envelope": "relu",
    **{name: 0.5 for name in ("amplitude", "frequency", "damping")},
    **{f"{name}_std": 0.5 for name in ("amplitude", "frequency", "damping")},
    **{f"{name}_range": (0.5, 2.0) for name in ("amplitude", "frequency", "damping")},
    **{f"{name}_bounds": (None, 2.0) for name in ("amplitude", "frequency", "damping")},
}
OTHER_GEOMETRY = {
    "shape": (2, 16),
    "k": 3,
    "pattern": "hash",
    "radius": 2,
    "offsets": ((0, 1), (1, 0)),
    "wrap_mode": "wrap",
    "bias": False,
    "seed": 3,
    "depth": 2,
}
OTHER_MIXED = {
    "types": ("relu", "sine", "tanh"),
    "ratios": (0.25, 0.75),
    "layout": "contiguous",
    "seed": 4,
}


def _plain(config):
    """A config without the keys that say how psannlm computes, not what."""
    config = copy.deepcopy(config)
    config.pop("attention_implementation")
    if config["architecture"]["geometry"]:
        config["architecture"]["geometry"].pop("compute_mode")
    return config


@pytest.mark.parametrize("name", CASES)
def test_a_config_of_psannlm_is_the_base_of_its_flat_arguments(name):
    case = CASES[name]
    assert canonical_base(case["canonical_config"]) == base_config(case["base"], case["config"])


@pytest.mark.parametrize("name", CASES)
def test_a_config_of_psannlm_comes_back(name):
    config = CASES[name]["canonical_config"]
    assert _plain(canonical_config(canonical_base(config))) == _plain(config)


def _told(base, plain):
    """The change of a base is in its config, and the config makes the base again."""
    config = canonical_config(base)
    assert config != canonical_config(plain)
    assert canonical_base(config, base.dtype) == base


FIELDS = [
    (name, field.name)
    for name in OURS
    for field in dataclasses.fields(bases.get(name))
    if field.name not in (*WITHOUT_EFFECT, "mixed")
    and (name, field.name) != ("transformer", "norm")
]


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_every_field_of_a_base_is_in_the_config(name, field):
    other = OTHER | ({"mlp_activation": "relu"} if name == "transformer" else {})
    plain = bases.get(name)(**TINY)
    _told(dataclasses.replace(plain, **{field: other[field]}), plain)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(SineConfig)])
def test_every_field_of_the_sine_is_in_the_config(field):
    plain = bases.get("respsann")(**TINY)
    sine = SineConfig(**{field: OTHER_SINE[field]})
    _told(dataclasses.replace(plain, sine=sine), plain)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(GeometryConfig)])
def test_every_field_of_the_geometry_is_in_the_config(field):
    plain = bases.get("geosparse")(**TINY)
    geometry = GeometryConfig(**{field: OTHER_GEOMETRY[field]})
    _told(dataclasses.replace(plain, geometry=geometry), plain)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(MixedConfig)])
def test_every_field_of_the_mix_is_in_the_config(field):
    mixed = {"types": ("sine", "gelu"), "seed": 1}
    kind = {"mlp_activation": "mixed", "sine": SineConfig(frequency=2.0)}
    plain, other = (
        bases.get("geosparse")(**TINY, **kind, mixed=MixedConfig(**m))
        for m in (mixed, mixed | {field: OTHER_MIXED[field]})
    )
    _told(other, plain)


def test_a_sine_without_a_feature_has_psannlms_own_defaults():
    mixed = MixedConfig(types=("gelu", "sine"), ratios=(1.0, 0.0), seed=1)
    base = bases.get("geosparse")(**TINY, mlp_activation="mixed", mixed=mixed)
    assert canonical_config(base)["architecture"]["activation"]["decay_init"] == 0.1


def test_an_attention_only_wave_has_the_values_that_psannlm_demands():
    base = bases.get("waveresnet")(
        **TINY, wave="psannlm-attention-only", mlp_activation="gelu", alpha_init=0.5
    )
    architecture = canonical_config(base)["architecture"]
    assert architecture["activation"]["kind"] == "psann"
    assert architecture["residual"]["alpha_init"] == 1.0


def test_deviations_and_ranges_of_the_sine_are_kept():
    sine = SineConfig(frequency_std=0.1, damping_range=(0.2, 0.1))
    start = canonical_config(bases.get("respsann")(**TINY, sine=sine))["architecture"]
    start = start["activation_initialization"]
    assert (start["frequency_std"], start["frequency_range"]) == (0.1, None)
    assert start["decay_range"] == [0.1, 0.2]


def test_the_dtype_is_ours_to_choose():
    config = CASES["respsann_rope"]["canonical_config"]
    assert canonical_base(config, "bfloat16").dtype == "bfloat16"


@pytest.fixture
def config():
    return copy.deepcopy(CASES["respsann_rope"]["canonical_config"])


PATHS = ["", "architecture", "architecture.activation", "architecture.residual"]


def _at(config, path):
    for key in filter(None, path.split(".")):
        config = config[key]
    return config


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_key_is_refused_with_its_dotted_name(config, path):
    _at(config, path)["surprise"] = 1
    full = ".".join(filter(None, ("config", path, "surprise")))
    with pytest.raises(ValueError, match=f"{full} is unknown"):
        canonical_base(config)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("kind", "cnn", "config.kind='cnn'"),
        ("architecture", None, "config.architecture=None must be a mapping"),
        ("architecture.kind", "spectral", "config.architecture.kind='spectral'"),
        ("architecture.activation", 3, "config.architecture.activation=3 must be a mapping"),
        ("architecture.residual", None, "config.architecture.residual is needed"),
        ("architecture.temporal", {}, "config.architecture.temporal has no effect"),
        ("architecture.residual.first_w0", 3.0, "residual.first_w0=3.0 has no effect"),
        ("architecture.activation.phase_init", 0.5, "activation.phase_init=0.5 has no effect"),
        ("architecture.activation.feature_dim", 1, "activation.feature_dim=1 has no effect"),
        ("architecture.activation.mix_seed", 1, "activation.mix_seed=1 has no effect"),
        ("architecture.activation.bounds", {"x": 1}, "activation.bounds.x is unknown"),
        ("architecture.residual.norm", "batch", "base.norm='batch'"),
        ("d_model", "wide", "base.d_model='wide'"),
        ("n_heads", 5, "base.n_heads=5"),
    ],
)
def test_a_value_without_counterpart_is_refused_with_its_dotted_name(config, path, value, said):
    parent, _, key = path.rpartition(".")
    _at(config, parent)[key] = value
    with pytest.raises(ValueError) as error:
        canonical_base(config)
    assert said in str(error.value)


def test_an_activation_that_is_not_there_is_refused(config):
    config["architecture"]["activation"] = {"kind": "phase-psann"}
    with pytest.raises(ValueError, match="base.mlp_activation='phase-psann'"):
        canonical_base(config)


def test_a_missing_required_key_is_named(config):
    del config["architecture"]["activation"]
    with pytest.raises(ValueError, match=r"config\.architecture\.activation is missing"):
        canonical_base(config)


def test_the_start_of_a_sine_without_a_sine_is_refused():
    config = copy.deepcopy(CASES["respsann_rope_gelu"]["canonical_config"])
    config["architecture"]["activation_initialization"] = {"frequency_std": 0.1}
    with pytest.raises(ValueError, match="activation_initialization has no sine"):
        canonical_base(config)


def test_a_value_of_a_sine_that_is_not_there_is_refused():
    config = copy.deepcopy(CASES["respsann_rope_gelu"]["canonical_config"])
    config["architecture"]["activation"]["frequency_init"] = 2.0
    with pytest.raises(ValueError, match=r"activation\.frequency_init=2\.0 has no effect"):
        canonical_base(config)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("waveresnet", {"wave": "replace"}, "base.wave='replace'"),
        ("waveresnet", {"kernel": 4}, "base.kernel=4"),
        ("respsann", {"mlp_activation": "tanh"}, "base.mlp_activation='tanh'"),
        ("transformer", {"mlp_activation": "swiglu"}, "base.mlp_activation='swiglu'"),
        ("transformer", {"norm": "rms"}, "base.norm='rms'"),
        ("geosparse", {"mlp_activation": "mixed"}, "base.mixed.seed=None"),
        ("respsann", {"vocab_size": None}, "base.vocab_size is not set"),
    ],
)
def test_what_psannlm_does_not_have_is_refused_with_the_way_out(name, options, said):
    with pytest.raises(ValueError) as error:
        canonical_config(bases.get(name)(**{**TINY, **options}))
    assert said in str(error.value)
    assert "folder" in str(error.value) or "give" in str(error.value)


def test_a_base_of_your_own_is_refused(monkeypatch):
    @dataclasses.dataclass(kw_only=True)
    class Own(bases.ResPSANN):
        pass

    monkeypatch.setitem(bases.registry._BASES, "own", Own)
    with pytest.raises(ValueError, match="psannlm has no base 'own'"):
        canonical_config(Own(**TINY))


@pytest.mark.parametrize(
    ("name", "options", "differs"),
    [
        ("respsann", {}, False),
        ("transformer", {}, False),
        ("geosparse", {}, False),
        ("sgrpsann", {}, True),
        ("waveresnet", {}, True),
        ("waveresnet", {"kernel": 1}, False),
        ("waveresnet", {"wave": "off"}, False),
        ("waveresnet", {"wave": "psannlm-replace"}, True),
        ("waveresnet", {"wave": "psannlm-attention-only"}, False),
    ],
)
def test_a_base_that_psannlm_computes_otherwise_is_said_to_differ(name, options, differs):
    assert bool(differences(bases.get(name)(**TINY, **options))) == differs

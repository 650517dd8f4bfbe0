"""psannlm's argument names become fields here; what has no counterpart is refused."""

from types import SimpleNamespace

import pytest

from psann_jax.interop.psannlm_config import base_config, flat_fields, sine_config
from psann_jax.nn.sine import PARAMETERS, SineConfig


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"amp_init": 2.0}, "amplitude", 2.0),
        ({"freq_init": 3.0}, "frequency", 3.0),
        ({"damp_init": 0.1}, "damping", 0.1),
        ({"freq_init_std": 0.5}, "frequency_std", 0.5),
        ({"freq_init_std": -0.5}, "frequency_std", 0.0),
        ({"amp_range": [0.5, 2.0]}, "amplitude_range", (0.5, 2.0)),
        ({"damp_bounds": (None, 0.2)}, "damping_bounds", (None, 0.2)),
        ({"decay_mode": "relu"}, "envelope", "relu"),
        ({"trainable": False}, "learnable", ()),
        ({"learnable": ["amp", "decay"]}, "learnable", ("amplitude", "damping")),
        ({"learnable": "frequency"}, "learnable", ("frequency",)),
        ({"trainable": False, "learnable": ["freq"]}, "learnable", ("frequency",)),
        ({"frequency": 4.0}, "frequency", 4.0),
        ({}, "learnable", PARAMETERS),
    ],
)
def test_a_sine_option_sets_its_field(options, field, value):
    assert getattr(sine_config(options), field) == value


def test_sine_options_may_be_the_attributes_of_an_object():
    assert sine_config(SimpleNamespace(freq_init=3.0)).frequency == 3.0


def test_a_sine_config_is_taken_as_it_is():
    config = SineConfig(frequency=2.0)
    assert sine_config(config) is config


def test_an_unknown_sine_option_names_the_nearest():
    with pytest.raises(ValueError, match="no option 'freq_int'; did you mean 'freq_init'"):
        sine_config({"freq_int": 1.0})


@pytest.mark.parametrize(
    ("interleave", "replace", "mode"),
    [
        (False, False, "off"),
        (True, False, "interleave"),
        (True, True, "psannlm-replace"),
        (False, True, "psannlm-attention-only"),
    ],
)
def test_wave_flags_choose_what_psannlm_computes(interleave, replace, mode):
    flags = {"wave_interleave": interleave, "wave_replace": replace}
    assert base_config("waveresnet", {"vocab_size": 8, **flags}).wave == mode


def test_the_wave_is_off_unless_asked_as_in_psannlm():
    assert base_config("waveresnet", {"vocab_size": 8}).wave == "off"


@pytest.mark.parametrize(
    ("theirs", "value", "ours"),
    [
        ("wave_kernel_size", 5, "kernel"),
        ("wave_dilation_growth", 2, "dilation_growth"),
        ("wave_dropout", 0.1, "wave_dropout"),
        ("n_layers", 3, "n_layers"),
        ("d_mlp", 48, "d_mlp"),
    ],
)
def test_an_argument_sets_its_field(theirs, value, ours):
    assert (
        getattr(base_config("waveresnet", {"wave_interleave": True, theirs: value}), ours) == value
    )


def test_options_of_a_wave_that_is_off_are_read_past_as_in_psannlm():
    assert base_config("waveresnet", {"wave_kernel_size": 5}).kernel == 3


SPARSE = {
    "geosparse_k": 5,
    "geosparse_seed": 3,
    "geosparse_shape": "4x8",
    "geosparse_offsets": [[0, 1], [1, 0]],
    "geosparse_depth": 2,
    "geosparse_wrap_mode": "wrap",
    "geosparse_norm": "none",
    "geosparse_residual_alpha_init": 0.5,
    "geosparse_drop_path_max": 0.1,
    "geosparse_activation": "mixed",
    "geosparse_activation_types": ["psann", "relu"],
    "geosparse_activation_ratios": [0.25, 0.75],
    "geosparse_activation_layout": "contiguous",
    "geosparse_compute_mode": "scatter",
    "geosparse_chunk_size": 16,
    "d_mlp": 32,
}


def test_the_sparse_arguments_set_geometry_mix_and_block():
    base = base_config("geosparse", SPARSE)
    geometry, mixed = base.geometry, base.mixed
    assert (geometry.k, geometry.seed, geometry.depth) == (5, 3, 2)
    assert (geometry.shape, geometry.offsets) == ((4, 8), ((0, 1), (1, 0)))
    assert (geometry.wrap_mode, base.norm, base.alpha_init) == ("wrap", "none", 0.5)
    assert (base.mlp_activation, base.drop_path) == ("mixed", 0.1)
    assert (mixed.types, mixed.ratios) == (("sine", "relu"), (0.25, 0.75))
    assert (mixed.layout, mixed.seed) == ("contiguous", 3)


def test_an_option_of_another_base_says_whose_it_is():
    with pytest.raises(ValueError, match="has no option 'k_fft'; it is an option of sgrpsann"):
        base_config("respsann", {"k_fft": 16})


@pytest.mark.parametrize("name", ["positional_encoding", "pos_enc"])
def test_positions_are_lower_cased_and_stripped(name):
    assert flat_fields("respsann", {name: " ALiBi "}) == {"positional_encoding": "alibi"}


@pytest.mark.parametrize("implementation", ["math", "sdpa", "auto"])
def test_every_attention_implementation_is_the_same_here(implementation):
    assert flat_fields("respsann", {"attn_impl": implementation}) == {}


@pytest.mark.parametrize(
    ("base", "given_", "ours"),
    [
        ("respsann", "psann", "sine"),
        ("transformer", "psann", "gelu"),
        ("transformer", "relu", "relu"),
    ],
)
def test_activations_are_coerced_as_in_psannlm(base, given_, ours):
    assert flat_fields(base, {"mlp_activation": given_}) == {"mlp_activation": ours}


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("respsann", "wave_interleave"),
        ("transformer", "sine"),
        ("waveresnet", "gate_type"),
        ("respsann", "n_layer"),
    ],
)
def test_an_argument_the_base_does_not_have_is_refused(base, name):
    with pytest.raises(ValueError, match=f"base {base!r} has no option {name!r}"):
        base_config(base, {name: 1})

"""Mamba-2 layers from arrays: sizes read from shapes, misfits refused."""

import numpy as np
import pytest

from psann_jax.interop.groundthink import mamba2_layer
from psann_jax.model import parameter_count

C, D_INNER, H, G, N = 6, 12, 3, 1, 5


def _arrays(*, H=H, G=G, N=N, **other):
    convolved, rng = D_INNER + 2 * G * N, np.random.default_rng(0)
    shapes = {
        "in_proj": (C, D_INNER + convolved + H),
        "conv_w": (convolved, 4),
        "conv_b": (convolved,),
        "dt_bias": (H,),
        "A_log": (H,),
        "D": (H,),
        "norm_w": (D_INNER,),
        "out_proj": (D_INNER, C),
    } | other
    return {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}


def test_shapes_tell_the_sizes():
    arrays = _arrays()
    layer = mamba2_layer(arrays, {})
    config = layer.config
    assert (config.expand, config.head_dim, config.d_state, config.kernel) == (2, 4, 5, 4)
    assert (config.n_groups, config.dt_limit, config.bias) == (1, (0.0, None), False)
    assert parameter_count(layer) == sum(a.size for a in arrays.values())


def test_names_may_have_their_prefix_and_company():
    arrays = _arrays()
    prefixed = {f"W/{name}": a for name, a in arrays.items()} | {"y": np.zeros(3)}
    a, b = mamba2_layer(arrays, {}), mamba2_layer(prefixed, {"dt_limit": ["0.0", "inf"]})
    np.testing.assert_array_equal(a.x.kernel[...], b.x.kernel[...])
    np.testing.assert_array_equal(a.x.kernel[...], arrays["in_proj"][:, D_INNER : 2 * D_INNER])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"in_proj": (C, 7)}, r"array in_proj has shape \(6, 7\); the others want \(6, 37\)"),
        ({"norm_w": (4,)}, "array norm_w has shape"),
        ({"in_bias": (37,)}, "lack out_bias"),
    ],
)
def test_an_array_that_does_not_fit_is_named(other, said):
    with pytest.raises(ValueError, match=said):
        mamba2_layer(_arrays(**other), {})


def test_missing_arrays_are_named():
    arrays = _arrays()
    del arrays["D"]
    with pytest.raises(ValueError, match="lack D"):
        mamba2_layer(arrays, {})


@pytest.mark.parametrize(
    "config",
    [
        {"dims": {"G": 2, "N": 6}},
        {"dims": {"G": 2}, "dt_limit": None},
        {"dims": {"N": 6}},
        {"G": 2},
        {"n_groups": 2, "dt_limit": [0, None]},
        {"ngroups": 2},
        {"d_state": 6},
        {"N": 6, "n_groups": 2},
    ],
)
def test_groups_may_be_told_in_many_ways(config):
    made = mamba2_layer(_arrays(H=4, G=2, N=6), config).config
    assert (made.n_groups, made.d_state, made.dt_limit) == (2, 6, (0.0, None))


def test_no_config_will_do_where_shapes_allow_one_reading():
    assert mamba2_layer(_arrays(), None).config.n_groups == 1


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, r"B is 12 features wide, which may be 1, 2, 4 groups; give n_groups \(or d_state"),
        ({"n_groups": 3}, "n_groups=3 and d_state=None do not fit.*may be 1, 2, 4"),
        ({"n_groups": 2, "d_state": 12}, "n_groups=2 and d_state=12 do not fit"),
        ({"n_groups": 2, "G": 4}, "config has n_groups=2, G=4; give one"),
        ({"n_groups": 0}, "config has n_groups=0"),
    ],
)
def test_groups_are_never_guessed(config, said):
    with pytest.raises(ValueError, match=said):
        mamba2_layer(_arrays(H=4, G=2, N=6), config)


def test_sizes_of_no_layer_are_refused():
    with pytest.raises(ValueError, match=r"conv_w of shape \(13, 4\).* are of no Mamba-2 layer"):
        mamba2_layer(_arrays(conv_w=(13, 4)), None)

"""Weights of psannlm 2.0.1 give its logits, loss and gradients here, and go back unchanged."""

from pathlib import Path

import numpy as np
import parity
import pytest
import reference

from psann_jax.interop import psannlm

FOLDER = Path(__file__).parent.parent / "golden" / "psannlm"
MODELS = [case for case in reference.manifest(FOLDER)["cases"] if case["type"] == "model"]
CASES = {case["name"]: case for case in MODELS if reference.is_matched(case)}


def _load(name):
    given = reference.load(FOLDER, CASES[name])
    return given.case, given.group("w/")


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradients_are_those_of_torch(name):
    checks = list(parity.check_model(reference.load(FOLDER, CASES[name])))
    assert len(checks) >= 3
    for check in checks:
        assert check.passes, check


@pytest.mark.parametrize("name", CASES)
def test_state_goes_back_unchanged(name):
    case, weights = _load(name)
    back = psannlm.to_state(psannlm.to_model(case["base"], case["config"], weights))
    listed = {k for k in weights if k.endswith(("src_index", "dst_index"))}  # the scatter mode's
    assert back.keys() == weights.keys() - listed
    for key in back:
        array = weights[key]
        np.testing.assert_array_equal(back[key], array)
        assert back[key].dtype == array.dtype


def test_a_missing_weight_is_named():
    case, weights = _load("respsann_rope")
    del weights["blocks.1.mlp.act._f"]
    with pytest.raises(ValueError, match=r"state lacks blocks\.1\.mlp\.act\._f"):
        psannlm.to_model(case["base"], case["config"], weights)


def test_a_weight_too_many_is_named():
    case, weights = _load("respsann_rope")
    with pytest.raises(ValueError, match="state has extra.weight"):
        psannlm.to_model(case["base"], case["config"], weights | {"extra.weight": np.ones(1)})


def test_a_weight_of_another_shape_is_named_with_both_shapes():
    case, weights = _load("respsann_rope")
    weights["ln_f.scale"] = np.ones(31, np.float32)
    with pytest.raises(ValueError, match=r"ln_f\.scale has shape \(31,\).*\(32,\)"):
        psannlm.to_model(case["base"], case["config"], weights)


def test_an_unknown_option_names_the_nearest():
    case, weights = _load("respsann_rope")
    with pytest.raises(ValueError, match="n_layer.*did you mean 'n_layers'"):
        psannlm.to_model(case["base"], {**case["config"], "n_layer": 2}, weights)

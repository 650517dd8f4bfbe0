"""Weights of psannlm 2.0.1 give its logits, loss and gradients here, and go back unchanged."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from psann_jax.interop import psannlm
from psann_jax.model import trainable, with_trained
from psann_jax.seq import Batch
from psann_jax.train.step import loss_fn

FOLDER = Path(__file__).parent.parent / "golden" / "psannlm"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
CASES = {
    case["name"]: case
    for case in MANIFEST["cases"]
    if case["type"] == "model" and case["reference"] in ("upstream", "causal patch")
}
EXACT_LOGITS, EXACT_LOSS, EXACT_GRADIENT = 5e-5, 1e-5, 1e-4


def _load(name):
    case = CASES[name]
    with np.load(FOLDER / case["file"]) as arrays:
        arrays = dict(arrays)
    weights = {k[2:]: v for k, v in arrays.items() if k.startswith("w/")}
    return case, arrays, weights


def _batch(ids):
    tokens = ids.astype(np.int32)
    inputs = tokens[:, :-1]
    positions = np.broadcast_to(np.arange(inputs.shape[1], dtype=np.int32), inputs.shape)
    ones = np.ones(inputs.shape, np.float32)
    return Batch(inputs, tokens[:, 1:], ones, positions, ones.astype(np.int32))


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradients_are_those_of_torch(name):
    case, arrays, weights = _load(name)
    model = psannlm.to_model(case["base"], case["config"], weights)
    batch = _batch(arrays["ids"])

    @jax.jit
    def forward_and_backward(model):
        logits, _ = model(batch.inputs)
        return logits, *jax.value_and_grad(lambda w: loss_fn(with_trained(model, w), batch))(
            trainable(model)
        )

    logits, nats, grads = forward_and_backward(model)
    np.testing.assert_allclose(logits, arrays["logits"], atol=EXACT_LOGITS, rtol=0)
    assert abs(float(nats) / batch.inputs.size - float(arrays["loss"])) < EXACT_LOSS
    ours = psannlm.weights(jax.tree.map(lambda g: g / batch.inputs.size, grads))
    theirs = {k[2:]: v for k, v in arrays.items() if k.startswith("g/")}
    largest = max(np.abs(g).max() for g in theirs.values())
    for key, gradient in theirs.items():
        np.testing.assert_allclose(
            ours[key], gradient, atol=EXACT_GRADIENT * largest, rtol=0, err_msg=key
        )
    for key in ours.keys() - theirs.keys():  # frozen or unused in torch
        assert not ours[key].any(), key


@pytest.mark.parametrize("name", CASES)
def test_state_goes_back_unchanged(name):
    case, _, weights = _load(name)
    back = psannlm.to_state(psannlm.to_model(case["base"], case["config"], weights))
    listed = {k for k in weights if k.endswith(("src_index", "dst_index"))}  # the scatter mode's
    assert back.keys() == weights.keys() - listed
    for key in back:
        array = weights[key]
        np.testing.assert_array_equal(back[key], array)
        assert back[key].dtype == array.dtype


def test_a_missing_weight_is_named():
    case, _, weights = _load("respsann_rope")
    del weights["blocks.1.mlp.act._f"]
    with pytest.raises(ValueError, match=r"state lacks blocks\.1\.mlp\.act\._f"):
        psannlm.to_model(case["base"], case["config"], weights)


def test_a_weight_too_many_is_named():
    case, _, weights = _load("respsann_rope")
    with pytest.raises(ValueError, match="state has extra.weight"):
        psannlm.to_model(case["base"], case["config"], weights | {"extra.weight": np.ones(1)})


def test_a_weight_of_another_shape_is_named_with_both_shapes():
    case, _, weights = _load("respsann_rope")
    weights["ln_f.scale"] = np.ones(31, np.float32)
    with pytest.raises(ValueError, match=r"ln_f\.scale has shape \(31,\).*\(32,\)"):
        psannlm.to_model(case["base"], case["config"], weights)


def test_an_unknown_option_names_the_nearest():
    case, _, weights = _load("respsann_rope")
    with pytest.raises(ValueError, match="n_layer.*did you mean 'n_layers'"):
        psannlm.to_model(case["base"], {**case["config"], "n_layer": 2}, weights)

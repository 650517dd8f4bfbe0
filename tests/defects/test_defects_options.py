"""Every option has an effect, or is refused by name."""

import copy

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import bases, psannLM
from psann_jax.lm_options import fit_config
from psann_jax.model import LM
from psann_jax.ops.cross_entropy import linear_cross_entropy
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}
FIT = {"amp": "fp32", "ddp": "off", "verbose": False}


@pytest.mark.parametrize(
    ("option", "changed"),
    [
        ({"wave_interleave": False}, "logits"),
        ({"wave_replace": True}, "logits"),
        ({"wave_kernel_size": 5}, "logits"),
        ({"wave_dilation_growth": 2}, "logits"),
        ({"sine_params": {"decay_mode": "relu"}}, "logits"),
        ({"sine_params": {"freq_bounds": (2.0, None)}}, "logits"),
        ({"sine_params": {"amp_range": (3.0, 4.0)}}, "logits"),
        ({"sine_params": {"damp_init_std": 0.5}}, "logits"),
        ({"sine_params": {"learnable": ["frequency"]}}, "gradient"),
    ],
    ids=str,
)
def test_d06_an_option_of_the_facade_changes_the_network(tokens, option, changed):
    sizes = {"vocab_size": 32, "dtype": "float32", **SIZES}

    def computed(options):
        config = psannLM(**sizes, **options).config
        model = LM(config, rngs=nnx.Rngs(0))
        if changed == "logits":
            return model(tokens)[0]
        sine = model.stack.layers[1].mixer.act
        return jax.grad(lambda s: jnp.sum(s(jnp.ones((1, 32)))))(sine).amplitude[...]

    assert not np.array_equal(computed({}), computed(option))


@pytest.mark.parametrize("option", ["wave_interleaved", "k_fft", "no_such_option"])
def test_d06_an_option_without_effect_is_an_error(option):
    with pytest.raises(TypeError, match=f"no argument '{option}'"):
        psannLM(base="waveresnet", **{option: 3})


def test_d16_a_second_fit_has_options_of_its_own(whole, data):
    lm = copy.copy(whole[0])
    before = _weights(lm)
    lm.fit(data, steps=1, batch_tokens=256, lr=1e-9, weight_decay=0.0, **FIT)
    moved = max(np.abs(a - b).max() for a, b in zip(_weights(lm), before, strict=True))
    assert 0 < moved < 1e-7  # one update of Adam is at most the rate


def _weights(lm):
    return [np.asarray(a) for a in jax.tree.leaves(lm._model)]


@pytest.mark.parametrize(
    ("option", "field"),
    [
        ("warmup_steps", "optimizer.warmup_steps"),
        ("weight_decay", "optimizer.weight_decay"),
        ("grad_clip", "optimizer.grad_clip"),
        ("grad_accum_steps", "train.grad_accum_steps"),
        ("label_smoothing", "train.label_smoothing"),
        ("log_interval_steps", "train.log_interval_steps"),
        ("save_interval_steps", "train.save_interval_steps"),
    ],
)
def test_d17_a_training_option_reaches_the_run(data, option, field):
    value = 0.5 if option in ("weight_decay", "grad_clip", "label_smoothing") else 7
    config = fit_config(bases.get("respsann")(), data.config, {"batch_tokens": 256, option: value})
    part, name = field.split(".")
    assert getattr(getattr(config, part), name) == value


def test_d17_gradient_checkpointing_reaches_the_run(data):
    options = {"batch_tokens": 256, "grad_checkpoint": True}
    assert fit_config(bases.get("respsann")(), data.config, options).base.remat == "full"


@pytest.mark.parametrize(
    "changes",
    [{"warmup_steps": 7}, {"weight_decay": 0.5}, {"grad_clip": 0.0}, {"b1": 0.5}, {"eps": 1e-2}],
    ids=str,
)
def test_d17_an_optimizer_option_changes_the_update(changes):
    def second_update(**options):
        config = OptimizerConfig(**{"warmup_steps": 0, "decay": "all", **options})
        optimizer = make_optimizer(config, 10)
        weights, state = {"a": jnp.arange(4.0)}, None
        state = optimizer.init(weights)
        for gradient in ({"a": jnp.ones(4)}, {"a": -jnp.arange(4.0)}):
            updates, state = optimizer.update(gradient, state, weights)
        return updates["a"]

    assert not np.allclose(second_update(**changes), second_update(), rtol=1e-3, atol=0)


def test_d17_label_smoothing_changes_the_loss():
    x, kernel = jnp.eye(3)[None], 5 * jnp.eye(3)
    targets, weights = jnp.arange(3)[None], jnp.ones((1, 3))
    plain, smooth = (
        linear_cross_entropy(x, kernel, targets, weights, label_smoothing=s) for s in (0.0, 0.1)
    )
    assert smooth > plain + 0.1

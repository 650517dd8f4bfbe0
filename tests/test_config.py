"""Configs as trees: JSON there and back, errors by their dotted names, final values checked."""

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import bases
from psann_jax.config import Config, checked, from_json, leaves, nearest, to_json
from psann_jax.data import DataConfig
from psann_jax.fields import local_path
from psann_jax.nn.mixed import MixedConfig
from psann_jax.nn.sine import SineConfig
from psann_jax.nn.sparse import GeometryConfig
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import OptimizerConfig


def _full(name):
    """A config in which tuples, bounds, None and floats all differ from their defaults."""
    fields = {"d_model": 48, "n_heads": 6, "vocab_size": 77, "dropout": 0.25}
    known = {f.name for f in dataclasses.fields(bases.get(name))}
    if {"sine", "mlp_activation"} <= known:
        fields["mlp_activation"] = "sine"
    if "sine" in known:
        fields["sine"] = SineConfig(
            frequency=3.0, frequency_bounds=(0.5, None), amplitude_range=(0.5, 2.0), learnable=()
        )
    return Config(
        base=bases.get(name)(**fields),
        data=DataConfig(sources=("a.txt", "b"), val_split=0.1),
        train=TrainConfig(steps=None, eval_interval_steps=0),
        workdir="somewhere",
    )


@pytest.mark.parametrize("name", bases.names())
def test_a_config_comes_back_from_json_equal(name):
    config = _full(name)
    again = from_json(to_json(config))
    assert again == config
    assert type(again.base) is type(config.base)


def test_json_names_the_base():
    assert json.loads(to_json(_full("respsann")))["base"]["name"] == "respsann"


@given(
    st.integers(1, 10**6), st.floats(1e-9, 1.0), st.booleans(), st.none() | st.integers(1, 10**9)
)
def test_any_scalar_survives_json(steps, rate, packed, seed):
    config = Config()
    config.train.steps, config.optimizer.learning_rate = steps, rate
    config.data.pack_sequences, config.base.vocab_size = packed, seed
    assert from_json(to_json(config)) == config


MADE_WRONG = {
    r"train\.steps='100' must be a whole number": lambda: TrainConfig(steps="100"),
    r"train\.profile_steps=20 must be text": lambda: TrainConfig(profile_steps=20),
    r"optimizer\.learning_rate='1e-3' must be a number": lambda: OptimizerConfig(
        learning_rate="1e-3"
    ),
    r"base\.d_model='64' must be a whole number": lambda: bases.get("respsann")(d_model="64"),
    r"base\.dropout=None must be a number": lambda: bases.get("respsann")(dropout=None),
    r"base\.geometry\.k='4' must be a whole number": lambda: GeometryConfig(k="4"),
    r"base\.mixed\.types='sine' must be a tuple": lambda: MixedConfig(types="sine"),
}


@pytest.mark.parametrize("said", MADE_WRONG)
def test_a_value_of_another_type_is_named_where_it_is_made(said):
    with pytest.raises(ValueError, match=said):
        MADE_WRONG[said]()


def test_numbers_of_numpy_become_plain_ones():
    base = bases.get("respsann")(d_model=np.int64(64), dropout=jnp.float32(0.5))
    assert (type(base.d_model), type(base.dropout)) == (int, float)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("train", "stpes"), 3, r"no field 'train\.stpes'; did you mean 'steps'"),
        (("base", "d_modle"), 3, r"no field 'base\.d_modle'; did you mean 'd_model'"),
        (("base", "sine", "freqency"), 3, r"'base\.sine\.freqency'; did you mean 'frequency'"),
        (("optimiser",), {}, "no field 'optimiser'; did you mean 'optimizer'"),
        (("train", "steps"), "ten", r"train\.steps='ten' must be a whole number"),
        (("train", "steps"), 2.5, r"train\.steps=2\.5 must be a whole number"),
        (("train", "epochs"), True, r"train\.epochs=True must be a whole number"),
        (("data", "pack_sequences"), 1, r"data\.pack_sequences=1 must be True or False"),
        (("optimizer", "b1"), "x", r"optimizer\.b1='x' must be a number"),
        (("data", "sources"), "a.txt", r"data\.sources='a\.txt' must be a tuple"),
        (("base", "sine", "frequency_bounds"), [1], r"base\.sine\.frequency_bounds.* 2 entries"),
        (("train",), 3, "train=3 must be an object"),
        (("base", "name"), "respsan", "base='respsan' is unknown; did you mean 'respsann'"),
    ],
)
def test_json_that_does_not_fit_names_the_dotted_field(path, value, said):
    tree = json.loads(to_json(Config(base=bases.get("respsann")())))
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(ValueError, match=said):
        from_json(json.dumps(tree))


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"base": 3}', "{"])
def test_what_is_no_config_is_a_value_error(text):
    with pytest.raises(ValueError):
        from_json(text)


def test_checked_sees_the_values_after_overrides():
    config = Config()
    config.base.d_model, config.base.n_heads = 36, 8
    with pytest.raises(ValueError, match=r"base\.d_model=36 is not a multiple"):
        checked(config)


def test_checked_sees_the_whole_after_overrides():
    config = Config()
    config.train.batch_tokens = 512
    with pytest.raises(ValueError, match=r"train\.batch_tokens=512 is less than one row"):
        checked(config)


def test_checked_makes_tuples_of_lists_and_floats_of_ints():
    config = Config()
    config.base.sine.frequency_bounds = [1, None]
    config.optimizer.learning_rate = 1
    final = checked(config)
    assert final.base.sine.frequency_bounds == (1.0, None)
    assert isinstance(final.optimizer.learning_rate, float)


def test_checked_takes_a_whole_float_as_an_int():
    config = Config()
    config.train.steps = 1e3
    steps = checked(config).train.steps
    assert (steps, type(steps)) == (1000, int)


@pytest.mark.parametrize(
    ("name", "value"),
    [("train.steps", 2.5), ("train.epochs", False), ("workdir", 3), ("base.dropout", None)],
)
def test_checked_names_the_dotted_field_of_a_wrong_type(name, value):
    config = Config()
    *parents, last = name.split(".")
    node = config
    for parent in parents:
        node = getattr(node, parent)
    setattr(node, last, value)
    with pytest.raises(ValueError, match=rf"^{name}={value!r} must be"):
        checked(config)


def test_checked_leaves_the_config_it_was_given_alone():
    config = Config()
    config.base.sine.learnable = ["frequency"]
    checked(config)
    assert config.base.sine.learnable == ["frequency"]


def test_leaves_are_every_field_by_its_dotted_name():
    flat = leaves(Config())
    assert flat["base.sine.frequency"] == 1.0
    assert flat["mesh.fsdp"] == 1
    assert not any(dataclasses.is_dataclass(v) for v in flat.values())


def test_nearest_says_nothing_about_words_unlike_all():
    assert nearest("zzz", ["steps"]) == ""
    assert nearest("stps", ["steps"]) == "; did you mean 'steps'?"


def test_an_address_is_no_path_and_says_what_to_do_instead():
    with pytest.raises(ValueError, match=r"^workdir='gs://b/x' is an address.* mount a disk"):
        local_path("workdir", "gs://b/x")


def test_the_default_base_is_the_wave_network_with_its_wave_on():
    assert Config().base == bases.get("waveresnet")(wave="interleave")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"steps": 0}, "train.steps=0 must be at least 1"),
        ({"epochs": 0}, "train.epochs=0"),
        ({"grad_accum_steps": 0}, "train.grad_accum_steps=0"),
        ({"keep_checkpoints": 0}, "train.keep_checkpoints=0"),
        ({"save_interval_steps": -1}, "train.save_interval_steps=-1 must not be negative"),
        ({"label_smoothing": 1.0}, r"train.label_smoothing=1.0 must be in \[0, 1\)"),
    ],
)
def test_a_train_setting_out_of_range_is_named(fields, said):
    with pytest.raises(ValueError, match=said):
        TrainConfig(**fields)

"""Flags over a config file: typed, dotted, and one line where they cannot be."""

from pathlib import Path

import pytest

from psann_jax.cli.flags import field_table, load_config

ROOT = Path(__file__).parent.parent.parent
QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.py'}"
OWN = """
from psann_jax import bases
from psann_jax.config import Config

def get_config(preset="small"):
    sizes = {"small": 64, "large": 128}
    return Config(base=bases.get("respsann")(d_model=sizes[preset]))
"""


def _value(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("train.steps=7", 7),
        ("base.d_model=64", 64),
        ("base.sine.frequency=3.5", 3.5),
        ("base.sine.frequency=3", 3.0),
        ("optimizer.learning_rate=1e-3", 1e-3),
        ("optimizer.min_lr=0.001", 0.001),
        ("base.vocab_size=512", 512),
        ("base.d_mlp=96", 96),
        ("base.wave=off", "off"),
        ("base.scan_layers=true", True),
        ("base.scan_layers=False", False),
        ("data.pack_sequences=0", False),
        ("data.sources=('a.txt','b.txt')", ("a.txt", "b.txt")),
        ("base.sine.learnable=('frequency',)", ("frequency",)),
        ("base.sine.frequency_bounds=(0.5,4)", (0.5, 4.0)),
        ("base.sine.frequency_bounds=(0.5,None)", (0.5, None)),
        ("data.tokenizer_path=x.model", "x.model"),
        ("mesh.tensor=1", 1),
        ("workdir=runs/a", "runs/a"),
    ],
)
def test_an_override_has_the_type_of_its_field(flag, value):
    got = _value(load_config([QUICKSTART, f"--config.{flag}"]), flag.split("=")[0])
    assert got == value
    assert type(got) is type(value)


def test_an_optional_field_may_be_set_to_none():
    config = load_config([QUICKSTART, "--config.train.steps=None"])
    assert config.train.steps is None


def test_workdir_has_a_flag_of_its_own():
    assert load_config([QUICKSTART, "--workdir=runs/b"]).workdir == "runs/b"


def test_a_flag_and_its_value_may_be_two_arguments():
    name, file = QUICKSTART.split("=", 1)
    config = load_config([name, file, "--config.train.steps", "9", "--workdir", "w"])
    assert (config.train.steps, config.workdir) == (9, "w")


@pytest.mark.parametrize(("preset", "size"), [("", 64), (":large", 128)])
def test_a_file_may_take_a_preset(tmp_path, preset, size):
    (tmp_path / "own.py").write_text(OWN)
    assert load_config([f"--config={tmp_path / 'own.py'}{preset}"]).base.d_model == size


def test_two_loads_share_nothing():
    load_config([QUICKSTART, "--config.train.steps=3"])
    assert load_config([QUICKSTART]).train.steps != 3


def test_every_line_of_the_field_table_is_a_flag_that_sets_the_same():
    config = load_config([QUICKSTART])
    flags = [line.strip() for line in field_table(config).splitlines()]
    plain = [f for f in flags if not f.endswith(("=None", "'"))]
    assert len(plain) > 30
    assert load_config([QUICKSTART, *plain]) == config


def test_a_claim_needs_no_value_and_takes_none_from_the_next_flag():
    config = load_config([QUICKSTART, "--config.base.scan_layers", "--workdir", "runs/elsewhere"])
    assert config.base.scan_layers is True
    assert config.workdir == "runs/elsewhere"

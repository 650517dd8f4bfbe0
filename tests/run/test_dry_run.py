"""What dry-run says is what a run then needs."""

import dataclasses

import jax
import pytest

from psann_jax import bases, sharding
from psann_jax.cli import verbs
from psann_jax.config import Config, MeshConfig
from psann_jax.data import DataConfig
from psann_jax.data.tokenizer_char import CharTokenizer
from psann_jax.model import LM
from psann_jax.run.dry_run import compiled_bytes, estimate
from psann_jax.run.plan import with_vocabulary
from psann_jax.train.config import TrainConfig
from psann_jax.train.optimizer import make_optimizer
from psann_jax.train.state import init_state

CONFIG = """
from psann_jax import bases
from psann_jax.config import Config
from psann_jax.data import DataConfig
from psann_jax.data.tokenizer_char import CharTokenizer

def get_config():
    base = bases.get("respsann")(d_model=64, n_layers=2, n_heads=2)
    return Config(base=base, data=DataConfig(vocab_size=512, max_length=32))
"""


def _config(name="respsann", mesh=(1, 1, 1), **base):
    sizes = {"vocab_size": 256, "d_model": 32, "n_layers": 2, "n_heads": 2, "dtype": "float32"}
    return Config(
        base=bases.get(name)(**{**sizes, **base}),
        data=DataConfig(max_length=32),
        train=TrainConfig(steps=2, batch_tokens=8 * 32),
        mesh=MeshConfig(data=mesh[0], fsdp=mesh[1], tensor=mesh[2]),
    )


@pytest.mark.mesh
@pytest.mark.parametrize("mesh", [(1, 8, 1), (2, 2, 2), (8, 1, 1)])
@pytest.mark.parametrize("name", ["respsann", "geosparse"])
def test_bytes_of_a_device_are_those_of_the_arrays_on_it(name, mesh):
    config = _config(name, mesh)
    said = estimate(config)
    optimizer = make_optimizer(config.optimizer, 2)
    state, _ = init_state(
        lambda rngs: LM(config.base, rngs=rngs), optimizer, sharding.make_mesh(*mesh), seed=0
    )

    def on_a_device(tree):
        return sum(a.addressable_shards[0].data.nbytes for a in jax.tree.leaves(tree))

    assert said.weight_bytes == on_a_device(state.model)
    assert said.optimizer_bytes == on_a_device(state.opt_state)


def test_offloaded_moments_leave_room_but_for_the_update():
    near = _config("respsann")
    far = dataclasses.replace(near, optimizer=dataclasses.replace(near.optimizer, offload=True))
    a, b = estimate(near), estimate(far)
    assert a.fixed_bytes - b.fixed_bytes == a.optimizer_bytes == b.optimizer_bytes
    assert b.rows_that_fit(b.update_bytes - 1) == 0
    assert "in the host's memory until the update" in b.table()


def test_xla_needs_no_less_than_the_estimate_and_not_much_more():
    # The batch itself, and what is held while a layer is worked on, are no part of the estimate.
    config = _config(d_model=64)
    said = estimate(config)
    assert 0.9 * said.peak_bytes < compiled_bytes(config) < 3 * said.peak_bytes


def test_recomputing_layers_saves_memory_as_estimated():
    config = _config(n_layers=6)
    again = dataclasses.replace(config, base=dataclasses.replace(config.base, remat="full"))
    assert estimate(again).row_bytes < 0.3 * estimate(config).row_bytes
    assert compiled_bytes(again) < 0.7 * compiled_bytes(config)


def test_dots_keeps_the_products_and_nothing_else():
    saved = {
        remat: estimate(_config(n_layers=6, remat=remat)).row_bytes
        for remat in ("none", "dots", "full")
    }
    assert 1.5 * saved["full"] < saved["dots"] < saved["none"] / 1.5


def test_rows_that_fit_fill_the_memory():
    said = estimate(_config())
    rows = said.rows_that_fit(1e9)
    assert said.fixed_bytes + rows * said.row_bytes <= 1e9
    assert said.fixed_bytes + (rows + 1) * said.row_bytes > 1e9
    assert said.rows_that_fit(1000) == 0


def test_carried_states_count():
    config = _config("rwkv6")
    tracks = dataclasses.replace(config, data=DataConfig(max_length=32, order="tracks"))
    assert estimate(config).carry_bytes == 0
    assert estimate(tracks).carry_bytes > 0


@pytest.fixture
def file(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    return str(tmp_path / "config.py")


def test_the_verb_prints_its_table_for_devices_that_are_not_here(file, capsys):
    mesh = ["--config.mesh.data=1", "--config.mesh.fsdp=64"]
    assert verbs.main(["dry-run", "--config", file, *mesh, "--memory", "80"]) == 0
    said = capsys.readouterr().out
    assert "mesh                data=1 fsdp=64 tensor=1" in said
    assert "(-, fsdp, tensor)" in said
    assert "80 GB a device hold a micro-batch of" in said


def test_the_vocabulary_is_the_tokenizers(tmp_path):
    """Of a file its own; of characters nobody knows it before the text, which is said."""
    tokenizer = CharTokenizer.fit(["abc def"], 32)
    tokenizer.save(tmp_path / "tokenizer.model")
    config = _config(vocab_size=None)
    known = dataclasses.replace(
        config, data=DataConfig(max_length=32, tokenizer_path=str(tmp_path / "tokenizer.model"))
    )
    said = estimate(known)
    assert said.parameters == estimate(with_vocabulary(config, tokenizer.vocab_size)).parameters
    assert "assumed" not in said.table()
    unknown = dataclasses.replace(config, data=DataConfig(max_length=32, tokenizer="char"))
    assert "vocabulary          32,000, assumed" in estimate(unknown).table()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--devices", "0"], "--devices=0 must be at least 1"),
        (["--memory=-1"], "--memory=-1 must be more than 0 GB"),
        (["--config.mesh.data=3", "--devices=8"], "mesh (data=3, fsdp=1, tensor=1) does not fit 8"),
        (["--devices=64", "--config.mesh.data=64", "--compile"], "--compile needs the 64 devices"),
        (["--config.mesh.data=1", "--config.mesh.fsdp=48"], "is not a multiple of mesh.fsdp=48"),
    ],
)
def test_bad_input_is_one_line(file, flags, message, capsys):
    assert verbs.main(["dry-run", "--config", file, *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_memory_too_small_names_the_ways_out(file, capsys):
    verbs.main(["dry-run", "--config", file, "--memory", "0.001", "--devices", "1"])
    said = capsys.readouterr().out
    for way in ("train.grad_accum_steps", "base.remat", "mesh.fsdp"):
        assert way in said

"""What a run will do: rows that fill the mesh, steps that see every row, a line that says so."""

import dataclasses

from flax import nnx
import jax
import pytest

from psann_jax import bases
from psann_jax.config import Config, MeshConfig
from psann_jax.data import DataConfig, prepare
from psann_jax.model import LM, parameter_count
from psann_jax.run.plan import make_plan, with_vocabulary
from psann_jax.sharding import MESH_AXES as AXES
from psann_jax.train.config import TrainConfig


@pytest.fixture(scope="module")
def corpus():
    """40 rows of 8 tokens."""
    data = DataConfig(
        tokenizer="char", vocab_size=300, max_length=8, val_split=0.0, pack_sequences=False
    )
    return prepare(data, [f"text {i:02d}" for i in range(40)])


def _config(batch_tokens=64, mesh=None, **train):
    return Config(
        base=bases.get("respsann")(vocab_size=300, d_model=16, n_layers=1, n_heads=2),
        data=DataConfig(max_length=8),
        train=TrainConfig(batch_tokens=batch_tokens, **train),
        mesh=mesh or MeshConfig(),
    )


@pytest.mark.parametrize(
    ("batch_tokens", "train", "rows"),
    [(64, {}, 8), (128, {}, 16), (135, {}, 16), (128, {"grad_accum_steps": 2}, 16)],
)
def test_rows_of_a_step_are_those_that_fit_its_tokens(corpus, batch_tokens, train, rows):
    plan = make_plan(_config(batch_tokens, **train), corpus)
    assert (plan.batch_rows, plan.tokens_per_step) == (rows, rows * 8)


@pytest.mark.mesh
@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 8, 1), (2, 1, 4)], ids=str)
def test_the_mesh_does_not_decide_the_rows_of_a_step(corpus, mesh):
    plan = make_plan(_config(8 * 39, mesh=MeshConfig(**dict(zip(AXES, mesh, strict=True)))), corpus)
    assert (plan.batch_rows, plan.steps) == (39, 2)


@pytest.mark.mesh
def test_empty_rows_fill_up_devices_and_micro_batches(corpus):
    assert make_plan(_config(8 * 39, grad_accum_steps=2), corpus).rows_multiple == 16


def test_a_small_corpus_makes_a_smaller_step(corpus):
    plan = make_plan(_config(131_072), corpus)
    assert (plan.batch_rows, plan.steps) == (40, 1)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 5), (3, 15)])
def test_epochs_take_as_many_steps_as_see_every_row(corpus, epochs, steps):
    assert make_plan(_config(epochs=epochs), corpus).steps == steps


def test_a_last_part_of_a_step_counts(corpus):
    assert make_plan(_config(8 * 24), corpus).steps == 2


def test_steps_go_before_epochs(corpus):
    assert make_plan(_config(steps=7, epochs=100), corpus).steps == 7


@pytest.mark.mesh
def test_tensor_parallel_devices_share_rows(corpus):
    plan = make_plan(_config(16, mesh=MeshConfig(data=2, tensor=4)), corpus)
    assert plan.batch_rows == 2


def test_a_mesh_that_does_not_fit_is_refused(corpus):
    with pytest.raises(ValueError, match=r"mesh \(data=3"):
        make_plan(_config(mesh=MeshConfig(data=3)), corpus)


def test_chosen_devices_make_the_mesh(corpus):
    plan = make_plan(_config(8), corpus, devices=jax.devices()[:1])
    assert (plan.mesh.size, plan.batch_rows) == (1, 1)


def test_parameters_are_those_of_the_model(corpus):
    base = _config().base
    model = jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0)))
    assert make_plan(_config(), corpus).parameters == parameter_count(model)


@pytest.mark.mesh
def test_description_says_base_steps_and_mesh(corpus):
    config = _config()
    said = make_plan(config, corpus).describe(config)
    assert "respsann 16/1/2/64" in said
    assert "5 steps of 64 tokens (8 rows of 8)" in said
    assert "data=8 fsdp=1 tensor=1" in said


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("waveresnet", {}, "waveresnet 16/1/2/64, "),
        ("waveresnet", {"wave": "replace", "d_mlp": 32}, "waveresnet 16/1/2, "),
        ("waveresnet", {"wave": "psannlm-attention-only"}, "waveresnet 16/1/2, "),
        ("mamba2", {}, "mamba2 16/1/2, "),
        ("mamba2", {"d_mlp": 32}, "mamba2 16/1/2/32, "),
    ],
)
def test_description_has_the_width_of_an_mlp_that_is_there(corpus, name, options, said):
    base = bases.get(name)(vocab_size=300, d_model=16, n_layers=1, n_heads=2, **options)
    config = dataclasses.replace(_config(), base=base)
    assert make_plan(config, corpus).describe(config).startswith(said)


def test_vocabulary_is_the_tokenizers_where_none_is_set():
    config = _config()
    config = dataclasses.replace(config, base=dataclasses.replace(config.base, vocab_size=None))
    assert with_vocabulary(config, 270).base.vocab_size == 270


def test_a_larger_vocabulary_of_the_model_stays():
    assert with_vocabulary(_config(), 270).base.vocab_size == 300


def test_a_smaller_vocabulary_of_the_model_is_refused():
    with pytest.raises(ValueError, match=r"base\.vocab_size=300 is smaller than .* 301"):
        with_vocabulary(_config(), 301)

"""Models as psannlm's files: read back here as they were, whole or not at all."""

import json
from pathlib import Path

from flax import nnx
import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from psann_jax import bases
from psann_jax.data import DataConfig, prepare
from psann_jax.interop.checkpoint import load_checkpoint
from psann_jax.interop.export import export
from psann_jax.interop.folder import SavedModel
from psann_jax.interop.psannlm_canonical import canonical_config
from psann_jax.interop.psannlm_policies import OURS
from psann_jax.interop.torch_file import read
from psann_jax.model import LM
from psann_jax.nn.sparse import GeometryConfig

GOLDEN = Path(__file__).parent.parent / "golden" / "torch"
TINY = {"vocab_size": 32, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}


def _saved(tiny, name="respsann", **options):
    return SavedModel(bases.get(name)(**TINY, **options, dtype="float32"), tiny(name), None, 7)


@pytest.mark.parametrize("name", OURS)
def test_a_model_comes_back_exactly(tiny, tmp_path, name):
    saved = _saved(tiny, name)
    export(tmp_path / "m.pt", saved)
    back = load_checkpoint(tmp_path / "m.pt")
    assert back.base == saved.base
    for a, b in zip(*map(jax.tree.leaves, (back.model, saved.model)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_tied_head_is_written_as_a_copy(tmp_path):
    base = bases.get("respsann")(**TINY, dtype="float32", tie_embeddings=True)
    saved = SavedModel(base, LM(base, rngs=nnx.Rngs(0)), None, 7)
    export(tmp_path / "m.pt", saved)
    tokens = np.arange(6, dtype=np.int32)[None]
    back = load_checkpoint(tmp_path / "m.pt").model(tokens)[0]
    np.testing.assert_allclose(back, saved.model(tokens)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "name", ["residual_rope", "transformer_alibi", "sparse_mixed", "wave_interleave"]
)
def test_a_file_of_psannlm_comes_back_in_every_value(tmp_path, name):
    export(tmp_path / "m.pt", load_checkpoint(GOLDEN / f"{name}.pt"))
    back, before = read(tmp_path / "m.pt"), read(GOLDEN / f"{name}.pt")
    tensors, tensors_before = back.pop("state_dict"), before.pop("state_dict")
    assert back == before
    assert tensors.keys() == tensors_before.keys()
    for key, array in tensors_before.items():
        np.testing.assert_array_equal(tensors[key], array)
        assert (tensors[key].dtype, tensors[key].shape) == (array.dtype, array.shape)


def test_safetensors_have_psannlms_names_and_config(tiny, tmp_path):
    saved = _saved(tiny)
    export(tmp_path / "m.safetensors", saved)
    export(tmp_path / "m.pt", saved)
    expected = read(tmp_path / "m.pt")
    arrays = load_file(tmp_path / "m.safetensors")
    assert arrays.keys() == expected["state_dict"].keys()
    with safe_open(tmp_path / "m.safetensors", "np") as file:
        assert json.loads(file.metadata()["psannlm_config"]) == canonical_config(saved.base)


def test_another_ending_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"ends in '\.bin'; end it in \.pt or \.safetensors"):
        export(tmp_path / "m.bin", _saved(tiny))


def test_what_psannlm_does_not_have_is_refused_and_nothing_is_written(tiny, tmp_path):
    saved = _saved(tiny, "waveresnet", kernel=4)
    with pytest.raises(ValueError, match=r"base\.kernel=4"):
        export(tmp_path / "m.pt", saved)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_psannlm_does_not_have_is_refused(tiny, tmp_path):
    data = DataConfig(tokenizer="char", max_length=8, vocab_size=300, val_split=0.0)
    saved = _saved(tiny)._replace(tokenizer=prepare(data, ["some text"]).tokenizer)
    with pytest.raises(ValueError, match="tokenizer of kind 'char'"):
        export(tmp_path / "m.pt", saved)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_place_that_cannot_be_written_is_named(tiny, tmp_path, ending):
    with pytest.raises(ValueError, match=rf"none/m\{ending} cannot be written"):
        export(tmp_path / "none" / f"m{ending}", _saved(tiny))


@pytest.mark.parametrize("pattern", ["local", "random"])
def test_both_formats_hold_the_same_numbers(tmp_path, pattern):
    geometry = GeometryConfig(pattern=pattern, k=3, seed=1)
    base = bases.get("geosparse")(**TINY, dtype="float32", geometry=geometry)
    saved = SavedModel(base, LM(base, rngs=nnx.Rngs(0)), None, 8)
    for name in ("m.pt", "m.safetensors"):
        export(tmp_path / name, saved)
    tensors = load_file(tmp_path / "m.safetensors")
    for name, array in read(tmp_path / "m.pt")["state_dict"].items():
        np.testing.assert_array_equal(tensors[name], array)

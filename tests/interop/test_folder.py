"""A model as a folder: exact there and back, whole or refused with the file's name."""

import json

from flax import nnx
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from psann_jax import bases
from psann_jax.data import DataConfig, prepare
from psann_jax.interop.folder import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    SavedModel,
    is_model_folder,
    load_folder,
    save_folder,
)
from psann_jax.model import LM
from psann_jax.nn.sparse import GeometryConfig

TINY = {"vocab_size": 32, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 32}


def _saved(tiny, name="respsann", tokenizer=None):
    base = bases.get(name)(**TINY, dtype="float32")
    return SavedModel(base, tiny(name), tokenizer, 77)


@pytest.fixture
def folder(tiny, tmp_path):
    save_folder(tmp_path, _saved(tiny))
    return tmp_path


@pytest.mark.parametrize("name", bases.names())
def test_base_and_weights_come_back_exactly(tiny, tmp_path, name):
    saved = _saved(tiny, name)
    save_folder(tmp_path, saved)
    loaded = load_folder(tmp_path)
    assert (loaded.base, loaded.max_length, loaded.tokenizer) == (saved.base, 77, None)
    assert jax.tree.structure(loaded.model) == jax.tree.structure(saved.model)
    for a, b in zip(*map(jax.tree.leaves, (loaded.model, saved.model)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_tokenizer_comes_along(tiny, tmp_path):
    data = DataConfig(tokenizer="char", max_length=8, vocab_size=300, val_split=0.0)
    tokenizer = prepare(data, ["some text"]).tokenizer
    base = bases.get("respsann")(**{**TINY, "vocab_size": 300}, dtype="float32")
    large = SavedModel(base, LM(base, rngs=nnx.Rngs(0)), tokenizer, 77)
    save_folder(tmp_path, large)
    assert load_folder(tmp_path).tokenizer.encode("text") == tokenizer.encode("text")
    save_folder(tmp_path, _saved(tiny))  # another model, without one
    assert load_folder(tmp_path).tokenizer is None
    save_folder(tmp_path, _saved(tiny, tokenizer=tokenizer))
    with pytest.raises(ValueError, match="the tokenizer has .* ids, the model knows 32"):
        load_folder(tmp_path)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_link_is_refused(folder, name):
    (folder / name).rename(folder / "elsewhere")
    (folder / name).symlink_to(folder / "elsewhere")
    with pytest.raises(ValueError, match=f"{name} is a link; copy the file"):
        load_folder(folder)


@pytest.mark.parametrize("length", ["0", "-5", "1e400", "Infinity", '"77"', "true"])
def test_a_length_that_is_none_is_refused(folder, length):
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(text.replace('"max_length": 77', f'"max_length": {length}'))
    with pytest.raises(ValueError, match="is no model config: max_length"):
        load_folder(folder)


def test_a_config_without_end_is_refused(folder):
    (folder / CONFIG).write_text("[" * 200_000)
    with pytest.raises(ValueError, match="is no model config"):
        load_folder(folder)


def test_a_dtype_that_numpy_lacks_is_refused(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content.replace(b'"F32"', b'"F4" ', 1))
    with pytest.raises(ValueError, match="model.safetensors"):
        load_folder(folder)


def test_an_address_for_the_folder_is_refused(tiny):
    with pytest.raises(ValueError, match="^path='gs://b/x' is an address"):
        save_folder("gs://b/x", _saved(tiny))


def test_names_in_the_file_are_those_of_the_model(folder):
    names = load_file(folder / WEIGHTS)
    assert "stack/layers/0/mixer/q/kernel" in names
    assert "embed/table" in names


def test_saving_leaves_no_half_written_file(folder):
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS]


def test_saving_over_a_folder_replaces_it(tiny, folder):
    save_folder(folder, _saved(tiny, "transformer"))
    assert bases.name_of(load_folder(folder).base) == "transformer"


@pytest.mark.parametrize("name", [CONFIG, TOKENIZER])
def test_files_of_others_are_not_replaced(tiny, tmp_path, name):
    (tmp_path / name).write_text('{"model_type": "other"}')
    with pytest.raises(ValueError, match=f"path .* has a {name} .*; save the model in another"):
        save_folder(tmp_path, _saved(tiny))
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"model_type": "other"}'


def test_a_folder_is_known_by_its_weights(folder, tmp_path):
    assert is_model_folder(folder)
    assert not is_model_folder(tmp_path / "none")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("fault", ["missing", "cut", "empty"])
def test_a_damaged_file_is_named(folder, name, fault):
    path = folder / name
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 20 if fault == "cut" else 0])
    with pytest.raises(ValueError, match=name):
        load_folder(folder)


def test_a_damaged_tokenizer_is_named(folder):
    (folder / TOKENIZER).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=TOKENIZER):
        load_folder(folder)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format", "other", "not of format"),
        ("version", 99, "not of format"),
        ("base", 3, "no model config"),
        ("max_length", "long", "no model config"),
    ],
)
def test_a_config_of_another_kind_is_refused(folder, key, value, said):
    tree = json.loads((folder / CONFIG).read_text())
    tree[key] = value
    (folder / CONFIG).write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=said):
        load_folder(folder)


def test_weights_of_another_size_are_named_with_both_shapes(folder):
    tree = json.loads((folder / CONFIG).read_text())
    tree["base"]["d_mlp"] = 48
    (folder / CONFIG).write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=r"mixer/\S+ is \(.*32.*\), config\.json wants \(.*48.*\)"):
        load_folder(folder)


def test_weights_that_lack_a_layer_are_named(folder):
    tree = json.loads((folder / CONFIG).read_text())
    tree["base"]["name"] = "waveresnet"
    (folder / CONFIG).write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=r"stack/layers/2/\S+ is None"):
        load_folder(folder)


def test_a_huge_config_is_not_read(folder):
    (folder / CONFIG).write_text(" " * (1 << 20) + "{}")
    with pytest.raises(ValueError, match="larger than"):
        load_folder(folder)


def test_a_place_that_cannot_be_written_is_a_value_error(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be saved"):
        save_folder(tmp_path / "file", _saved(tiny))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("choice", lambda a: a + 10**6, "an index table holds 1000"),
        ("choice", lambda a: a.astype(np.float32), "float32.*int32"),
        ("kernel", lambda a: a.astype(np.float16), "float16.*float32"),
    ],
)
def test_weights_of_another_kind_or_range_are_refused(tmp_path, tiny, name, change, said):
    geometry = GeometryConfig(pattern="random", k=3)
    base = bases.get("geosparse")(**TINY, dtype="float32", geometry=geometry)
    model = LM(base, rngs=nnx.Rngs(0))
    save_folder(tmp_path, SavedModel(base, model, None, 8))
    arrays = load_file(tmp_path / "model.safetensors")
    arrays = {k: change(v) if k.endswith(name) else v for k, v in arrays.items()}
    save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=said):
        load_folder(tmp_path)

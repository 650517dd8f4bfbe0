"""Files that psannlm 2.0.1 wrote become models here with its logits and tokens, without torch."""

import copy
import json
from pathlib import Path
import subprocess
import sys

import jax
import numpy as np
import pytest

from psann_jax import bases
from psann_jax.interop.checkpoint import load_checkpoint, read_checkpoint
from psann_jax.interop.folder import check_vocabulary
from psann_jax.interop.torch_file import read
from psann_jax.interop.torch_write import write

GOLDEN = Path(__file__).parent.parent / "golden" / "torch"
SAME = {  # file -> base; those that compute here what they do in psannlm
    "residual_rope": "respsann",
    "residual_layer_norm": "respsann",
    "transformer_alibi": "transformer",
    "sparse_local": "geosparse",
    "sparse_mixed": "geosparse",
    "legacy": "waveresnet",
    "trainer_final": "respsann",
}
OTHER = {"wave_interleave": "waveresnet", "residual_spectral": "sgrpsann"}
EXACT_LOGITS = 1e-5  # float32 sums in another order


def _tree(name="residual_rope"):
    return copy.deepcopy(read(GOLDEN / f"{name}.pt"))


def _distance(name, saved):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        logits = jax.jit(lambda model, ids: model(ids)[0])(saved.model, arrays["ids"])
        return float(np.abs(logits - arrays["logits"]).max())


@pytest.mark.parametrize("name", SAME)
def test_a_model_of_psannlm_has_its_logits(name):
    saved = load_checkpoint(GOLDEN / f"{name}.pt")
    assert bases.name_of(saved.base) == SAME[name]
    assert _distance(name, saved) < EXACT_LOGITS


@pytest.mark.parametrize("name", OTHER)
def test_a_model_that_is_causal_here_alone_says_so(name):
    saved = load_checkpoint(GOLDEN / f"{name}.pt")
    assert bases.name_of(saved.base) == OTHER[name]
    assert _distance(name, saved) > EXACT_LOGITS
    assert any("future" in note for note in saved.notes)


@pytest.mark.parametrize("name", ["residual_rope", "transformer_alibi"])
def test_its_tokenizer_makes_the_same_tokens(name):
    saved = load_checkpoint(GOLDEN / f"{name}.pt")
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        assert saved.tokenizer.encode(str(arrays["text"])) == arrays["tokens"].tolist()


def test_a_checkpoint_of_the_trainer_says_what_stays_behind():
    found = read_checkpoint(GOLDEN / "trainer_final.pt")
    assert (found.kind, found.max_length, found.tokenizer) == ("psannlm.trainer", 16, None)
    assert "optimizer" in found.notes[0]


def test_a_model_has_its_kind_and_psannlms_row_length():
    found = read_checkpoint(GOLDEN / "residual_rope.pt")
    assert (found.kind, found.max_length, found.notes) == ("psannlm.model", 1024, ())
    assert found.tokenizer["backend"] == "simple"


def test_the_activations_may_be_bfloat16():
    assert read_checkpoint(GOLDEN / "residual_rope.pt", "bfloat16").base.dtype == "bfloat16"


def test_nothing_of_torch_is_imported():
    code = (
        "import sys; from psann_jax.interop.checkpoint import load_checkpoint; "
        f"load_checkpoint({str(GOLDEN / 'residual_rope.pt')!r}); "
        "print([n for n in sys.modules if n.split('.')[0] in ('torch', 'psannlm', 'psann')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_weights_in_half_precision_are_read(tmp_path):
    tree = _tree()
    tree["state_dict"] = {k: v.astype(np.float16) for k, v in tree["state_dict"].items()}
    write(tmp_path / "m.pt", tree)
    assert _distance("residual_rope", load_checkpoint(tmp_path / "m.pt")) < 0.05


def test_a_trainer_file_from_before_2_0_of_several_devices_is_read(tmp_path):
    tree = _tree("trainer_final")
    model = {f"module.{name}": array for name, array in tree["model"].items()}
    old = {"model": model, "optim": {}, "state": {"step": 2}, "cfg": {}, "config": tree["config"]}
    write(tmp_path / "m.pt", old)
    found = read_checkpoint(tmp_path / "m.pt")
    assert found.kind == "legacy trainer"
    assert _distance("trainer_final", found) < EXACT_LOGITS


def _change(tree, path, value):
    *parents, key = path.split("/")
    for parent in parents:
        tree = tree[parent]
    if value is None:
        del tree[key]
    else:
        tree[key] = value


FAULTS = {
    "schema": ("other", "schema='other'"),
    "schema_version": (2, "schema_version=2"),
    "surprise": (1, "surprise is unknown in a psannlm.model"),
    "config": (None, "it has no config"),
    "config/n_layers": (3, "config.n_layers=3, but the weights have 2 blocks"),
    "config/vocab_size": (1_000_000_000, "embed.weight has shape"),
    "config/d_model": (1 << 30, "embed.weight has shape"),
    "config/d_mlp": (1 << 30, "its config wants"),
    "config/n_heads": (1 << 31, "config.n_heads=2147483648 is not within 2147483647"),
    "config/dropout": (float("nan"), "config.dropout=nan is not within"),
    "config/surprise": (1, "config.surprise is unknown"),
    "config/architecture/residual/hidden_w0": (2.0, "config.architecture.residual.hidden_w0"),
    "state_dict": ({}, "state_dict holds no tensors"),
    "state_dict/ln_f.scale": (None, "state lacks ln_f.scale"),
    "state_dict/extra": (np.ones(2), "state has extra"),
    "state_dict/embed.weight": ("text", "state_dict.embed.weight is no tensor"),
    "state_dict/lm_head.weight": (np.ones((24, 8), np.complex64), "lm_head.weight is complex"),
    "tokenizer": ({"backend": "other"}, "tokenizer."),
    "tokenizer/vocabulary": ([chr(n) for n in range(97, 200)], "107 ids, the model knows"),
}


@pytest.mark.parametrize("path", FAULTS)
def test_a_fault_is_named_with_its_file_and_key(tmp_path, path):
    value, said = FAULTS[path]
    tree = _tree()
    _change(tree, path, value)
    write(tmp_path / "model.pt", tree)
    with pytest.raises(ValueError) as error:
        load_checkpoint(tmp_path / "model.pt")
    assert said in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'model.pt'}: ")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("geometry/k", 1 << 30, "base.geometry.k=1073741824 is more than base.d_mlp=16"),
        ("geometry/radius", 1 << 30, "base.geometry.radius=1073741824 must be in [0, 64]"),
        ("geometry_execution/depth", 1 << 30, "config.architecture.geometry_execution.depth"),
        ("geometry/seed", 1 << 63, "config.architecture.geometry.seed"),
        ("geometry/shape", [1 << 30, 1 << 30], "base.geometry.shape"),
    ],
)
def test_a_geometry_larger_than_the_weights_is_refused_at_once(tmp_path, path, value, said):
    tree = _tree("sparse_local")
    _change(tree, f"config/architecture/{path}", value)
    write(tmp_path / "m.pt", tree)
    with pytest.raises(ValueError) as error:
        read_checkpoint(tmp_path / "m.pt")
    assert said in str(error.value)


@pytest.mark.parametrize("tree", [{}, {"a": 1}, [1], {"w": np.ones(2)}])
def test_a_torch_file_of_another_kind_is_refused(tmp_path, tree):
    write(tmp_path / "m.pt", tree)
    with pytest.raises(ValueError, match="it holds"):
        read_checkpoint(tmp_path / "m.pt")


def test_an_old_trainer_file_without_config_says_the_way_out(tmp_path):
    tree = _tree("trainer_final")
    write(tmp_path / "m.pt", {"model": tree["model"], "optim": {}, "state": {}, "cfg": {}})
    with pytest.raises(ValueError, match="no config; load it with psannlm"):
        read_checkpoint(tmp_path / "m.pt")


def test_a_tokenizer_larger_than_the_model_is_refused():
    saved = load_checkpoint(GOLDEN / "residual_rope.pt")
    check_vocabulary(saved.base, None)
    with pytest.raises(ValueError, match="the model knows 3"):
        check_vocabulary(bases.get("respsann")(vocab_size=3), saved.tokenizer)


OLD = {"base": "respsann", "d_model": 8, "n_layers": 2, "n_heads": 2, "d_mlp": 16}


def _legacy(tmp_path, config):
    state = _tree("residual_rope")["state_dict"]
    write(tmp_path / "m.pt", {"config": config, "state_dict": state})
    return read_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        ({"rope": False}, "positional_encoding", "sinusoidal"),
        ({"rope": False, "positional_encoding": "alibi"}, "positional_encoding", "alibi"),
        ({}, "positional_encoding", "rope"),
        ({"overrides": {"dropout": 0.1}}, "dropout", 0.1),
        ({"vocab_size": None}, "vocab_size", 24),
    ],
)
def test_a_flat_config_sets_its_field(tmp_path, config, field, value):
    assert getattr(_legacy(tmp_path, {**OLD, **config}).base, field) == value


@pytest.mark.parametrize(
    "config", [{"sine": {"freq_init": 2.0}}, {"sine_freq_init": 2.0}], ids=["nested", "flat"]
)
def test_a_flat_config_sets_the_sine(tmp_path, config):
    assert _legacy(tmp_path, {**OLD, **config}).base.sine.frequency == 2.0


def test_a_flat_config_may_freeze_the_sine(tmp_path):
    assert _legacy(tmp_path, {**OLD, "sine_trainable": False}).base.sine.learnable == ()


def test_an_override_that_psannlm_did_not_read_is_not_read_and_said(tmp_path):
    found = _legacy(tmp_path, {**OLD, "overrides": {"wave_interleave": True}})
    assert found.notes == (
        "psannlm did not read its config.overrides.wave_interleave, and nor is it read here",
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"surprise": 1}, "config.surprise is unknown"),
        ({"sine": {"freq": 1}}, "config.sine.freq is unknown"),
        ({"base": "other"}, "base='other' is unknown"),
        ({"n_heads": 3}, "base.n_heads=3"),
    ],
)
def test_a_fault_of_a_flat_config_is_named(tmp_path, config, said):
    with pytest.raises(ValueError, match=said):
        _legacy(tmp_path, {**OLD, **config})


@pytest.mark.parametrize("base", ["transformer", "geosparse", "sgrpsann"])
def test_a_flat_config_of_every_base_is_understood(base):
    from psann_jax.interop.psannlm_legacy import legacy_base

    config = {**OLD, "base": base, "overrides": {"mlp_activation": "gelu"}, "sine": {}}
    assert bases.name_of(legacy_base(config, 24)[0]) == base


def test_the_canonical_config_is_json_in_the_file():
    assert json.loads(json.dumps(_tree()["config"])) == _tree()["config"]

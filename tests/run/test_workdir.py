"""The folder of a run: made whole, and never taken over by another run."""

import dataclasses
import json

import pytest

from psann_jax import bases
from psann_jax.config import Config
from psann_jax.data import DataConfig, prepare
from psann_jax.run.stop import MachineFailed
from psann_jax.run.workdir import FREE, LENGTH, Workdir
from psann_jax.train.config import TrainConfig

TEXTS = ["one two three", "four five six", "seven eight nine ten"]


def _config(**data):
    fields = {"tokenizer": "char", "vocab_size": 300, "max_length": 8, "val_split": 0.0}
    return Config(
        base=bases.get("respsann")(vocab_size=300),
        data=DataConfig(**{**fields, **data}),
        train=TrainConfig(batch_tokens=64, steps=10),
    )


@pytest.fixture(scope="module")
def corpus():
    return prepare(_config().data, TEXTS)


@pytest.fixture
def opened(tmp_path, corpus):
    workdir = Workdir(tmp_path / "run")
    workdir.open(_config(), corpus)
    return workdir


def test_opening_writes_config_tokenizer_and_environment(opened, corpus):
    assert opened.saved_config() == _config()
    assert opened.tokenizer.read_bytes() == corpus.tokenizer.to_bytes()
    assert json.loads(opened.environment.read_text())["packages"]["jax"]


def test_opening_leaves_no_half_written_file(opened):
    assert not list(opened.path.glob("*.part"))


def test_opening_again_is_allowed(opened, corpus):
    opened.open(_config(), corpus)
    assert opened.exists()


def test_a_folder_that_is_not_there_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=r"no run: it has no config\.json"):
        Workdir(tmp_path / "none").saved_config()


@pytest.mark.parametrize("text", ["garbage", "[]", "\0"])
def test_damaged_data_are_named(opened, corpus, text):
    opened.data.write_text(text)
    with pytest.raises(ValueError, match=r"data\.json cannot be read: .*; remove it"):
        opened.open(_config(), corpus)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"base": {"name": "nothing"}}'])
def test_a_damaged_config_is_named(opened, text):
    opened.config.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        opened.saved_config()


def test_a_folder_with_something_else_is_refused(tmp_path, corpus):
    (tmp_path / "thesis.txt").write_text("keep me")
    with pytest.raises(ValueError, match="not empty and holds no run"):
        Workdir(tmp_path).open(_config(), corpus)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_its_place_is_refused(tmp_path, corpus):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ValueError, match="cannot be written"):
        Workdir(tmp_path / "run").open(_config(), corpus)


def test_a_file_in_its_place_is_refused_before_the_text_is_read(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ValueError, match=r"run cannot be written: .*Not a directory"):
        Workdir(tmp_path / "run").refuse(_config())


def test_a_run_that_began_meanwhile_is_not_taken_over(opened, corpus):
    other = _changed("optimizer.learning_rate", 3e-4)
    with pytest.raises(ValueError, match=r"another config: optimizer\.learning_rate"):
        opened.open(other, corpus)
    assert opened.saved_config() == _config()


def test_a_run_killed_as_it_began_leaves_no_foreign_folder(tmp_path, corpus):
    workdir = Workdir(tmp_path)
    workdir.lock.touch()
    (tmp_path / "config.part").touch()
    workdir.open(_config(), corpus)
    assert workdir.exists()


@pytest.mark.parametrize(("begun", "kind"), [(False, ValueError), (True, MachineFailed)])
def test_a_full_disk_is_bad_input_only_before_a_run(tmp_path, monkeypatch, begun, kind):
    def full(path, text=""):
        raise OSError(28, "No space left on device")

    workdir = Workdir(tmp_path / "run")
    if begun:
        workdir.path.mkdir()
        workdir.config.write_text("{}")
    monkeypatch.setattr("psann_jax.run.workdir.locked", full)
    with pytest.raises(kind, match=r"run cannot be written: .*No space left"), workdir.held():
        pass


def test_a_folder_in_use_is_refused_as_it_is(opened, hold_lock):
    before = {p: p.read_bytes() for p in opened.path.iterdir()}
    hold_lock(opened.lock)
    with pytest.raises(ValueError, match=r"is in use: process \d+ on "), opened.held():
        pytest.fail("two runs in one folder")
    after = {p: p.read_bytes() for p in opened.path.iterdir() if p != opened.lock}
    assert after == before


def test_nothing_is_written_into_a_folder_with_something_else(tmp_path):
    (tmp_path / "thesis.txt").write_text("keep me")
    with pytest.raises(ValueError, match="holds no run"), Workdir(tmp_path).held():
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_looking_whether_a_folder_can_be_made_makes_none(tmp_path, monkeypatch):
    """Another run may be making its own under the same parent."""
    monkeypatch.setattr("pathlib.Path.mkdir", lambda *_, **__: pytest.fail("a folder was made"))
    Workdir(tmp_path / "new" / "run").refuse(_config())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["file", "file/run", "file/new/run"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        Workdir(tmp_path / folder).refuse_unwritable()


def test_process_0_alone_looks_into_the_folder(tmp_path, monkeypatch):
    (tmp_path / "thesis.txt").write_text("keep me")
    monkeypatch.setattr("jax.process_index", lambda: 1)
    Workdir(tmp_path).refuse(_config())
    monkeypatch.setattr("jax.process_index", lambda: 0)
    with pytest.raises(ValueError, match="holds no run"):
        Workdir(tmp_path).refuse(_config())


def _changed(name, value):
    config = _config()
    *parents, last = name.split(".")
    node = config
    for parent in parents:
        node = getattr(node, parent)
    setattr(node, last, value)
    return config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("base.d_model", 256),
        ("base.dtype", "float32"),
        ("base.dropout", 0.1),
        ("base.sine.frequency", 2.0),
        ("data.seed", 3),
        ("data.max_length", 16),
        ("optimizer.learning_rate", 1e-3),
        ("train.batch_tokens", 128),
        ("train.seed", 3),
        ("train.grad_accum_steps", 2),
        ("train.label_smoothing", 0.1),
    ],
)
def test_a_change_of_the_run_is_refused_with_both_values(opened, name, value):
    with pytest.raises(ValueError, match=rf"{name} .* -> .*{value}"):
        opened.refuse_other_run(_changed(name, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mesh.fsdp", 4),
        ("base.scan_layers", True),
        ("base.remat", "full"),
        ("train.save_interval_steps", 7),
        ("workdir", "elsewhere"),
        ("train.steps", 20),
    ],
)
def test_what_moves_no_number_of_a_step_may_change(opened, name, value):
    assert name in FREE | LENGTH
    opened.refuse_other_run(_changed(name, value))


def test_another_base_is_refused(opened):
    config = dataclasses.replace(_config(), base=bases.get("transformer")(vocab_size=300))
    with pytest.raises(ValueError, match="holds a run with another config"):
        opened.refuse_other_run(config)


def test_a_vocabulary_left_to_the_tokenizer_is_no_change(opened):
    opened.refuse_other_run(_changed("base.vocab_size", None))


def test_other_text_is_refused_with_its_counts(opened):
    other = prepare(_config().data, [*TEXTS, "and more"])
    with pytest.raises(ValueError, match=r"has changed .*train_documents 3 -> 4"):
        opened.open(_config(), other)


def test_every_field_that_may_change_exists():
    from psann_jax.config import leaves

    assert set(leaves(Config())) >= FREE | LENGTH

"""The folder of a fit: it goes on with the weights that are its own, and with no others."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from psann_jax import psannLM, psannLMDataPrep
from psann_jax.run.evaluate import evaluate_run
from psann_jax.run.stop import StopSignal
from psann_jax.run.text import rows_of_run
from psann_jax.run.workdir import Workdir

SIZES = {"base": "respsann", "d_model": 16, "n_layers": 1, "n_heads": 2, "d_mlp": 16}
TEXTS = [f"the cat number {i} sat on mat {i}." for i in range(24)]
PREP = {"tokenizer": "char", "max_length": 32}
FIT = {"batch_tokens": 256, "amp": "fp32", "ddp": "off", "verbose": False, "lr": 3e-3, "steps": 3}


@pytest.fixture(scope="module")
def data():
    return psannLMDataPrep(TEXTS, **PREP)


@pytest.fixture(scope="module")
def before(data, tmp_path_factory):
    """The saved folder of a model that others are trained from."""
    folder = tmp_path_factory.mktemp("before") / "saved"
    psannLM(**SIZES).fit(data, **{**FIT, "steps": 1}).save(folder)
    return folder


@pytest.fixture
def stopped_fit(monkeypatch):
    """Calls fit, and stops it after its first step."""

    class Asked(StopSignal):
        def __enter__(self):
            self.asked = True
            return self

    def fit(lm, data, **options):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="at step 1"):
            patch.setattr("psann_jax.run.train.StopSignal", Asked)
            lm.fit(data, **options)

    return fit


def _weights(lm):
    return [np.asarray(a) for a in jax.tree.leaves(lm._model)]


def _equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(_weights(a), _weights(b), strict=True))


def test_a_second_fit_in_the_folder_of_the_first_is_refused(data, tmp_path):
    lm = psannLM(**SIZES).fit(data, checkpoint_dir=tmp_path / "x", **FIT)
    with pytest.raises(ValueError, match=r"checkpoint_dir \S+x is finished with step 3; choose"):
        lm.fit(data, checkpoint_dir=tmp_path / "x", **FIT)


def test_a_finished_fit_is_loaded_by_a_new_model(data, tmp_path):
    lm = psannLM(**SIZES).fit(data, checkpoint_dir=tmp_path, **FIT)
    assert _equal(psannLM(**SIZES).fit(data, checkpoint_dir=tmp_path, **FIT), lm)


def test_a_longer_fit_goes_on_with_the_weights_of_the_shorter(data, tmp_path):
    lm = psannLM(**SIZES).fit(data, checkpoint_dir=tmp_path, **FIT)
    short = _weights(lm)
    lm.fit(data, checkpoint_dir=tmp_path, **{**FIT, "steps": 4})
    assert not all(np.array_equal(a, b) for a, b in zip(short, _weights(lm), strict=True))


def test_a_shorter_fit_than_the_folder_has_is_refused(data, tmp_path):
    """Else the folder's config would tell of a run that never was."""
    psannLM(**SIZES).fit(data, checkpoint_dir=tmp_path, **FIT)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"steps=2 ends with step 2, and .* reached step 3; give"):
        psannLM(**SIZES).fit(data, checkpoint_dir=tmp_path, **{**FIT, "steps": 2})
    assert (tmp_path / "config.json").read_bytes() == before


def test_saving_a_model_leaves_the_run_in_a_folder_as_it_is(data, tmp_path):
    lm = psannLM(**SIZES).fit(data, checkpoint_dir=tmp_path, **FIT)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"has a config\.json that is no saved model's, of a run"):
        lm.save(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_saved_model_has_no_steps(data, before):
    with pytest.raises(ValueError, match=r"step=5 is for a run's workdir; .* is a model"):
        psannLM.load(before, step=5)


@pytest.mark.parametrize("folder", ["", 5])
def test_a_checkpoint_dir_that_is_no_path_is_named(data, folder):
    with pytest.raises(ValueError, match=f"checkpoint_dir={folder!r} must be a path"):
        psannLM(**SIZES).fit(data, checkpoint_dir=folder, **FIT)


def test_other_weights_than_a_fit_began_from_are_refused(data, before, tmp_path, stopped_fit):
    lm, other = psannLM.load(before), psannLM(**SIZES).fit(data, **{**FIT, "lr": 1e-3})
    stopped_fit(lm, data, checkpoint_dir=tmp_path, **FIT)
    kept = _weights(other)
    with pytest.raises(ValueError, match="began from other weights than this model has; choose"):
        other.fit(data, checkpoint_dir=tmp_path, **FIT)
    assert all(np.array_equal(a, b) for a, b in zip(kept, _weights(other), strict=True))
    with pytest.raises(ValueError, match="began from its own weights; choose another"):
        psannLM(**SIZES).fit(data, checkpoint_dir=tmp_path, **FIT)


@pytest.mark.parametrize("again", ["reached", "loaded anew"])
def test_a_stopped_fit_of_given_weights_goes_on(data, before, tmp_path, stopped_fit, again):
    whole = psannLM.load(before).fit(data, **FIT)
    lm = psannLM.load(before)
    stopped_fit(lm, data, checkpoint_dir=tmp_path, **FIT)
    lm = lm if again == "reached" else psannLM.load(before)
    assert _equal(lm.fit(data, checkpoint_dir=tmp_path, **FIT), whole)


def test_a_folder_that_does_not_say_what_it_began_from_goes_on(data, before, tmp_path, stopped_fit):
    stopped_fit(psannLM(**SIZES), data, checkpoint_dir=tmp_path, **FIT)
    record = tmp_path / "data.json"
    record.write_text(record.read_text().replace('"weights": null,', ""))
    psannLM.load(before).fit(data, checkpoint_dir=tmp_path, **FIT)
    assert '"weights"' not in record.read_text()


@pytest.fixture(scope="module", params=[None, 0.25], ids=["whole", "split"])
def apart(request, tmp_path_factory):
    """The folder of a fit to the file a.txt beside it, with the file b.txt for validation."""
    folder = tmp_path_factory.mktemp("apart")
    (folder / "a.txt").write_text("\n".join(TEXTS))
    (folder / "b.txt").write_text("\n".join(TEXTS[:8]))
    train = psannLMDataPrep(folder / "a.txt", val_split=request.param, **PREP)
    val = psannLMDataPrep(folder / "b.txt", **PREP)
    psannLM(**SIZES).fit(train, val, checkpoint_dir=folder / "x", **FIT)
    return folder / "x"


def test_a_run_validated_apart_asks_for_files_to_evaluate_on(apart):
    with pytest.raises(ValueError, match="validated on texts given apart; name files to evaluate"):
        evaluate_run(apart)


def test_a_run_validated_apart_is_evaluated_on_files(apart):
    logged = json.loads((apart / "metrics.jsonl").read_text().splitlines()[-1])["val_loss"]
    loss = evaluate_run(apart, (str(apart.parent / "b.txt"),))["val_loss"]
    assert loss == pytest.approx(logged, rel=1e-5)  # in batches of another size


def test_the_text_of_a_run_validated_apart_is_its_training_text(apart):
    found = rows_of_run(Workdir(apart), Workdir(apart).saved_config().data)
    assert found.name == "training text, since the validation text was given apart"


def test_edited_training_text_of_a_run_validated_apart_is_refused(apart, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS[1:]))
    data = Workdir(apart).saved_config().data
    edited = dataclasses.replace(data, sources=(str(tmp_path / "a.txt"),))
    with pytest.raises(ValueError, match="has changed since the run in .* began .train_"):
        rows_of_run(Workdir(apart), edited)

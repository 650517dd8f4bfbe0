"""Checkpoints: exact, whole or not used, few, and good on any mesh."""

import errno
import json
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psann_jax import sharding
from psann_jax.train import manifest
from psann_jax.train.checkpoint import MANIFEST, METRICS, Checkpoints, damage, seal
from psann_jax.train.optimizer import OptimizerConfig, make_optimizer
from psann_jax.train.state import TrainState, flat_arrays, init_state

FAULTS = {
    "flipped": lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "missing": lambda p: p.unlink(),
}


def _small(step):
    """A state that costs nothing, with a key and a moment that tell the steps apart."""
    weights = {"w": np.arange(8, dtype=np.float32).reshape(2, 4) + step}
    moments = {"w": np.full((2, 4), 0.1 * step, np.float32)}
    state = TrainState(np.int32(step), weights, moments, jax.random.key(step))
    return jax.tree.map(jnp.asarray, state)


@pytest.fixture
def folder(tmp_path):
    """Steps 10, 20 and 30, the second the best."""
    checkpoints = Checkpoints(tmp_path)
    for step, loss in ((10, 2.0), (20, 1.0), (30, 1.5)):
        checkpoints.save(_small(step), val_loss=loss)
    checkpoints.close()
    return tmp_path


@pytest.fixture
def opened(folder):
    """Opens the folder, as often as asked, and closes what was opened."""
    made = []

    def open_(**options):
        made.append(Checkpoints(folder, **options))
        return made[-1]

    yield open_
    for checkpoints in made:
        checkpoints.close()


def _assert_equal(a, b):
    a, b = flat_arrays(a), flat_arrays(b)
    assert a.keys() == b.keys()
    for name, array in a.items():
        assert array.dtype == b[name].dtype, name
        np.testing.assert_array_equal(array, b[name], err_msg=name)


@pytest.mark.parametrize("step", [10, 20, 30])
def test_a_state_comes_back_exactly_with_its_key(opened, step):
    _assert_equal(opened().restore(step, _small(0)), _small(step))


def test_a_save_copies_the_state_before_it_returns(tmp_path):
    checkpoints, state = Checkpoints(tmp_path), _small(1)
    checkpoints.save(state)
    expected = np.asarray(state.model["w"]).copy()
    state.model["w"].delete()  # as a donated buffer is, in the next step
    checkpoints.wait()
    np.testing.assert_array_equal(checkpoints.restore(1, _small(0)).model["w"], expected)
    checkpoints.close()


def test_the_newest_whole_step_is_the_newest(opened):
    assert opened().newest() == 30


def test_an_empty_folder_has_no_newest_and_no_best(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert (checkpoints.newest(), checkpoints.best()) == (None, None)
    checkpoints.close()


def _files(step):
    return sorted(p.relative_to(step) for p in step.rglob("*") if p.is_file())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_with_any_file_at_fault_is_passed_over(folder, fault):
    """Every file in turn; the manifest's own bytes count too."""
    step = folder / "30"
    for name in _files(step):
        content = (step / name).read_bytes()
        FAULTS[fault](step / name)
        found = damage(step)
        assert found is not None, name
        assert str(name) in found or MANIFEST in str(name)
        (step / name).write_bytes(content)
    assert damage(step) is None


FAULTS_OF_TEXT = {
    **FAULTS,
    "empty": lambda p: p.write_bytes(b""),
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "renamed": lambda p: p.write_bytes(p.read_bytes().replace(b"val_loss", b"val_lnss")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_newest_falls_back_to_the_step_before(folder, opened, fault):
    """Whichever file is at fault."""
    step = folder / "30"
    for name in _files(step):
        content = (step / name).read_bytes()
        FAULTS[fault](step / name)
        assert (opened().newest(), opened().best()) == (20, (20, 1.0)), name
        (step / name).write_bytes(content)


@pytest.mark.parametrize("step", ["20", "30"])
@pytest.mark.parametrize("fault", FAULTS_OF_TEXT)
def test_metrics_at_fault_cost_their_step_alone(folder, opened, fault, step):
    FAULTS_OF_TEXT[fault](folder / step / METRICS)
    whole = {"20": 30, "30": 20}[step]
    checkpoints = opened()
    assert checkpoints.newest() == whole
    assert checkpoints.best()[0] == whole
    checkpoints.save(_small(40), val_loss=3.0)
    checkpoints.wait()
    assert checkpoints.newest() == 40


def test_a_file_that_cannot_be_read_costs_its_step_alone(folder, opened, monkeypatch):
    def broken(path):
        if "30" in path.parts:
            raise OSError(5, "Input/output error")
        return real(path)

    real = manifest._sha256
    with monkeypatch.context() as patched:
        patched.setattr(manifest, "_sha256", broken)
        checkpoints = opened()
        assert checkpoints.newest() == 20
    checkpoints.save(_small(25))
    checkpoints.wait()
    assert checkpoints.newest() == 30  # it was whole


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_whole_step_stays_until_the_next_one_is(tmp_path, monkeypatch, keep):
    """However many newer ones were never finished, and though the next ones are not either."""
    checkpoints = Checkpoints(tmp_path, keep=9)
    for step in (20, 30, 40, 50):
        checkpoints.save(_small(step))
    checkpoints.close()
    for step in ("30", "40", "50"):
        (tmp_path / step / MANIFEST).unlink()

    def killed(path):
        raise OSError(4, "Interrupted")

    for step in (22, 24):
        with monkeypatch.context() as patched, pytest.raises(OSError, match="Interrupted"):
            checkpoints = Checkpoints(tmp_path, keep=keep)
            assert checkpoints.newest() == 20
            patched.setattr("psann_jax.train.checkpoint.seal", killed)
            checkpoints.save(_small(step))
            checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=keep)
    assert checkpoints.newest() == 20
    checkpoints.save(_small(23))  # below those that were never finished
    checkpoints.wait()
    assert checkpoints.newest() == 23
    for step in (60, 70, 80, 90):
        checkpoints.save(_small(step))
    checkpoints.close()
    assert len(Checkpoints(tmp_path, keep=keep).steps()) == max(2, keep)


def test_a_damaged_best_does_not_take_the_place_of_the_next(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, loss in ((10, 1.0), (20, 3.0)):
        checkpoints.save(_small(step), val_loss=loss)
    checkpoints.close()
    name = next(p for p in _files(tmp_path / "10") if "d/" in str(p))
    FAULTS["flipped"](tmp_path / "10" / name)
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.best() == (20, 3.0)
    for step, loss in ((40, 2.0), (50, 2.5), (60, 2.6), (70, 2.7)):
        checkpoints.save(_small(step), val_loss=loss)
    checkpoints.wait()
    assert (checkpoints.best(), checkpoints.steps()) == ((40, 2.0), [70, 60, 40])
    checkpoints.close()


def test_the_best_of_an_older_run_is_read_where_orbax_wrote_it(folder, opened):
    step = folder / "20"
    (step / "metrics").mkdir()
    (step / METRICS).rename(step / "metrics" / "metrics")
    seal(step)
    assert opened().best() == (20, 1.0)


def test_the_best_stays_until_a_better_one_is_whole(folder, monkeypatch):
    checkpoints = Checkpoints(folder, keep=1)
    for step in (40, 50):
        checkpoints.save(_small(step), val_loss=3.0)
    checkpoints.wait()
    monkeypatch.setattr("psann_jax.train.checkpoint.seal", lambda path: None)  # killed before it
    checkpoints.save(_small(60), val_loss=0.5)
    checkpoints.close()
    checkpoints = Checkpoints(folder)
    assert checkpoints.best() == (20, 1.0)
    checkpoints.close()


def test_newest_falls_back_over_two_damaged_steps(folder, opened):
    for step in ("20", "30"):
        (folder / step / MANIFEST).unlink()
    assert opened().newest() == 10


def test_no_whole_step_of_committed_ones_is_an_error(folder, opened):
    for step in ("10", "20", "30"):
        FAULTS["flipped"](folder / step / _files(folder / step)[-1])
    with pytest.raises(ValueError, match=r"of steps \[30, 20, 10\]; bring their files back"):
        opened().newest()


def test_steps_that_were_never_committed_are_no_error(folder, opened):
    for step in ("10", "20", "30"):
        (folder / step / MANIFEST).unlink()
    assert opened().newest() is None


def test_a_file_too_many_is_damage(folder):
    (folder / "30" / "state" / "more").write_text("x")
    assert "more" in damage(folder / "30")


def test_a_step_without_manifest_was_not_finished(folder):
    (folder / "30" / MANIFEST).unlink()
    assert "the save was not finished" in damage(folder / "30")


def test_a_manifest_that_cannot_be_read_now_leaves_its_step_in_peace(folder, opened, monkeypatch):
    read, failing = Path.read_text, folder / "30" / MANIFEST

    def read_text(path, *args, **options):
        if path == failing:
            raise OSError(errno.EIO, "Input/output error")
        return read(path, *args, **options)

    checkpoints = opened()
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_text", read_text)
        assert "cannot be read" in damage(folder / "30")
        assert checkpoints.newest() == 20
    checkpoints.save(_small(40))
    checkpoints.wait()
    assert opened().newest() == 40 and damage(folder / "30") is None


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_a_manifest_of_other_content_is_damage(folder, content):
    (folder / "30" / MANIFEST).write_text(content)
    assert damage(folder / "30") is not None


def test_an_index_that_cannot_be_read_is_an_error_whatever_the_manifest(folder, opened):
    (folder / "30" / "state" / "_METADATA").write_text("{")
    seal(folder / "30")
    with pytest.raises(ValueError, match="checkpoint 30 cannot be used: key is None there"):
        opened().restore(30, _small(0))


def test_restoring_a_damaged_step_names_the_file(folder, opened):
    name = next(p for p in _files(folder / "30") if "d/" in str(p))
    FAULTS["flipped"](folder / "30" / name)
    with pytest.raises(ValueError, match=f"checkpoint 30 cannot be used: .*{name.name}"):
        opened().restore(30, _small(0))


def test_passing_over_a_step_is_said(folder, opened, caplog):
    (folder / "30" / MANIFEST).unlink()
    with caplog.at_level(logging.WARNING, "psann_jax.checkpoint"):
        opened().newest()
    assert "checkpoint 30 is not used" in caplog.text


def test_a_damaged_step_is_written_anew(folder, opened):
    FAULTS["truncated"](folder / "30" / _files(folder / "30")[-1])
    checkpoints = opened()
    checkpoints.save(_small(30), val_loss=0.5)
    checkpoints.wait()
    assert (checkpoints.newest(), checkpoints.best()) == (30, (30, 0.5))


def test_the_last_steps_and_the_best_are_kept_across_opening(folder, opened):
    checkpoints = opened(keep=2)
    for step in (40, 50):
        checkpoints.save(_small(step), val_loss=3.0)
    checkpoints.close()
    again = opened(keep=2)
    assert again.steps() == [50, 40, 20]
    assert again.best() == (20, 1.0)


def test_a_better_step_takes_the_bests_place(folder, opened):
    checkpoints = opened(keep=1)
    checkpoints.save(_small(40), val_loss=0.5)
    checkpoints.save(_small(50), val_loss=2.0)
    checkpoints.wait()
    assert checkpoints.steps() == [50, 40]
    assert checkpoints.best() == (40, 0.5)


def test_steps_without_validation_are_never_the_best(opened):
    checkpoints = opened()
    checkpoints.save(_small(40))
    checkpoints.wait()
    assert checkpoints.best() == (20, 1.0)


def test_a_diverged_step_neither_is_nor_removes_the_best(folder, opened):
    checkpoints = opened(keep=1)
    checkpoints.save(_small(40), val_loss=float("nan"))
    checkpoints.save(_small(50), val_loss=3.0)
    checkpoints.wait()
    assert checkpoints.best() == (20, 1.0)


def test_losses_of_other_validation_rows_are_not_compared(tmp_path):
    """Few rows had a lower loss; once more are read, the best is one of these."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, loss, n_rows in ((10, 0.5, 4), (20, 2.0, 40), (30, 1.5, 40), (40, 1.7, 40)):
        checkpoints.save(_small(step), val_loss=loss, val_rows=n_rows)
        checkpoints.wait()
    assert checkpoints.best() == checkpoints.best(40) == (30, 1.5)
    assert checkpoints.best(4) is None  # nor does it take a place any more
    checkpoints.save(_small(50), val_loss=0.4, val_rows=4)
    checkpoints.close()
    assert (checkpoints.best(), checkpoints.best(40)) == ((50, 0.4), (30, 1.5))


def test_a_damaged_best_gives_way_to_the_next(folder, opened):
    FAULTS["flipped"](folder / "20" / _files(folder / "20")[-1])
    assert opened().best() == (30, 1.5)


def test_temporary_folders_of_a_killed_save_are_gone_with_the_next_save(folder, opened):
    """Orbax removes them in the background, and waits for that before it saves."""
    left = folder / "40.orbax-checkpoint-tmp"
    left.mkdir()
    checkpoints = opened()
    assert checkpoints.steps() == [30, 20, 10]
    checkpoints.save(_small(50))
    checkpoints.wait()
    assert not left.exists()


def test_a_reader_leaves_a_running_save_alone(folder, opened):
    unfinished = folder / "40.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert opened(reads_only=True).newest() == 30
    assert unfinished.exists()


def test_a_failed_save_is_raised_by_wait(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("psann_jax.train.checkpoint.seal", full)
    checkpoints.save(_small(1))
    with pytest.raises(OSError, match="was not saved: .*No space left"):
        checkpoints.wait()
    assert checkpoints.newest() is None
    checkpoints.close()


def test_a_state_of_another_shape_is_an_error(opened):
    other = _small(0)
    other.model["w"] = jnp.zeros((2, 5))
    with pytest.raises(ValueError, match=r"model/w is \(2, 4\) there and \(2, 5\) in this model"):
        opened().restore(30, other)


def test_a_state_with_an_array_more_is_an_error(opened):
    other = _small(0)
    other.model["more"] = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"model/more is None there and \(3,\)"):
        opened().restore(30, other)


def test_the_manifest_lists_every_file_with_its_size(folder):
    listed = json.loads((folder / "30" / MANIFEST).read_text())
    files = [p for p in _files(folder / "30") if p.name != MANIFEST]
    assert {str(p): (folder / "30" / p).stat().st_size for p in files} == {
        name: size for name, (size, _) in listed.items()
    }


@pytest.fixture(scope="module")
def moved(tiny, tmp_path_factory):
    """A real state saved from mesh (8, 1, 1), restored whole and its model alone on (2, 2, 2)."""
    optimizer = make_optimizer(OptimizerConfig(), 10)
    tmp = tmp_path_factory.mktemp("moved")
    before, after = sharding.make_mesh(8, 1, 1), sharding.make_mesh(2, 2, 2)
    saved, _ = init_state(lambda _: tiny(), optimizer, before, 0, model=tiny())
    like, where = init_state(lambda _: tiny(), optimizer, after, 1, model=tiny())
    checkpoints = Checkpoints(tmp)
    checkpoints.save(saved)
    checkpoints.wait()
    restored = checkpoints.restore(0, like)
    model = checkpoints.restore_model(0, saved.model, where.model)
    checkpoints.close()
    return saved, restored, model, where


@pytest.mark.mesh
def test_a_state_is_exact_on_another_mesh(moved):
    saved, restored, _, _ = moved
    _assert_equal(saved, restored)


@pytest.mark.mesh
def test_a_state_lies_where_the_new_mesh_wants_it(moved):
    _, restored, _, where = moved
    for array, sharding_ in zip(*map(jax.tree.leaves, (restored.model, where.model)), strict=True):
        assert array.sharding.is_equivalent_to(sharding_, array.ndim)


@pytest.mark.mesh
def test_the_model_alone_is_exact_and_placed(moved):
    saved, _, model, where = moved
    for a, b, s in zip(*map(jax.tree.leaves, (saved.model, model, where.model)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert b.sharding.is_equivalent_to(s, b.ndim)

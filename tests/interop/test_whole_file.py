"""A file appears whole or not at all."""

import pytest

from psann_jax.interop.whole_file import whole_file


def test_the_file_takes_its_place_at_the_end(tmp_path):
    with whole_file(tmp_path / "a") as part:
        part.write_text("new")
        assert not (tmp_path / "a").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [OSError, KeyError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    (tmp_path / "a").write_text("old")
    with (
        pytest.raises(ValueError if error is OSError else error),
        whole_file(tmp_path / "a") as part,
    ):
        part.write_text("ne")
        raise error("why")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with (
        pytest.raises(ValueError, match="none/a cannot be written"),
        whole_file(tmp_path / "none" / "a") as part,
    ):
        part.write_text("new")

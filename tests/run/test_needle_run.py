"""A run is asked for needles in its own text, or in another where that is gone."""

import json
from pathlib import Path
import shutil

from psann_jax.cli import verbs
from psann_jax.run.needle import measure_needles
from psann_jax.run.report import Report

QUIET = Report(quiet=True)
FEW = {"lengths": [48], "depths": [50], "trials": 2}


def test_the_haystack_is_the_validation_text(kept_run):
    found = measure_needles(kept_run, QUIET, **FEW)
    assert found.filler == "validation text"
    assert found.trained_length == 32


def test_without_validation_text_it_is_the_training_text(kept_run, tmp_path):
    folder = Path(shutil.copytree(kept_run, tmp_path / "run"))
    tree = json.loads((folder / "config.json").read_text())
    tree["data"]["val_split"] = 0.0
    (folder / "config.json").write_text(json.dumps(tree))
    (folder / "data.json").unlink()  # which knows of other rows
    assert measure_needles(folder, QUIET, **FEW).filler.startswith("training text")


def test_a_step_that_is_not_kept_is_bad_input(kept_run, tmp_path, capsys):
    argv = ["needle", str(kept_run), "--step", "3", "--lengths", "48", "--out", str(tmp_path)]
    assert verbs.main(argv) == 2
    assert "step '3' is not kept" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

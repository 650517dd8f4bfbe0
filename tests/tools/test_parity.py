"""The parity command: a page of every check, and an exit that says whether all passed."""

import json
from pathlib import Path
import shutil

import numpy as np
import parity
import pytest
import reference

GOLDEN = Path(__file__).parents[1] / "golden" / "psannlm"
NAMES = ("transformer_rope_one_token", "sine_public_06", "sgrpsann_rope_upstream")


@pytest.fixture
def golden_folder(tmp_path):
    """A folder of two cases, and of one that is not to be matched and has no file."""
    manifest = reference.manifest(GOLDEN)
    manifest["cases"] = [case for case in manifest["cases"] if case["name"] in NAMES]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for name in NAMES[:2]:
        shutil.copy(GOLDEN / f"{name}.npz", tmp_path)
    return tmp_path


def _page(folder):
    """The command's exit, and the page it wrote."""
    out = folder / "docs" / "parity.md"
    return parity.main(["--golden", str(folder), "--out", str(out)]), out.read_text()


def test_each_check_is_a_row_and_what_is_not_matched_is_said(golden_folder, capsys):
    code, page = _page(golden_folder)
    assert code == 0
    assert "all pass" in page and "FAIL" not in page
    for what in ("logits", "loss", "gradients, of the largest"):
        assert f"| {NAMES[0]} | {what} |" in page
    assert f"| {NAMES[1]} | sine, of the largest |" in page
    assert f"| {NAMES[2]} | its spectral gate" in page.split("## Not matched")[1]
    assert "torch 2.13.0" in page
    assert capsys.readouterr().out.count(" ok\n") == page.count("| pass |") == 7


def test_a_difference_above_its_tolerance_fails(golden_folder):
    path = golden_folder / f"{NAMES[0]}.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["logits"][0, 0, 0] += 1e-4
    np.savez(path, **arrays)
    code, page = _page(golden_folder)
    assert code == 1
    assert "**1 fail**" in page
    assert page.count("**FAIL**") == 1


@pytest.mark.parametrize("ours", [np.nan, np.inf, 1.1])
def test_nan_infinity_and_a_wrong_number_do_not_pass(ours):
    worst = parity.absolute(np.array([1.0, ours]), np.array([1.0, 1.0]))
    assert not parity.Check("case", "what", worst, 0.05).passes

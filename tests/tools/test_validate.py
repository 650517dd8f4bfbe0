"""The validation battery: what it writes, and where its steps run."""

import json
import subprocess
from xml.etree import ElementTree

import jax
import pytest
import validate
from validation_scale import verdict
import validation_steps


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    monkeypatch.setattr("psann_jax.run.environment.set_up", lambda: None)


def test_what_is_written_names_what_failed(tmp_path, monkeypatch, capsys):
    def broken(scale):
        """What it checks."""
        raise KeyError("lost")

    def whole(scale):
        """What else."""
        return verdict(True, "all of 3", n=3)

    monkeypatch.setattr(validation_steps, "STEPS", {"GPU-01": broken, "GPU-02": whole})
    assert validate.main(["--out", str(tmp_path), "--scale", "tiny"]) == 1
    assert "GPU-01 FAILED" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["GPU-02"]["numbers"] == {"n": 3} and "lost" in summary["GPU-01"]["said"]
    assert json.loads((tmp_path / "system.json").read_text())["scale"] == "tiny"
    assert len(ElementTree.parse(tmp_path / "junit.xml").findall(".//failure")) == 1
    assert "**failed**" in (tmp_path / "table.md").read_text()
    assert validate.main(["--out", str(tmp_path), "--only", "GPU-02", "--scale", "tiny"]) == 0


def test_steps_that_are_not_run_again_stay_in_the_record(tmp_path, monkeypatch):
    def passes(scale):
        """What it checks."""
        return verdict(True, "again", n=1)

    names = ("GPU-01", "GPU-02", "GPU-03")
    monkeypatch.setattr(validation_steps, "STEPS", dict.fromkeys(names, passes))
    old = {"GPU-01": {"what": "", "passed": False, "said": "before", "scale": "cpu", "seconds": 1}}
    (tmp_path / "summary.json").write_text(json.dumps(old))
    (tmp_path / "system.json").write_text(json.dumps({"date": "2026-01-02", "processor": "slow"}))
    assert validate.main(["--out", str(tmp_path), "--only", "GPU-03", "--scale", "tiny"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [(n, r["said"]) for n, r in summary.items()] == [
        ("GPU-01", "before"),
        (names[2], "again"),
    ]
    assert "jax" in summary["GPU-03"]["machine"]
    assert (summary["GPU-01"]["machine"], summary["GPU-01"]["date"]) == (
        "2026-01-02, slow",
        "2026-01-02",
    )
    assert len(ElementTree.parse(tmp_path / "junit.xml").findall(".//failure")) == 1
    assert validate.main(["--out", str(tmp_path), "--scale", "tiny"]) == 0
    assert list(json.loads((tmp_path / "summary.json").read_text())) == list(names)


@pytest.fixture
def one_device(monkeypatch):
    """A machine with a single accelerator."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def _child(monkeypatch, code, out="", err=""):
    """What the process of a step on pretended devices does; the list of its command lines."""
    commands = []

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_on_pretended_devices_a_step_has_sizes_for_a_cpu(one_device, tmp_path, monkeypatch):
    commands = _child(monkeypatch, 0, json.dumps(verdict(True, "4 devices")))
    assert validate.main(["--only", "GPU-05", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "summary.json").read_text())["GPU-05"]
    assert (commands[0][-1], result["scale"]) == ("cpu", "cpu")
    assert "taken from the CPU" in result["devices"]


def test_a_process_that_ends_without_a_result_fails_with_what_it_said(monkeypatch):
    _child(monkeypatch, -9, err="a warning\nout of memory\n")
    result = validate.measured(validate.on_fake_devices("GPU-05", _child, "tiny"), None)
    assert not result["passed"] and "exit code -9: out of memory" in result["said"]


def test_a_step_on_pretended_devices_has_limited_time(monkeypatch):
    monkeypatch.setattr(validate, "_LIMIT", 0.01)
    result = validate.measured(validate.on_fake_devices("GPU-05", _child, "tiny"), None)
    assert not result["passed"] and "no result in 0.01 s" in result["said"]

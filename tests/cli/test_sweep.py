"""The verb sweep: runs in turn or in processes, stopped as one; and files that make no sweep."""

import dataclasses
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time
import types

from flax import nnx
import jax
import pytest

from psann_jax.cli import sweep as verb
from psann_jax.cli import sweep_processes, verbs
from psann_jax.cli.sweep_processes import end_with, run_in_processes
from psann_jax.config import Config
from psann_jax.model import LM, parameter_count
from psann_jax.run.stop import MachineFailed, Preempted, StopSignal
from psann_jax.run.sweep import Job

ROOT = Path(__file__).parent.parent.parent
BEGIN = "from psann_jax.config import Config\nfrom psann_jax.run.sweep import Sweep\n"
FILE = (
    BEGIN
    + """
def get_sweep():
    variants = {"a": {}, "b": {}, "c": {}}
    return Sweep(config=Config(workdir="sweep"), variants=variants, seeds=(0,))
"""
)
FIGURES = {"diverged": None, "train_loss": 2.0, "parameters": 9, "tokens": 8, "tokens_per_s": 1.0}
FIGURES |= {"step_seconds": 1.0, "base": "waveresnet", "device": "cpu", "code": "c", "data": {}}
FIGURES |= {"curve": [{"step": 1, "val_bits_per_byte": 3.0}], "machine": {"date": "2026-11-22"}}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """sweep(run, ...): exit code of the verb on three jobs a, b and c; `run` does one of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("psann_jax.run.environment.set_up", lambda: None)
    monkeypatch.setattr("psann_jax.run.sweep_text.refuse_other_text", lambda *_: None)
    Path("sweep.py").write_text(FILE)

    def sweep(run, *flags):
        def run_job(job):
            began.append(job.variant)
            run(job)
            job.result_path.parent.mkdir(parents=True)
            job.keep(FIGURES)
            return job.result()

        began = []
        monkeypatch.setattr("psann_jax.run.sweep_result.run_job", run_job)
        return verbs.main(["sweep", "sweep.py", *flags]), began

    return sweep


def test_only_some_variants_run_and_all_that_are_done_are_compared(sweep, capsys):
    assert sweep(lambda job: None, "--only", "b") == (0, ["b"])
    assert "| b | 1 | 3.0000 |" in capsys.readouterr().out
    assert sweep(lambda job: None) == (0, ["a", "c"])
    assert len(capsys.readouterr().out.strip().splitlines()) == 2 + 3


def test_a_report_has_the_tables_and_the_figures_of_each_run(sweep):
    assert sweep(lambda job: None, "--report", "results") == (0, ["a", "b", "c"])
    results = Path("results")
    names = {"summary.json", "summary.csv", "leaderboard.md", "means.png", "curves.png", "runs"}
    assert {path.name for path in results.iterdir()} == names
    assert json.loads((results / "summary.json").read_text())["machines"] == [
        {"date": "2026-11-22", "device_kind": "cpu"}
    ]
    assert {path.name for path in (results / "runs").iterdir()} == {f"{n}-0.json" for n in "abc"}
    found = json.loads((results / "runs" / "a-0.json").read_text())
    assert found["curve"] == FIGURES["curve"] and found["config"]["train"]["seed"] == 0


@pytest.mark.parametrize("report", ["sweep.py", "gs://bucket/x"])
def test_a_report_that_cannot_be_written_is_refused_before_the_first_run(sweep, capsys, report):
    assert sweep(lambda job: None, "--report", report) == (2, [])
    assert "--report=" in capsys.readouterr().err


def test_a_process_imports_what_the_sweep_did():
    args = types.SimpleNamespace(file="sweep.py", workdir=None, imports=["own.py"])
    command = verb._command(args, types.SimpleNamespace(name="a-0"))
    assert command.index("--import=own.py") + 1 == command.index("sweep")


@pytest.mark.parametrize(("chosen", "gpu"), [("", ""), ("3,5", "5"), ("3", "3")])
def test_gpus_that_are_hidden_stay_hidden(monkeypatch, chosen, gpu):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert sweep_processes._gpu(1) == gpu


def test_an_unknown_variant_is_named(sweep, capsys):
    assert sweep(lambda job: None, "--only", "d") == (2, [])
    assert "--only=d is none of a, b, c" in capsys.readouterr().err


def test_without_a_run_there_is_nothing_to_compare(sweep, capsys):
    assert sweep(lambda job: None, "--table") == (2, [])
    assert "sweep has no finished run to compare" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_a_run_that_fails_is_named_at_the_end_of_the_others(sweep, capsys, error):
    def fail(job):
        if job.variant != "b":
            raise error(f"{job.variant} is of no use")

    assert sweep(fail) == (2, ["a", "b", "c"])
    said = capsys.readouterr()
    assert "| b | 1 | 3.0000 |" in said.out
    last = said.err.splitlines()[-1]
    assert last == "error: a-0: a is of no use; and 1 more; start it again to go on"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_last_step_of_a_run_keeps_the_next_from_beginning(sweep, capsys, number):
    def stop(job):
        with StopSignal():  # as a run has it, which looks at it no more after its last step
            signal.raise_signal(number)

    assert sweep(stop) == (75, ["a"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "the sweep is stopped; start it again to go on"
    assert Path("sweep/a-0/result.json").exists()


def test_a_signal_before_the_first_step_stops_the_sweep_at_once(sweep):
    def stop(job):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the run goes on")

    assert sweep(stop) == (75, ["a"])


@pytest.fixture
def jobs(tmp_path):
    return [Job(name, 0, Config(workdir=str(tmp_path / f"{name}-0"))) for name in "abc"]


@pytest.fixture
def program(tmp_path):
    """program(text): the command that runs a shell script."""

    def write(text):
        (tmp_path / "program.sh").write_text(text)
        return lambda job: ["/bin/bash", str(tmp_path / "program.sh"), job.name]

    return write


def test_processes_say_why_they_fail(jobs, program):
    command = program('echo $1 is of no use\n[ "$1" = b-0 ] || exit 3\n')
    failed = run_in_processes(jobs, 2, command)
    assert sorted(failed) == [
        "a-0 (exit code 3): a-0 is of no use",
        "c-0 (exit code 3): c-0 is of no use",
    ]


def test_a_machine_that_fails_under_one_process_stops_them_all(jobs, program, tmp_path):
    command = program(
        "trap 'echo saved; exit 75' TERM\necho up\n"
        'if [ "$1" = b-0 ]; then sleep 0.3; echo no space left; exit 74; fi\n'
        "while :; do sleep 0.05; done\n"
    )
    with pytest.raises(MachineFailed, match=r"b-0 \(exit code 74\): no space left"):
        run_in_processes(jobs, 2, command)
    logs = {log.name: log.read_text() for log in tmp_path.glob("*.log")}
    assert logs == {"a-0.log": "up\nsaved\n", "b-0.log": "up\nno space left\n"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_to_the_processes_and_no_other_begins(
    jobs, program, tmp_path, number
):
    command = program("trap 'echo saved; exit 75' TERM\necho up\nwhile :; do sleep 0.05; done\n")

    def stop():
        logs = [tmp_path / f"{name}-0.log" for name in "ab"]
        while not all(log.exists() and log.read_text() for log in logs):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    with StopSignal():  # so that a failure does not end the tests
        threading.Thread(target=stop, daemon=True).start()
        with pytest.raises(Preempted, match="stopped; start it again to go on"):
            run_in_processes(jobs, 2, command)
    logs = {log.name: log.read_text() for log in tmp_path.glob("*.log")}
    assert logs == {"a-0.log": "up\nsaved\n", "b-0.log": "up\nsaved\n"}


def test_processes_are_told_to_end_where_another_cannot_begin(jobs, program, tmp_path, monkeypatch):
    class Recorded(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            begun.append(self)

    begun = []
    (tmp_path / "b-0.log").mkdir()
    monkeypatch.setattr(sweep_processes.subprocess, "Popen", Recorded)
    with pytest.raises(OSError, match="b-0.log"):
        run_in_processes(jobs, 2, program("exec sleep 60"))
    assert [process.wait() for process in begun] == [-signal.SIGTERM]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux tells a process")
def test_a_process_ends_with_the_one_that_was_killed():
    child = (
        "import os, time; from psann_jax.cli.sweep_processes import end_with; "
        "end_with(os.getppid()); print('up', flush=True); time.sleep(60); print('goes on')"
    )
    with subprocess.Popen(
        ["/bin/bash", "-c", '"$0" -c "$1" & wait', sys.executable, child],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout.readline() == "up\n"
        parent.kill()
        assert parent.stdout.read() == ""  # its end is that of the child too


def test_a_process_whose_parent_has_ended_before_does_not_begin(monkeypatch):
    libc = types.SimpleNamespace(prctl=lambda *_: None)
    monkeypatch.setattr(sweep_processes, "ctypes", types.SimpleNamespace(CDLL=lambda _: libc))
    monkeypatch.setattr(sweep_processes.sys, "platform", "linux")
    with pytest.raises(Preempted):
        end_with(os.getppid() + 1)
    end_with(os.getppid())


BAD_FILES = {
    "no Python": ("def get_sweep(:\n", "sweep.py, line 1: SyntaxError: "),
    "no function": ("x = 1\n", "sweep.py has no function get_sweep()"),
    "something else": ("def get_sweep():\n    return 3\n", "that returns a psann_jax Sweep"),
    "an error in it": ("import nowhere\n", "sweep.py, line 1: ModuleNotFoundError: No module"),
    "an error in get_sweep": (
        "def get_sweep():\n    return {}[3]\n",
        "sweep.py, line 2: KeyError: 3",
    ),
    "a number for seeds": (
        BEGIN + "def get_sweep():\n    return Sweep(config=Config(), variants={'a': {}}, seeds=3)",
        "sweep.py, line 4: ValueError: seeds=3 must be a tuple",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_makes_no_sweep_is_bad_input(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text, said = BAD_FILES[case]
    Path("sweep.py").write_text(text)
    assert verbs.main(["sweep", "sweep.py"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert said in err


@pytest.mark.parametrize(
    ("experiment", "names"),
    [
        ("sine", {"A-f-d", "fixed", "gelu", "swiglu", "transformer-gelu"}),
        ("bases", {"respsann", "waveresnet", "transformer", "modern", "groundthink"}),
    ],
)
def test_variants_of_an_experiment_have_as_many_parameters(experiment, names):
    sweep = verb.load_sweep(str(ROOT / "experiments" / experiment / "sweep.py"))
    counts = {}
    for job in dataclasses.replace(sweep, seeds=(0,)).jobs():
        base = job.config.base
        base.vocab_size = job.config.data.vocab_size
        model = jax.eval_shape(lambda base=base: LM(base, rngs=nnx.Rngs(0)))
        counts[job.variant] = parameter_count(model)
    assert names <= counts.keys()
    assert max(counts.values()) <= 1.01 * min(counts.values())


def test_the_sweep_goes_to_another_folder(tmp_path):
    (tmp_path / "sweep.py").write_text(FILE)
    sweep = verb.load_sweep(str(tmp_path / "sweep.py"), "elsewhere")
    assert sweep.config.workdir == "elsewhere"

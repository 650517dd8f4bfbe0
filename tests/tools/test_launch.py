"""The launchers, as far as one machine can tell: what they would start, and with what settings."""

import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

from launch import local_multi
import pytest
import yaml

LAUNCH = Path(local_multi.__file__).parent
XPK = {"CLUSTER": "c", "ZONE": "z", "TPU_TYPE": "v5litepod-64", "IMAGE": "i", "STORAGE": "runs"}
SHOW = 'echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS: $*"'


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """programs(name, script): a program of that name, found before any other."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def add(name, script):
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)

    return add


def launched(script, *arguments, **settings):
    return subprocess.run(
        [str(LAUNCH / script), *arguments],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.s[hb]*")), ids=lambda p: p.name)
def test_scripts_are_bash(path):
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    assert os.access(path, os.X_OK) or path.suffix == ".sbatch"


@pytest.mark.parametrize("script", ["ssh.sh", "tpu_vm.sh", "xpk.sh"])
def test_scripts_name_what_is_missing(script):
    done = launched(script)
    assert done.returncode and len(done.stderr.splitlines()) == 1
    assert "name the" in done.stderr or "name its" in done.stderr


def batch(*arguments):
    """slurm.sbatch as Slurm runs it on the first node."""
    return subprocess.run(
        ["bash", LAUNCH / "slurm.sbatch", *arguments],
        env={**os.environ, "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8"},
        capture_output=True,
        text=True,
    )


def test_slurm_starts_tasks_and_requeues_a_saved_run(programs):
    """srun here starts two tasks that end with 75."""
    programs("python", 'echo "task $SLURM_PROCID: $*"; exit 75')
    programs(
        "srun",
        "while [[ $1 == --* ]]; do shift; done\n"
        'for i in 0 1; do SLURM_PROCID=$i "$@" & done; wait -n; exit $?',
    )
    programs("scontrol", 'echo "scontrol $*"')
    done = batch("--config", "a b.py")
    assert done.returncode == 75
    assert "task 1: -m psann_jax.main --config a b.py" in done.stdout
    assert "scontrol requeue 7" in done.stdout


def test_a_task_of_slurm_sees_all_gpus_of_its_node(programs):
    """jax picks one of them by the number of the task."""
    programs("srun", 'echo "$*"')
    assert "--gpu-bind=none --cpus-per-task=8 " in batch().stdout
    assert "--gpus-per-task" not in (LAUNCH / "slurm.sbatch").read_text()


def test_ssh_gives_each_host_its_number(programs, tmp_path):
    """ssh here runs the command on this machine."""
    code = tmp_path / "code of ours"
    (code / ".venv" / "bin").mkdir(parents=True)
    python = code / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/bash\n{SHOW}\nexit "$((JAX_PROCESS_ID * 75))"\n')
    python.chmod(0o755)
    programs("ssh", 'shift; bash -c "$*"')
    settings = {"HOSTS": "one two", "DIR": str(code), "PORT": "4321"}
    done = launched("ssh.sh", "--config", "a b.py", **settings)
    assert done.returncode == 75
    assert "[1] 1 of 2 at one:4321: -m psann_jax.main --config a b.py" in done.stdout


@pytest.fixture
def stopped_by_ssh(programs, tmp_path):
    """stopped_by_ssh(script): the exit code of ssh.sh when it is told to stop; the script is ssh.

    The run of host I leaves the file endedI in the folder of the code.
    """
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    end = "touch ended$JAX_PROCESS_ID; exit 75"
    python.write_text(f"#!/bin/bash\ntrap '{end}' TERM\necho up\nwhile :; do sleep 0.1; done\n")
    python.chmod(0o755)
    settings = {"HOSTS": "one two", "DIR": str(tmp_path), "PORT": "4322"}

    def stop(ssh):
        programs("ssh", ssh)
        with subprocess.Popen(
            [LAUNCH / "ssh.sh"], env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True
        ) as script:
            assert script.stdout
            for _ in range(2):
                assert "up" in script.stdout.readline()
            script.send_signal(signal.SIGTERM)
            return script.wait(timeout=30)

    return stop


def test_ssh_passes_a_stop_on(stopped_by_ssh):
    assert stopped_by_ssh('shift; exec bash -c "$*"') == 75


def test_ssh_ends_with_the_code_of_runs_that_end_before_the_stop_returns(stopped_by_ssh):
    assert stopped_by_ssh('shift; bash -c "$*" || exit; [[ $* != kill* ]] || sleep 0.5') == 75


def test_ssh_stops_a_host_while_another_does_not_answer(stopped_by_ssh, tmp_path):
    waits = f"while [ ! -e {tmp_path}/ended1 ]; do sleep 0.05; done"
    assert stopped_by_ssh(f'[[ $* != "one kill"* ]] || {waits}; shift; exec bash -c "$*"') == 75


def test_tpu_scripts_quote_what_they_pass_on(programs):
    programs("gcloud", 'printf "%s\\n" "$@"')
    done = launched("tpu_vm.sh", "--workdir", "/mnt/a b", TPU="t", ZONE="z")
    assert done.returncode == 0, done.stderr
    assert "PSANN_JAX_CLUSTER=auto .venv/bin/python -m psann_jax.main --workdir /mnt/a\\ b" in (
        done.stdout
    )
    programs("xpk", 'printf "%s\\n" "$@"')
    done = launched("xpk.sh", "name", "--config", "a b.py", **XPK)
    assert done.returncode == 0, done.stderr
    assert "-m psann_jax.main --config a\\ b.py" in done.stdout


def test_a_python_of_the_hosts_that_is_too_old_is_named(programs):
    """gcloud here runs the command on this machine."""
    programs("gcloud", 'bash -c "${@: -1}"')
    programs("python3.10", '[ "$1" = -c ] && exit 1; echo "installing with $0"')
    done = launched("tpu_vm.sh", TPU="t", ZONE="z", SETUP="1", PYTHON="python3.10")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("python3.10 is no Python 3.11 or newer")
    assert len(done.stderr.splitlines()) == 1


def test_xpk_is_told_where_the_runs_are_and_what_to_start_again(programs):
    programs("xpk", 'echo "$*"')
    done = launched("xpk.sh", "name", "--config", "x.py", **XPK)
    assert "--storage runs " in done.stdout
    assert "--restart-on-exit-codes 1,74,75 " in done.stdout


def test_the_jobset_numbers_its_pods():
    document = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = document["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # what a podFailurePolicy asks for
    (container,) = pod["containers"]
    environment = {e["name"]: e["value"] for e in container["env"]}
    assert environment["JAX_NUM_PROCESSES"] == str(job["completions"])
    first = f"{document['metadata']['name']}-{replicated['name']}-0-0"
    address = f"{first}.{document['metadata']['name']}:{container['ports'][0]['containerPort']}"
    assert environment["JAX_COORDINATOR_ADDRESS"] == address
    assert "JAX_PROCESS_ID=$JOB_COMPLETION_INDEX" in container["args"][0]
    rule = job["podFailurePolicy"]["rules"][0]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2, 3]


def test_the_image_has_what_the_build_needs():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    root = LAUNCH.parents[1]
    assert all((root / name).exists() for name in copied)
    assert {"pyproject.toml", "README.md", "LICENSE", "psann_jax"} <= copied


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        ([0, 0], 0),
        ([75, 75], 75),
        ([75, 1], 1),
        ([-9, 1], 1),
        ([0, 75], 75),
        ([1, 2], 2),
        ([3, -6], 3),
        ([74, 74], 74),
        ([74, -6], 74),
    ],
)
def test_one_verdict_of_several_codes(codes, verdict):
    assert local_multi.verdict(codes) == verdict


def group_of(tmp_path, script):
    """group(): two processes of bash, which count their starts in a file each."""
    counted = "n=$(cat n$JAX_PROCESS_ID 2>/dev/null || echo 0); echo $((n+1)) >n$JAX_PROCESS_ID\n"
    command = [shutil.which("bash"), "-c", f"cd {tmp_path}\n{counted}{script}"]
    return lambda: local_multi.Group(command, 2)


@pytest.mark.parametrize(("shown", "gpus"), [("4,5,6,7", ["4", "5"]), (None, ["0", "1"])])
def test_a_gpu_each_is_one_of_those_shown(monkeypatch, shown, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert local_multi.one_gpu_each(2) == gpus


@pytest.mark.parametrize("shown", ["4", ""])
def test_fewer_gpus_than_processes_are_refused(monkeypatch, capsys, shown):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    with pytest.raises(SystemExit) as stop:
        local_multi.main(["--processes", "2", "--one-gpu-each", "--", "--config", "x.py"])
    assert stop.value.code == 2
    assert f"CUDA_VISIBLE_DEVICES={shown} has " in capsys.readouterr().err


def test_a_process_sees_its_own_gpu_alone(capfd):
    command = [shutil.which("bash"), "-c", "echo sees $CUDA_VISIBLE_DEVICES"]
    assert local_multi.Group(command, 2, gpus=["4", "7"]).wait() == [0, 0]
    said = capfd.readouterr().err
    assert "[0] sees 4\n" in said and "[1] sees 7\n" in said


def test_a_stopped_run_is_started_again(tmp_path, capfd):
    code = local_multi.run(group_of(tmp_path, 'echo up; [ "$n" -ge 2 ] || exit 75'), restarts=5)
    assert code == 0
    assert (tmp_path / "n1").read_text() == "3\n"
    assert "[0] up" in capfd.readouterr().err


def test_a_second_ctrl_c_interrupts(monkeypatch):
    """The first lets the run save, as every SIGTERM does."""
    handlers, sent = {}, []
    monkeypatch.setattr(local_multi.signal, "signal", handlers.__setitem__)

    class Told:
        send = sent.append

        def wait(self):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                handlers[number](number, None)
            return [75]

    assert local_multi.run(Told, restarts=5) == 75
    assert sent == [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("code", [2, 3])
def test_what_another_start_cannot_mend_is_final(tmp_path, code):
    assert local_multi.run(group_of(tmp_path, f"exit {code}"), restarts=5) == code
    assert (tmp_path / "n0").read_text() == "1\n"


def test_a_process_that_does_not_notice_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(local_multi, "_GRACE_SECONDS", 0.2)
    group = group_of(tmp_path, 'if [ "$JAX_PROCESS_ID" = 1 ]; then exit 1; fi; exec sleep 60')()
    assert group.wait() == [-signal.SIGKILL, 1]


def test_a_stop_is_passed_on_and_not_followed_by_a_start(tmp_path):
    script = "trap 'exit 75' TERM\necho up >&2\nwhile :; do sleep 0.05; done"
    code = f"""
import sys; sys.path.insert(0, {str(LAUNCH.parent)!r})
from launch import local_multi
command = ["bash", "-c", {script!r}]
sys.exit(local_multi.run(lambda: local_multi.Group(command, 2), 5))
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as launcher:
        assert launcher.stderr
        for _ in range(2):
            assert "up" in launcher.stderr.readline()
        time.sleep(0.1)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(timeout=30) == 75

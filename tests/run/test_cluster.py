"""Several processes are one run: the same numbers, one stop, one error, one set of checkpoints."""

import dataclasses
import signal
import sys
import time

from launch.local_multi import Group
import numpy as np
import pytest

from psann_jax import bases, cluster
from psann_jax.config import Config, to_json
from psann_jax.data import DataConfig
from psann_jax.run.workdir import Workdir
from psann_jax.train.config import TrainConfig
from psann_jax.train.metrics import read_metrics
from psann_jax.train.optimizer import OptimizerConfig

HEARTBEAT_SECONDS = 10  # in place of 30, for which the fault matrix waits
MAIN = f"""
import sys
from psann_jax import cluster
from psann_jax.cli import train
cluster.HEARTBEAT_SECONDS = {HEARTBEAT_SECONDS}
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.fixture
def config(tmp_path):
    words = np.random.default_rng(0).choice(["sine", "wave", "amplitude", "damped", "the"], 4000)
    text = tmp_path / "corpus.txt"
    text.write_text("\n".join(" ".join(line) for line in words.reshape(-1, 10)))
    return Config(
        base=bases.get("waveresnet")(
            d_model=16, n_layers=1, n_heads=2, d_mlp=32, dtype="float32", dropout=0.1
        ),
        data=DataConfig(
            sources=(str(text),), document="line", tokenizer="char", max_length=32, val_split=0.1
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=TrainConfig(
            steps=50,
            batch_tokens=256,
            grad_accum_steps=2,
            log_interval_steps=1,
            eval_interval_steps=20,
            save_interval_steps=10,
            sample_tokens=8,
        ),
        workdir=str(tmp_path / "run"),
    )


def started(config, folder, processes, *lines, devices=1):
    """The processes of a run of `config`, which `lines` of Python may change in one of them."""
    code = [
        "import os",
        "from psann_jax.config import from_json",
        "def get_config():",
        f"    config = from_json({to_json(config)!r})",
        "    process = int(os.environ['JAX_PROCESS_ID'])",
        *(f"    {line}" for line in lines),
        "    return config",
    ]
    file = folder / "config.py"
    file.write_text("\n".join(code))
    command = [sys.executable, "-c", MAIN, "--config", str(file)]
    return Group(command, processes, devices=devices)


def losses(workdir, name="loss"):
    return [row[name] for row in read_metrics(Workdir(workdir).metrics) if name in row]


def wait_for_step(group, workdir, step):
    while len(losses(workdir)) < step and all(p.poll() is None for p in group.processes):
        time.sleep(0.02)


@pytest.mark.mesh
@pytest.mark.slow
def test_one_process_goes_on_where_one_of_two_was_killed(config, tmp_path):
    """One device; then two processes of two, killed, and one of four to the same end.

    Four that are stopped, and two that go on, are a row of the fault matrix, tools/test_faults.py.
    """
    whole = dataclasses.replace(config, workdir=str(tmp_path / "whole"))
    assert started(whole, tmp_path, 1).wait() == [0]

    group = started(config, tmp_path, 2, devices=2)
    wait_for_step(group, config.workdir, 12)
    group.processes[1].kill()
    began = time.monotonic()
    codes = group.wait()
    assert codes[1] == -signal.SIGKILL and codes[0] != 0
    assert time.monotonic() - began < HEARTBEAT_SECONDS + 5

    assert started(config, tmp_path, 1, devices=4).wait() == [0]
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(
            losses(config.workdir, name), losses(whole.workdir, name), atol=1e-5
        )


@pytest.mark.mesh
@pytest.mark.slow
def test_processes_with_other_configs_say_so_and_end(config, tmp_path, capfd):
    assert started(config, tmp_path, 2, "config.train.seed = process").wait() == [2, 2]
    assert "the config of process 1 is not that of process 0" in capfd.readouterr().err


@pytest.mark.mesh
@pytest.mark.slow
def test_an_error_of_one_process_ends_all(config, tmp_path, capfd):
    lost = "config.data.sources = (config.data.sources[0] + 'x' * process,)"
    assert started(config, tmp_path, 2, lost).wait() == [2, 2]
    said = capfd.readouterr().err
    assert "[0] error: process 1 cannot go on: " in said
    assert said.count("corpus.txtx") >= 2


@pytest.mark.mesh
@pytest.mark.slow
def test_a_workdir_in_use_refuses_every_process(config, tmp_path, capfd, hold_lock):
    workdir = Workdir(config.workdir)
    workdir.path.mkdir()
    hold_lock(workdir.lock)
    assert started(config, tmp_path, 2).wait() == [2, 2]
    said = capfd.readouterr().err
    assert "[0] error: workdir" in said and "[1] error: process 0 cannot go on: workdir" in said


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_PROCESS_ID": "1"}, "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES is not set"),
        (("host:1", "2", "2"), "JAX_PROCESS_ID=2 must be a number below JAX_NUM_PROCESSES=2"),
        (("host:1", "two", "0"), "below JAX_NUM_PROCESSES=two"),
        (("host", "2", "0"), "JAX_COORDINATOR_ADDRESS=host must be HOST:PORT"),
        ({"PSANN_JAX_CLUSTER": "slurm"}, "PSANN_JAX_CLUSTER='slurm' must be auto or none"),
    ],
)
def test_variables_that_make_no_sense(monkeypatch, environment, message):
    if isinstance(environment, tuple):
        environment = dict(zip(cluster.VARIABLES, environment, strict=True))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        cluster.join()


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "8"}, False),  # a batch script, or a notebook on a cluster
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NODELIST": "node[1-8]"}, True),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "node1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "PSANN_JAX_CLUSTER": "none"}, False),
        ({"PSANN_JAX_CLUSTER": "auto"}, True),
    ],
)
def test_a_cluster_is_joined_where_there_is_one(monkeypatch, environment, several):
    joined = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **settings: joined.append(settings))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    cluster.join()
    assert bool(joined) == several


def test_a_process_that_variables_describe_keeps_all_devices_of_its_host(monkeypatch):
    """In a step of Slurm jax would look for more, and leave it the one of the task's number."""
    settings = {}
    monkeypatch.setattr("jax.distributed.initialize", settings.update)
    for name, value in zip(cluster.VARIABLES, ("node1:1234", "2", "1"), strict=True):
        monkeypatch.setenv(name, value)
    cluster.join()
    assert settings["cluster_detection_method"] == "deactivate"
    assert settings.get("local_device_ids") is None


def test_one_process_needs_nobody():
    assert cluster.together(lambda: 3) == cluster.from_first(lambda: 3) == 3
    assert cluster.one_then_others(lambda: "once") == "once"
    cluster.agree(config=lambda: pytest.fail("nobody is there to agree with"))

"""The code of the README and the documentation runs as it stands."""

import os
from pathlib import Path
import re
import subprocess
import sys

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PAGES = sorted((ROOT / "docs").glob("*.md"))
SHELL = [block for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) if "-m" in block]
SMALL = (
    "--config.train.steps=2 --config.train.ngram_baselines=False --config.base.d_model=16 "
    "--config.base.n_layers=1 --config.data.max_length=32 --config.data.vocab_size=512"
)


def _environment(**changes):
    return {**os.environ, "XLA_FLAGS": "", **changes}


def _run(block, folder):
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python_block_runs(block, tmp_path):
    _run(block, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_blocks_of_a_page_run_one_after_another(page, tmp_path):
    _run("\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)), tmp_path)


@pytest.mark.slow
def test_commands_run_one_after_another(tmp_path):
    """With a smaller model; the commands share the workdir that the first one makes."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    commands = SHELL[0].replace("\\\n", " ").strip().splitlines()
    assert len(commands) >= 4
    for command in commands:
        small = f"{command} {SMALL}" if "psann_jax.main" in command else command
        done = subprocess.run(
            small.replace("python ", f"{sys.executable} ", 1),
            shell=True,
            cwd=tmp_path,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_the_two_commands_of_a_fresh_machine_are_named():
    assert "make train" in README and "make test" in README

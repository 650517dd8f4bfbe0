"""A finished or running run, read back from its workdir; and a model, wherever it lies."""

from collections.abc import Iterator
import dataclasses
import logging
import os
from pathlib import Path

from flax import nnx
import jax

from psann_jax import sharding
from psann_jax.config import Config
from psann_jax.data import Tokenizer, load_tokenizer
from psann_jax.interop.checkpoint import load_checkpoint
from psann_jax.interop.folder import SavedModel, is_model_folder, load_folder
from psann_jax.model import LM
from psann_jax.run.workdir import Workdir
from psann_jax.train.checkpoint import Checkpoints, damage

_log = logging.getLogger("psann_jax.run")


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """The config, tokenizer and weights of a run at one of its checkpoints."""

    config: Config
    tokenizer: Tokenizer
    model: LM
    step: int


def load_run(path: str | os.PathLike, step: str | int = "best") -> LoadedRun:
    """Reads a run at its "best" validation loss, at its "newest" step, or at a step number.

    Raises:
      ValueError: the folder holds no run, or no whole checkpoint of that step.
    """
    workdir = Workdir(path)
    config = workdir.saved_config()
    checkpoints = Checkpoints(workdir.checkpoints, reads_only=True)
    try:
        number = _number(checkpoints, step)
        model = _model(checkpoints, config, number)
    finally:
        checkpoints.close()
    return LoadedRun(config, load_tokenizer(workdir.tokenizer), model, number)


def load_saved(path: str | os.PathLike, step: str | int = "best") -> SavedModel:
    """The model of a saved folder, of a run at `step`, or of a file of psannlm.

    Raises:
      ValueError: the path holds none of these, or something in it is damaged; or a step of a model.
    """
    is_file, of_run = Path(path).is_file(), step in ("best", "newest")
    if not of_run and (is_file or is_model_folder(path)):
        raise ValueError(f"step={step} is for a run's workdir; {path} is a model, and has no steps")
    if is_file:
        return load_checkpoint(path)
    if is_model_folder(path):
        return load_folder(path)
    run = load_run(path, step)
    return SavedModel(run.config.base, run.model, run.tokenizer, run.config.data.max_length)


def load_models(path: str | os.PathLike) -> Iterator[tuple[int, LM]]:
    """Every whole checkpoint of a run and its model, one after another, the oldest first.

    Raises:
      ValueError: the folder holds no run, or no whole checkpoint.
    """
    workdir = Workdir(path)
    config = workdir.saved_config()
    checkpoints = Checkpoints(workdir.checkpoints, reads_only=True)
    try:
        whole = False
        for step in reversed(checkpoints.steps()):
            if fault := damage(checkpoints.directory / str(step)):
                _log.warning("checkpoint %d is passed over: %s", step, fault)
            else:
                whole = True
                yield step, _model(checkpoints, config, step)
        if not whole:
            raise ValueError(f"{checkpoints.directory} has no whole checkpoint yet")
    finally:
        checkpoints.close()


def model_at(checkpoints: Checkpoints, config: Config, step: int, mesh: jax.sharding.Mesh) -> LM:
    """The model of a step, placed on a mesh."""
    like = jax.eval_shape(lambda: LM(config.base, rngs=nnx.Rngs(0)))
    return checkpoints.restore_model(step, like, sharding.shardings(like, mesh))


def _model(checkpoints: Checkpoints, config: Config, step: int) -> LM:
    """The model of a step, a copy on every device."""
    return model_at(checkpoints, config, step, sharding.make_mesh(data=-1, fsdp=1))


def _number(checkpoints: Checkpoints, step: str | int) -> int:
    whole = checkpoints.newest()
    if whole is None:
        raise ValueError(f"{checkpoints.directory} has no whole checkpoint yet")
    if step == "newest":
        return whole
    if step == "best":
        best = checkpoints.best()
        return best[0] if best else whole
    if not str(step).isdigit() or int(step) not in checkpoints.steps():
        raise ValueError(
            f"step {step!r} is not kept; there are {sorted(checkpoints.steps())}, best, newest"
        )
    return int(step)

"""The metrics of a run for TensorBoard, with tensorboardX: the extra `tb`."""

import importlib.util
from pathlib import Path
from typing import Any

_OF_THE_MACHINE = ("tokens_per_s", "step_seconds", "memory", "gpu_")


def refuse_missing() -> None:
    """Raises ValueError where tensorboardX is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise ValueError(
            "train.tensorboard=True needs tensorboardX: pip install 'psann_jax[tb]', "
            "or leave it False; metrics.jsonl has the same numbers"
        )


class TensorBoard:
    """Writes each number of a row of metrics.jsonl as a scalar of its step."""

    def __init__(self, folder: Path, *, resume_step: int = 0):
        """Hides what an earlier start wrote after `resume_step`: it is about to be run again."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1)

    def write(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(_tag(name), value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _tag(name: str) -> str:
    """The metric in a group of its own kind, as TensorBoard shows them."""
    if name.startswith("val_"):
        return f"validation/{name.removeprefix('val_')}"
    return f"{'machine' if name.startswith(_OF_THE_MACHINE) else 'training'}/{name}"

"""The metrics of a run for TensorBoard, with tensorboardX: the extra `tb`."""

import importlib
import importlib.util
import os
from pathlib import Path
import time
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
    """Writes each number of a row of metrics.jsonl as a scalar of its step.

    It is in the file when `write` returns. tensorboardX's own SummaryWriter hands it to a thread,
    and waits for ever where that thread has died of a full disk.
    """

    def __init__(self, folder: Path, *, resume_step: int = 0):
        """Hides what an earlier start wrote after `resume_step`: it is about to be run again."""
        from tensorboardX.event_file_writer import EventsWriter

        events: Any = importlib.import_module("tensorboardX.proto.event_pb2")
        folder.mkdir(exist_ok=True, parents=True)
        own = f".{os.getpid()}.{resume_step}"  # two starts may come in one second
        self._event = events.Event
        self._writer = EventsWriter(str(folder / "events"), own)
        start = events.SessionLog(status=events.SessionLog.START)
        self._writer.write_event(
            self._event(session_log=start, step=resume_step + 1, wall_time=time.time())
        )
        self._writer.flush()

    def write(self, row: dict[str, Any]) -> None:
        from tensorboardX.summary import scalar

        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                summary = scalar(_tag(name), value)
                event = self._event(summary=summary, step=row["step"], wall_time=time.time())
                self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _tag(name: str) -> str:
    """The metric in a group of its own kind, as TensorBoard shows them."""
    if name.startswith("val_"):
        return f"validation/{name.removeprefix('val_')}"
    return f"{'machine' if name.startswith(_OF_THE_MACHINE) else 'training'}/{name}"

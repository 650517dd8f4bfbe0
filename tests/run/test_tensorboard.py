"""What TensorBoard is given: each number of a row, once."""

import pytest

from psann_jax.run import tensorboard

ROWS = [
    {"step": 1, "loss": 3.5, "val_loss": 3.25, "tokens_per_s": 100.0, "skipped_steps": 0},
    {"step": 2, "loss": float("nan"), "val_loss": 3.0, "tokens_per_s": 101.0, "skipped_steps": 1},
]


def read(folder):
    """{(tag, step): value}, and the steps from which on earlier values are hidden."""
    from tensorboardX.proto.event_pb2 import Event

    found, hidden = {}, []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.session_log.status:
                hidden.append(event.step)
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found, hidden


def test_each_number_is_a_scalar_of_its_step(tmp_path):
    board = tensorboard.TensorBoard(tmp_path)
    for row in ROWS:
        board.write(row)
    board.close()
    found, _ = read(tmp_path)
    assert found["training/loss", 1] == 3.5 and found["validation/loss", 2] == 3.0
    assert found["machine/tokens_per_s", 2] == 101.0 and found["training/skipped_steps", 2] == 1
    assert found["training/loss", 2] != found["training/loss", 2] and len(found) == 8


def test_a_later_start_hides_what_is_run_again(tmp_path):
    for resume_step in (0, 4):
        board = tensorboard.TensorBoard(tmp_path, resume_step=resume_step)
        board.write({"step": resume_step + 1, "loss": 1.0})
        board.close()
    assert read(tmp_path)[1][-1] == 5


def test_without_tensorboardx_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"train.tensorboard=True needs .*pip install"):
        tensorboard.refuse_missing()

"""The short training that steps of the validation compare."""

from types import SimpleNamespace

import pytest
from validation_scale import SCALES, one_device
from validation_training import TRIES, stepped


def _skips(n):
    """A step that skips n times before each update; its loss is how often it was called."""
    calls = []

    def step(state, batch):
        calls.append(batch)
        skipped = state.skipped + (len(calls) % (n + 1) != 0)
        metrics = {"loss": len(calls), "skipped": skipped}
        return SimpleNamespace(skipped=skipped), metrics

    return step


@pytest.mark.parametrize(
    ("n", "losses"), [(0, [1, 2]), (2, [3, 6]), (TRIES, [TRIES, TRIES + 1])], ids=str
)
def test_a_skipped_batch_is_tried_again(n, losses):
    _, rows = stepped(
        _skips(n), SimpleNamespace(skipped=0), SCALES["tiny"].batches(2), one_device()
    )
    assert [row["loss"] for row in rows] == losses

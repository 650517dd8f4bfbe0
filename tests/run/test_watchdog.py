"""A wait that lasts is told while it lasts; the usual ones are not."""

import time

from psann_jax.run.watchdog import Watchdog


def test_a_long_wait_is_told_while_it_lasts(report, tmp_path):
    with Watchdog(report, patience=0.05, stacks=tmp_path / "stacks.txt") as watchdog:
        watchdog.step = 7
        with watchdog.waiting("the devices"):
            while len(report.said) < 2:
                time.sleep(0.01)
    assert report.said[0].startswith("after step 7: waiting ")
    assert "for the devices" in report.said[0]
    assert report.said[1] == f"what each thread does: {tmp_path / 'stacks.txt'}"
    assert "test_a_long_wait_is_told" in (tmp_path / "stacks.txt").read_text()


def test_short_waits_and_work_between_them_are_not_told(report):
    with Watchdog(report, patience=20.0) as watchdog:
        assert list(watchdog.each(range(3), "the data")) == [0, 1, 2]
        with watchdog.waiting("the devices"):
            pass
    assert report.said == []


def test_what_is_usual_is_not_too_long(report):
    with Watchdog(report, patience=0.05) as watchdog:
        watchdog._seen["the validation"].extend([10.0] * 5)  # so 100 s are within the usual
        with watchdog.waiting("the validation"):
            time.sleep(0.3)
    assert report.said == []

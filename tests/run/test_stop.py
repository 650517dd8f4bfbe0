"""Signals: the first asks, a second Ctrl-C interrupts, and one asked within another tells it."""

import signal

import pytest

from psann_jax.run.stop import StopSignal


def test_a_second_sigterm_says_nothing_new():
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert stop.asked


def test_a_second_ctrl_c_interrupts():
    with StopSignal(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)


def test_what_is_stopped_at_once_is_not_stopped_within_a_step():
    with StopSignal(at_once=True) as outer:
        with StopSignal() as inner:
            signal.raise_signal(signal.SIGTERM)
        assert inner.asked and outer.asked
        with StopSignal() as later:
            assert later.asked


def test_at_once_interrupts():
    with StopSignal(at_once=True) as stop, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert stop.asked


def test_the_handlers_from_before_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal():
        pass
    assert signal.getsignal(signal.SIGTERM) == before

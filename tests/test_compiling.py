"""The compiler's options are those it knows, and XLA_FLAGS has the last word."""

import jax.numpy as jnp
import pytest

from psann_jax import compiling

WIDTH = "xla_cpu_prefer_vector_width"


@pytest.fixture
def options(monkeypatch):
    """compiling.OPTIONS of the CPU, to be changed."""
    compiling.known.cache_clear()
    changed = dict(compiling.OPTIONS["cpu"])
    monkeypatch.setitem(compiling.OPTIONS, "cpu", changed)
    yield changed
    compiling.known.cache_clear()


def test_an_option_that_the_compiler_does_not_know_is_left_out(options):
    options["xla_cpu_of_another_version"] = True
    assert compiling.known("cpu", "") == {WIDTH: 512}
    assert compiling.jit(lambda x: x + 1)(jnp.float32(1)) == 2


def test_a_flag_of_the_environment_takes_the_place_of_its_option():
    assert compiling.known("cpu", f"--xla_a=1 --{WIDTH}=256") == {}


def test_a_backend_without_options_has_none():
    assert compiling.known("tpu", "") == {}

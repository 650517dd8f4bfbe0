"""A report of sines holds each histogram under its name, in JSON, as a table and as a picture."""

import dataclasses
import json
import sys

from flax import nnx
import jax
import numpy as np
import pytest

from psann_jax import bases
from psann_jax.evals.histogram import count_quantiles, edges_over, value_quantiles
from psann_jax.evals.sine import PHASE_EDGES, measure
from psann_jax.evals.sine_plot import plot_sines
from psann_jax.evals.sine_report import sine_report
from psann_jax.evals.sine_table import sine_table
from psann_jax.model import LM
from psann_jax.seq import Batch

COMMON = {"step", "counts", "mean", "std", "quantiles", "not_finite"}
PARAMETER = COMMON | {"at_bound", "saturated"}
PHASE = COMMON | {"beyond_half_pi", "beyond_pi", "mean_damping_factor"}
TOKENS = np.random.default_rng(0).integers(0, 32, (2, 16)).astype(np.int32)
ONES = np.ones_like(TOKENS)
BATCH = Batch(TOKENS, TOKENS, ONES.astype(np.float32), np.arange(16, dtype=np.int32) * ONES, ONES)


def _report(*factors, steps=None):
    """A model at several steps: that of its start, its parameters multiplied."""
    base = bases.get("waveresnet")(
        vocab_size=32, d_model=16, n_layers=2, n_heads=2, d_mlp=32, dtype="float32"
    )
    start = LM(base, rngs=nnx.Rngs(0))
    models = [jax.tree.map(lambda a, k=k: k * a, start) for k in factors]
    steps = steps or [10 * (i + 1) for i in range(len(factors))]
    measured = [(s, measure(m, base, [BATCH])) for s, m in zip(steps, models, strict=True)]
    return sine_report("runs/x", "32 tokens of validation text", 32, measured)


@pytest.fixture(scope="module")
def report():
    return _report(1.0, 1.5)


@pytest.fixture(scope="module")
def tree(report):
    return json.loads(json.dumps(dataclasses.asdict(report), allow_nan=False))


def test_json_has_every_key(tree):
    assert tree.keys() == {"model", "text", "tokens", "steps", "sines"}
    assert tree["steps"] == [10, 20]
    names = ["layer 0 mlp", "layer 0 wave", "layer 1 mlp", "layer 1 wave"]
    assert [sine["name"] for sine in tree["sines"]] == names
    for sine in tree["sines"]:
        for quantity in ("amplitude", "frequency", "damping", "phase"):
            history = sine[quantity]
            assert history.keys() == {"unit", "edges", "steps"}
            wanted = PHASE if quantity == "phase" else PARAMETER
            assert all(found.keys() == wanted for found in history["steps"])
            assert all(
                list(f["quantiles"]) == ["1", "5", "50", "95", "99"] for f in history["steps"]
            )


def test_every_histogram_counts_all_that_there_is(tree):
    for sine in tree["sines"]:
        for quantity in ("amplitude", "frequency", "damping", "phase"):
            history, n = sine[quantity], sine["features"]
            n *= TOKENS.size if quantity == "phase" else 1
            for found in history["steps"]:
                assert len(found["counts"]) == len(history["edges"]) - 1
                assert sum(found["counts"]) == n


def test_movement_is_seen_between_the_same_edges(tree):
    first, last = tree["sines"][0]["frequency"]["steps"]
    assert last["mean"] > first["mean"]
    assert np.argmax(last["counts"]) > np.argmax(first["counts"])


def test_equal_values_have_bins_around_them():
    edges = edges_over([np.full(100, 2.0), np.full(100, np.nan)])
    assert edges[0] < 2.0 < edges[-1]
    assert np.all(np.diff(edges) > 0)


def test_quantiles_of_counts_are_within_a_bin_of_those_of_the_values():
    phases = np.abs(np.random.default_rng(0).standard_normal(50_000)).astype(np.float32)
    found = count_quantiles(PHASE_EDGES, np.histogram(phases, PHASE_EDGES)[0])
    for name, exact in value_quantiles(phases).items():
        assert found[name] == pytest.approx(exact, rel=10 ** (1 / 24) - 1)


def test_nothing_counted_has_no_quantiles():
    assert count_quantiles(PHASE_EDGES, np.zeros(len(PHASE_EDGES) - 1)) == {}


def test_a_diverged_model_is_said_to_be_not_finite(tmp_path):
    report = _report(float("nan"))
    tree = json.loads(json.dumps(dataclasses.asdict(report), allow_nan=False))
    for quantity in ("frequency", "phase"):
        (found,) = tree["sines"][0][quantity]["steps"]
        assert (found["not_finite"], found["mean"]) == (1.0, None)
    assert "-" in sine_table(report)
    plot_sines(report, tmp_path / "sine.png")


def test_the_table_has_a_line_for_each_sine(report):
    headline, groups, names, *lines = sine_table(report).splitlines()
    assert headline.startswith("runs/x at step 20 (measured at 10, 20)")
    assert all(group in groups for group in ("amplitude", "frequency", "damping", "phase"))
    assert names.split().count("moved") == 3
    assert [line.split("  ")[0].strip() for line in lines] == [s.name for s in report.sines]
    mean = report.sines[0].amplitude.steps[-1].mean
    assert f"{mean:#.4g}" in lines[0]


def test_one_model_has_not_moved():
    table = sine_table(_report(1.0, steps=[None]))
    assert "moved" not in table
    assert table.startswith("runs/x; phases")


def test_a_png_is_drawn(report, tmp_path):
    plot_sines(report, tmp_path / "sine.png")
    assert (tmp_path / "sine.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_way_out_is_said(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"not installed; pip install matplotlib"):
        plot_sines(report, tmp_path / "sine.png")

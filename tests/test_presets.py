"""Presets by name: their sizes, their counts, their errors."""

import dataclasses
from pathlib import Path
import re

from flax import nnx
import jax
import pytest

from psann_jax import bases
from psann_jax.model import LM, parameter_count

V = 97


def _count(name, **fields):
    base = bases.preset(name, vocab_size=V, **fields)
    return parameter_count(jax.eval_shape(lambda: LM(base, rngs=nnx.Rngs(0))))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("GF", 3_128_680),
        ("WS", 3_126_632),
        ("RF", 3_257_696),
        ("CP", 3_388_768),
        ("GF-RH", 3_128_680),
        ("GF-MH", 3_128_680),
        ("HGF", 3_389_792),
        ("8M", 6_561_304),
    ],
)
def test_counts_without_out_norms_are_the_papers(name, count):
    fusion = dataclasses.replace(bases.preset(name).fusion, out_norm=False)
    assert _count(name, fusion=fusion) == count


@pytest.mark.parametrize(("name", "count"), [("1M", 475_288), ("5M", 3_130_720), ("HY", 3_130_720)])
def test_counts_with_out_norms_are_the_papers(name, count):
    assert _count(name) == count


@pytest.mark.parametrize("name", bases.list_presets())
def test_out_norms_are_on_and_gains_start_at_a_half(name):
    base = bases.preset(name)
    assert base.fusion.out_norm
    assert base.fusion.gain_init == (0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "same"), [("tiny", "1M"), ("Small", "5M"), ("MEDIUM", "8M"), ("gf-rh", "GF-RH")]
)
def test_case_does_not_matter_and_sizes_have_a_second_name(name, same):
    assert bases.preset(name) == bases.preset(same)


def test_gates_start_where_their_name_says():
    assert [bases.preset(n).fusion.gate_init for n in ("GF", "GF-RH", "GF-MH")] == [0.5, 0.7, 0.3]


def test_fields_may_replace_those_of_a_preset():
    assert bases.preset("5M", n_layers=2).n_layers == 2


def test_an_unknown_preset_lists_the_known():
    with pytest.raises(ValueError, match="'GH' is unknown.*known: 1M, 5M, HY, GF, WS, RF, CP"):
        bases.preset("GH")


def test_a_preset_is_asked_for_by_name():
    with pytest.raises(ValueError, match="preset=None must be a name; known: 1M, 5M"):
        bases.preset(None)


def test_a_word_is_no_fusion():
    wanted = r"base.fusion='gate' must be a FusionConfig; give fusion=FusionConfig\(kind='gate'\)"
    with pytest.raises(ValueError, match=wanted):
        bases.preset("5M", fusion="gate")


def test_positions_are_refused():
    with pytest.raises(ValueError, match="positional_encoding='rope' must be one of none"):
        bases.preset("5M", positional_encoding="rope")


def test_the_counts_of_the_documentation_are_these():
    page = (Path(__file__).parent.parent / "docs" / "groundthink.md").read_text()
    rows = re.findall(r"^\| ([\w, -]+) \| .* \| ([\d,]+) \|$", page, re.MULTILINE)
    told = {
        name: int(count.replace(",", "")) for names, count in rows for name in names.split(", ")
    }
    assert told == {name: _count(name) for name in bases.list_presets()}

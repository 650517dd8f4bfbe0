"""The floors of the package: a file imports from lower floors only, and nothing in circles."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "psann_jax"
# A unit is a package or a module of psann_jax. Units of one group see each other.
FLOORS: list[list[set[str]]] = [
    [{"seq"}, {"sharding"}, {"compiling"}, {"cluster"}, {"ops"}, {"fields"}],
    [{"nn"}],
    [{"bases"}, {"model"}],
    [{"data"}, {"train"}, {"infer"}],
    [{"evals"}, {"interop"}],
    [{"config"}, {"run"}],
    [{"lm", "lm_options", "lm_data"}, {"cli"}, {"main", "__main__"}, {"__init__"}],
]
# Units that see others of their own floor, in this direction only.
SIDEWAYS = {
    ("ops", "sharding"),
    ("model", "bases"),
    ("run", "config"),
    ("main", "cli"),
    ("__main__", "cli"),
    ("cli", "lm"),
    ("lm", "config"),
    ("__init__", "lm"),
}
SEEN_BY_DATA = {"seq"}
OUTSIDE = ("configs", "experiments", "tools", "tests")


def _unit(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _floor(unit: str) -> tuple[int, int]:
    for floor, groups in enumerate(FLOORS):
        for i, group in enumerate(groups):
            if unit in group:
                return floor, i
    raise AssertionError(f"{unit} stands on no floor; add it to FLOORS")


def _imported(path: Path) -> set[str]:
    """Units of psann_jax that a file imports, inside functions too."""
    units = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [f"{base}.{a.name}" for a in node.names] if base == "psann_jax" else [base]
        else:
            continue
        units |= {n.split(".")[1] for n in names if n.startswith("psann_jax.")}
    return units


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_imports_from_lower_floors_only(path):
    unit = _unit(path)
    floor, group = _floor(unit)
    for other in _imported(path) - {unit}:
        below = _floor(other)[0] < floor
        beside = (floor, group) == _floor(other) or (unit, other) in SIDEWAYS
        assert below or beside, f"{path} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_package_imports_nothing_from_outside_it(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.names[0].name if isinstance(node, ast.Import) else node.module or ""
            assert module.split(".")[0] not in OUTSIDE


def test_data_sees_seq_and_fields_only():
    for path in (ROOT / "data").glob("*.py"):
        assert _imported(path) - {"data", "fields"} <= SEEN_BY_DATA, path


def test_only_sharding_names_mesh_axes():
    for path in FILES:
        if _unit(path) in ("sharding", "config"):
            continue
        strings = [n.value for n in ast.walk(ast.parse(path.read_text())) if _is_string(n)]
        assert not {"fsdp", "tensor"} & set(strings), path


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@pytest.mark.parametrize("path", sorted((ROOT / "bases").glob("*.py")), ids=lambda p: p.name)
def test_a_base_is_short(path):
    if path.name in ("base.py", "registry.py", "__init__.py"):
        pytest.skip("shared by the bases")
    assert len(path.read_text().splitlines()) < 60, path

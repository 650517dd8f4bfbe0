"""Torch files that we write: our own reader has every value back, and they appear whole."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
import ml_dtypes
import numpy as np
import pytest

from psann_jax.interop.torch_file import read
from psann_jax.interop.torch_write import write

DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, bool]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**100), 2**100)
    | st.text()
    | st.binary()
    | st.floats()
)
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0))
)
TREES = st.recursive(
    SCALARS | ARRAYS,
    lambda inside: (
        st.lists(inside) | st.lists(inside).map(tuple) | st.dictionaries(st.text(), inside)
    ),
    max_leaves=8,
)


def _same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        a, b = list(a.values()), list(b.values())
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _same(x, y)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()
    else:
        assert a == b or a != a


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES)
def test_any_tree_comes_back(tmp_path, tree):
    write(tmp_path / "m.pt", tree)
    _same(read(tmp_path / "m.pt"), tree)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.complex64, np.complex128])
def test_further_dtypes_come_back(tmp_path, dtype):
    array = np.arange(3).astype(dtype)
    write(tmp_path / "m.pt", array)
    _same(read(tmp_path / "m.pt"), array)


def test_views_and_other_byte_orders_come_back_as_plain_arrays(tmp_path):
    square = np.arange(6, dtype=np.float32).reshape(2, 3)
    write(tmp_path / "m.pt", [square.T, square[:, ::2], square[::-1], square.astype(">f4")])
    back = read(tmp_path / "m.pt")
    for array, expected in zip(back, [square.T, square[:, ::2], square[::-1], square], strict=True):
        _same(array, np.ascontiguousarray(expected))


def test_equal_trees_give_equal_files(tmp_path):
    for name in ("a.pt", "b.pt"):
        write(tmp_path / name, {"w": np.ones(3), "t": "x"})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"a": [object()]}, r"m\.pt\.a\.0 is a object"),
        ({"a": {1}}, r"m\.pt\.a is a set"),
        ({(1,): 2}, r"the key \(1,\) of m\.pt is a tuple"),
        ({"a": np.array(["x"])}, r"m\.pt\.a is an array of <U1"),
        ({"a": np.array([None])}, r"m\.pt\.a is an array of object"),
        ({"a": 1 << 3000}, r"m\.pt\.a is a whole number of \d+ bytes"),
    ],
)
def test_what_a_torch_file_cannot_hold_is_named_and_nothing_is_written(tmp_path, tree, said):
    with pytest.raises(ValueError, match=said):
        write(tmp_path / "m.pt", tree)
    assert list(tmp_path.iterdir()) == []


def test_a_tree_in_itself_is_refused(tmp_path):
    tree = []
    tree.append(tree)
    with pytest.raises(ValueError, match="deeper than 100 levels"):
        write(tmp_path / "m.pt", tree)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none/m\.pt cannot be written"):
        write(tmp_path / "none" / "m.pt", {})


def test_a_failure_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    write(tmp_path / "m.pt", {"old": 1})

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ValueError, match="no space left"):
        write(tmp_path / "m.pt", {"new": 2})
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt"]
    assert read(tmp_path / "m.pt") == {"old": 1}

"""The pickle machine: plain containers come out, and whatever would run something is refused."""

import collections
import copyreg
import os
from pathlib import Path
import pickle
import struct
import time

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from psann_jax.interop import torch_pickle

MARK = Path("marker")
RUN = f"touch {MARK}"


@pytest.fixture(autouse=True)
def _nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


def _ordered(*_):
    return {}


def _loads(data):
    return torch_pickle.loads(
        data,
        calls={"collections.OrderedDict": _ordered, "builtins.set": lambda items: set(items)},
        constants={"torch.FloatStorage": np.dtype(np.float32)},
        persistent=lambda wanted: np.zeros(2) if wanted == ("storage",) else None,
    )


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-9e15, 9e15)
KEYS = st.text() | st.booleans() | NUMBERS


def _containers(inside):
    lists = st.lists(inside)
    return lists | lists.map(tuple) | st.dictionaries(KEYS, inside) | st.sets(KEYS)


def _typed(tree):
    """The tree with the type of every value, since 1, 1.0 and True are equal."""
    if isinstance(tree, dict):
        return {"dict": [(_typed(k), _typed(v)) for k, v in tree.items()]}
    if isinstance(tree, list | tuple):
        return [type(tree), *map(_typed, tree)]
    return type(tree), tree


@given(tree=st.recursive(SCALARS, _containers, max_leaves=20), protocol=st.integers(2, 5))
def test_plain_trees_come_back(tree, protocol):
    back = _loads(pickle.dumps(tree, protocol))
    assert _typed(back) == _typed(tree)


def test_bytes_come_back():
    assert _loads(pickle.dumps([b"", b"\x00\xff", b"x" * 300], 4)) == [b"", b"\x00\xff", b"x" * 300]


def test_an_ordered_dict_and_its_attributes_become_a_dict():
    state = collections.OrderedDict(a=1)
    state._metadata = collections.OrderedDict(version=2)
    back = _loads(pickle.dumps(state, 2))
    assert (back, type(back)) == ({"a": 1}, dict)


def test_a_shared_list_is_shared():
    shared = [1]
    back = _loads(pickle.dumps([shared, shared], 2))
    assert back[0] is back[1]


class Runs:
    """Pickles to a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


CALL = b"(" + _text(RUN) + b"t"
HOSTILE = {
    "a call of os.system": (pickle.dumps(Runs(os.system, RUN), 2), "posix.system"),
    "the same in protocol 4": (pickle.dumps(Runs(os.system, RUN), 4), "posix.system"),
    "the same in protocol 0": (pickle.dumps(Runs(os.system, RUN), 0), "posix.system"),
    "inside a container": (pickle.dumps({"a": [Runs(os.system, RUN)]}, 2), "posix.system"),
    "as a key": (pickle.dumps({Runs(os.system, RUN): 1}, 2), "posix.system"),
    "as an attribute": (b"\x80\x02}cposix\nsystem\n" + CALL + b"Rb.", "posix.system"),
    "eval": (pickle.dumps(Runs(eval, "1"), 2), "builtins.eval"),
    "Python 2's eval": (b"c__builtin__\neval\n" + CALL + b"R.", "builtins.eval"),
    "getattr": (pickle.dumps(Runs(getattr, "", "x"), 4), "builtins.getattr"),
    "an INST": (b"(" + _text(RUN) + b"iposix\nsystem\n.", "INST 'posix system'"),
    "an OBJ": (b"(cposix\nsystem\n" + _text(RUN) + b"o.", "posix.system"),
    "a NEWOBJ": (b"\x80\x02csubprocess\nPopen\n" + CALL + b"\x81.", "subprocess.Popen"),
    "a NEWOBJ of an allowed name": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
    "a NEWOBJ_EX": (b"\x80\x04csubprocess\nPopen\n)}\x92.", "subprocess.Popen"),
    "copyreg": (b"\x80\x02ccopyreg\n_reconstructor\n" + CALL + b"R.", "copyreg._reconstructor"),
    "the extension registry": (b"\x80\x02\x82\x01.", "EXT1"),
    "a nested global": (b"\x80\x04" + _text("os") + _text("path.os.system") + b"\x93.", "os.path"),
    "a global of a global": (b"\x80\x02ccollections\nOrderedDict.__init__\n.", "__init__"),
    "a global that is no text": (b"\x80\x04K\x01K\x02\x93.", "1.2"),
    "a global of two lines": (b"\x80\x04" + _text("a\nb") + _text("c") + b"\x93.", "a b.c"),
    "numpy's scalars": (pickle.dumps(np.float64(1), 2), "scalar"),
    "an array": (pickle.dumps(np.ones(2), 2), "_reconstruct"),
    "a torch function": (b"\x80\x02ctorch.hub\nload\n.", "torch.hub.load"),
    "a call of a constant": (b"\x80\x02ctorch\nFloatStorage\n)R.", "a call of torch.FloatStorage"),
    "a call of a string": (b"\x80\x02" + _text("os.system") + CALL + b"R.", "a call of str"),
    "attributes of a list": (b"\x80\x02]}b.", "attributes of a list"),
    "__setstate__ of a name": (
        b"\x80\x02ccollections\nOrderedDict\n}b.",
        "attributes of a collections.OrderedDict",
    ),
    "items of a name": (b"\x80\x02ctorch\nFloatStorage\nK\x01a.", "items or attributes"),
    "a bare name": (b"\x80\x02ctorch\nFloatStorage\n.", "a bare torch.FloatStorage"),
    "a name in a list": (b"\x80\x02]ctorch\nFloatStorage\na.", "a bare torch.FloatStorage"),
    "a list as a key": (b"\x80\x02}]K\x01s.", "a list as a key"),
    "a deep tuple as a key": (b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.", "a tuple as a key"),
    "a name as a key": (b"\x80\x02}ctorch\nFloatStorage\nK\x01s.", "a torch.FloatStorage as a key"),
    "a key without a value": (b"\x80\x02}(K\x01u.", "a key without a value"),
    "an empty stack": (b"\x80\x02a.", "more from the stack"),
    "a mark that is not there": (b"\x80\x02K\x01t.", "more from the stack"),
    "nothing at the end": (b"\x80\x02.", "more from the stack"),
    "a stack below the mark": (b"\x80\x02K\x01(0.", "POP"),
    "an empty place": (b"\x80\x02h\x05.", "place 5 of its memo"),
    "a call without a tuple": (b"\x80\x02ccollections\nOrderedDict\n]R.", "without a tuple"),
    "an opcode that is none": (b"\x80\x02\xff.", "unknown"),
    "no end": (b"\x80\x02]", "STOP"),
    "a text that is cut": (b"\x80\x02X\xff\xff\xff\x7fab.", "2147483647 bytes"),
    "nothing": (b"", "STOP"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_would_run_or_is_damaged_is_refused_and_nothing_is_run(case):
    data, said = HOSTILE[case]
    with pytest.raises(ValueError) as error:
        _loads(data)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 300
    assert not MARK.exists()


def test_the_extension_registry_is_not_asked():
    copyreg.add_extension("os", "system", 0xF0)
    try:
        with pytest.raises(ValueError, match="EXT1"):
            _loads(b"\x80\x02\x82\xf0" + CALL + b"R.")
    finally:
        copyreg.remove_extension("os", "system", 0xF0)


def _bomb(levels: int) -> bytes:
    """A list that holds the last one ten times, and so on: 10 ** levels values."""
    doubling = b"".join(
        b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1])
        for i in range(levels)
    )
    return b"\x80\x02]q\x00" + doubling + b"."


BOMBS = {
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a dict in itself": b"\x80\x02}q\x00K\x01h\x00s.",
    "a thousand levels": b"\x80\x02" + b"]" * 1000 + b"a" * 999 + b".",
    "many levels of tuples": b"\x80\x02)" + b"\x85" * 200_000 + b".",
    "a memo that repeats itself": _bomb(60),
    "a wide list many times": b"\x80\x02]("
    + b"N" * 10_000
    + b"eq\x00]("
    + b"h\x00" * 10_000
    + b"e.",
}


@pytest.mark.parametrize("case", BOMBS)
def test_what_grows_without_end_is_refused_soon(case):
    start = time.perf_counter()
    with pytest.raises(ValueError, match="levels"):
        _loads(BOMBS[case])
    assert time.perf_counter() - start < 20


def test_too_many_opcodes_are_refused(monkeypatch):
    monkeypatch.setattr(torch_pickle, "MOST_OPCODES", 100)
    with pytest.raises(ValueError, match="more than 100 opcodes"):
        _loads(b"\x80\x02" + b"N" * 200 + b".")


def test_a_large_pickle_is_refused(monkeypatch):
    monkeypatch.setattr(torch_pickle, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="more than 100"):
        _loads(b"\x80\x02" + b"N" * 200 + b".")


@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    try:
        _loads(b"\x80\x02" + data + b".")
    except ValueError as error:
        assert str(error)


def test_keys_that_are_made_to_collide_are_refused():
    with pytest.raises(ValueError, match="the key 2305843009213693951"):
        _loads(pickle.dumps({2**61 - 1: 0}))

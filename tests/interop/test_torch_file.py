"""Torch files read without torch: exact, or refused in one line that names the file."""

import os
from pathlib import Path
import pickle
import struct
import zipfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import ml_dtypes
import numpy as np
import pytest

from psann_jax.interop import torch_file
from psann_jax.interop.torch_file import read

GOLDEN = Path(__file__).parent.parent / "golden" / "torch"
DTYPES = {
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}


@pytest.fixture(scope="module", params=[2, 4])
def plain(request):
    return read(GOLDEN / f"plain_protocol_{request.param}.pt")


def test_scalars_are_those_that_were_saved(plain):
    saved = [None, True, False, -5, 300, 10**30, 2.5, "text \u2581", b"\x00\xff", b""]
    assert plain["scalars"] == saved
    assert list(map(type, plain["scalars"])) == list(map(type, saved))


def test_containers_are_those_that_were_saved(plain):
    assert plain["containers"] == ((), (1, 2, 3, 4), [], {}, {1, 2}, {"a": 1}, (2, 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dtype_is_read(plain, dtype):
    array = plain["dtypes"][dtype]
    assert array.dtype == DTYPES[dtype]
    assert array.astype(int).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("transposed", np.arange(12.0).reshape(3, 4).T),
        ("slice", [2, 5]),
        ("expanded", np.ones((2, 3))),
        ("empty", np.zeros((0, 4))),
        ("scalar", 7),
        ("parameter", [1, 1]),
    ],
)
def test_a_view_has_its_own_values(plain, name, values):
    array = plain[name]
    np.testing.assert_array_equal(array, values)
    assert array.base is None
    assert array.flags.c_contiguous
    assert array.flags.writeable


def test_tied_tensors_are_read_twice(plain):
    np.testing.assert_array_equal(*plain["tied"])


def test_a_state_dict_is_a_dict_without_its_metadata(plain):
    assert {name: a.tolist() for name, a in plain["state"].items()} == {
        "weight": [1, 1],
        "bias": [0, 0],
    }
    assert type(plain["state"]) is dict


def test_a_trainer_checkpoint_is_read_whole():
    tree = read(GOLDEN / "trainer_final.pt")
    assert tree["rng"]["torch"].dtype == np.uint8
    assert len(tree["rng"]["python"][1]) == 625
    assert tree["optim"]["state"][0]["exp_avg"].shape == tree["model"]["embed.weight"].shape


def test_a_file_of_an_old_torch_says_the_way_out():
    with pytest.raises(ValueError, match=r"before_1_6\.pt is of torch before 1\.6; torch\.load"):
        read(GOLDEN / "before_1_6.pt")


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _int(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def _tuple(values) -> bytes:
    return b"(" + b"".join(_int(v) if isinstance(v, int) else v for v in values) + b"t"


def _storage(kind="Float", key="0", count=4) -> bytes:
    parts = [_text("storage"), f"ctorch\n{kind}Storage\n".encode(), _text(key), _text("cpu"), count]
    return _tuple(parts) + b"Q"


def _tensor(size=(2, 2), stride=(2, 1), offset=0, storage=None, more=b"\x89)") -> bytes:
    arguments = [storage or _storage(), _int(offset), _tuple(size), _tuple(stride), more]
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + b"".join(arguments) + b"tR"


FOUR = np.arange(4, dtype=np.float32).tobytes()


@pytest.fixture
def saved(tmp_path):
    """saved(pickle, {entry: content}): the path of a torch file of these."""

    def make(opcodes=b"}", entries=None, folder="m", **options):
        path = tmp_path / "model.pt"
        with zipfile.ZipFile(path, "w", **options) as archive:
            archive.writestr(f"{folder}/data.pkl", b"\x80\x02" + opcodes + b".")
            for name, content in (entries or {}).items():
                archive.writestr(name, content)
        return path

    return make


def _refused(path, said):
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(ValueError) as error:
        read(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert sorted(path.parent.rglob("*")) == before


def test_a_tensor_of_our_own_making_is_read(saved):
    path = saved(_tensor(), {"m/data/0": FOUR})
    assert read(path).tolist() == [[0, 1], [2, 3]]


TENSORS = {
    "more rows than the storage": (_tensor(size=(3, 2)), "leaves its storage of 4 elements"),
    "an offset past the end": (_tensor(offset=1), "leaves its storage"),
    "an offset past an empty tensor": (_tensor(size=(0, 2), offset=5), "leaves its storage"),
    "a negative offset": (_tensor(offset=-1), "offset -1"),
    "a negative stride": (_tensor(stride=(-1, 1)), "size (2, 2), stride (-1, 1)"),
    "a negative size": (_tensor(size=(-2, 2)), "size (-2, 2)"),
    "a huge stride": (_tensor(stride=(1 << 62, 1)), "leaves its storage"),
    "a size that overflows": (_tensor(size=(1 << 40, 1 << 40), stride=(0, 0)), "more than"),
    "terabytes of one element": (_tensor(size=(1 << 40,), stride=(0,)), "more than"),
    "a size without a stride": (_tensor(size=(2, 2), stride=(1,)), "stride (1,)"),
    "too many axes": (_tensor(size=(1,) * 65, stride=(0,) * 65), "more than 32 axes"),
    "a fractional size": (_tensor(size=(b"G" + bytes(8),), stride=(1,)), "size (0.0,)"),
    "a truth for a size": (_tensor(size=(b"\x88",), stride=(1,)), "size (True,)"),
    "metadata": (_tensor(more=b"\x89)}" + _text("conj") + b"\x88s"), "metadata"),
    "no arguments": (b"ctorch._utils\n_rebuild_tensor\n)R", "without storage"),
    "a list for a size": (_tensor(size=(), stride=()).replace(b"(t(t", b"](t"), "without storage"),
    "no storage": (_tensor(storage=b"N"), "without storage"),
    "a parameter of nothing": (b"ctorch._utils\n_rebuild_parameter\n(N\x88)tR", "no tensor"),
    "a bare storage": (_storage(), "a bare Storage"),
    "a size of no numbers": (b"ctorch\nSize\n((NttR", "torch.Size"),
    "an ordered dict of pairs": (b"ccollections\nOrderedDict\n(]tR", "OrderedDict"),
    "a set of lists": (b"c__builtin__\nset\n(](](eetR", "a set"),
    "another codec": (b"c_codecs\nencode\n(" + _text("x") + _text("hex") + b"tR", "latin1"),
    "bytes of a number": (b"c__builtin__\nbytes\n(J\xff\xff\xff\x7ftR", "not made empty"),
    "a storage of a huge count": (_tensor(storage=_storage(count=1 << 62)), "16 bytes"),
    "a storage that lies by one": (_tensor(storage=_storage(count=5)), "20 bytes"),
    "a storage of a negative count": (_tensor(storage=_storage(count=-4)), "-16 bytes"),
    "a storage of another type": (_tensor(storage=_storage("Double")), "32 bytes"),
    "a storage that is not there": (_tensor(storage=_storage(key="7")), "no entry m/data/7"),
    "a storage up the tree": (_tensor(storage=_storage(key="../../x")), "no entry m/data/../../x"),
    "an unknown persistent id": (_text("x") + b"Q", "no storage"),
    "a storage in two types": (
        b"(" + _tensor() + _tensor(storage=_storage("Int")) + b"t",
        "declared twice",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_a_tensor_that_lies_is_refused(saved, case):
    opcodes, said = TENSORS[case]
    _refused(saved(opcodes, {"m/data/0": FOUR}), said)


NAMES = ["../x", "m/../../x", "/x", "m\\x", "m/data/..", "//x"]


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_outside_the_folder_is_refused(saved, name):
    _refused(saved(entries={name: b""}), "no plain path")


def test_a_compressed_entry_is_refused(saved):
    _refused(saved(compression=zipfile.ZIP_DEFLATED), "compressed")


def test_an_entry_that_is_there_twice_is_refused(saved):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = saved(entries={"m/data.pkl": b"\x80\x02]."})
    _refused(path, "'m/data.pkl' is there twice")


def test_two_pickles_are_refused(saved):
    _refused(saved(entries={"n/data.pkl": b"\x80\x02]."}), "2 entries FOLDER/data.pkl")


def test_a_zip_without_a_pickle_is_refused(saved):
    _refused(saved(folder="m/n"), "0 entries FOLDER/data.pkl")


def test_big_endian_numbers_are_refused(saved):
    _refused(saved(entries={"m/byteorder": b"big"}), "big-endian")


def test_a_large_pickle_is_refused_unread(saved, monkeypatch):
    monkeypatch.setattr(torch_file, "MOST_BYTES", 10)
    _refused(saved(b"}0" * 10 + b"}"), "more than 10 bytes")


def test_an_encrypted_entry_is_refused(saved):
    path = saved()
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    _refused(path, "encrypted")


def test_a_size_that_the_file_does_not_have_is_refused(saved):
    path = saved(_tensor(), {"m/data/0": FOUR})
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    raw[entry + 20 : entry + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    path.write_bytes(raw)
    _refused(path, "overlap")


def test_content_that_was_changed_is_refused(saved):
    path = saved(_tensor(), {"m/data/0": FOUR})
    path.write_bytes(path.read_bytes().replace(FOUR, FOUR[::-1]))
    _refused(path, "CRC")


def test_a_call_in_a_file_is_refused_with_its_name_and_not_run(saved, tmp_path):
    marker = tmp_path / "marker"

    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    _refused(saved(pickle.dumps(Runs(), 2)[2:-1]), "the global posix.system")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04", "damaged or cut"),
        (b"\x80\x02}.", "is no file of torch.save"),
        (b"some text", "is no file of torch.save"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, said):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    _refused(path, said)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    _refused(tmp_path / "none.pt", "is not a file")
    (tmp_path / "folder").mkdir()
    _refused(tmp_path / "folder", "is not a file")


WHOLE = (GOLDEN / "plain_protocol_2.pt").read_bytes()
SAME_FOLDER = [HealthCheck.function_scoped_fixture]


@settings(suppress_health_check=SAME_FOLDER)
@given(length=st.integers(0, len(WHOLE) - 1))
def test_a_file_that_was_cut_is_refused(tmp_path, length):
    path = tmp_path / "model.pt"
    path.write_bytes(WHOLE[:length])
    _refused(path, "model.pt")


@settings(suppress_health_check=SAME_FOLDER, max_examples=200)
@given(place=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_a_file_with_another_byte_is_read_or_refused(tmp_path, place, byte):
    path = tmp_path / "model.pt"
    path.write_bytes(WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :])
    try:
        read(path)
    except ValueError as error:
        assert str(path) in str(error)


def test_a_stride_that_no_element_takes_is_free(saved):
    tensor = _tensor(size=(1,), stride=(2**62,))
    np.testing.assert_array_equal(read(saved(tensor, {"m/data/0": FOUR})), [0])


def test_bytes_made_again_and_again_are_refused_before_the_memory_is_gone(saved):
    text = "x" * (1 << 20)
    once = b"c_codecs\nencode\n(h\x01" + _text("latin1") + b"tR"
    _refused(saved(_text(text) + b"q\x01" + 200 * once), "would take more than")

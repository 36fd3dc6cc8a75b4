"""Pickles: only tensors and arrays come out, whatever is in the file."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import fuzz
from support.pickles import ARRAYS, Global, legacy, pickled, tensors, zipped

from transferlab.errors import TransferlabError
from transferlab.unpickle import load_numpy_pickle, read_torch


@pytest.mark.parametrize("write", [legacy, zipped, lambda p, a: zipped(p, a, "state_dict")])
def test_tensors_come_back_with_shape_dtype_and_values(tmp_path: Path, write) -> None:
    found = read_torch(write(tmp_path / "m.pth", ARRAYS))
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].shape == array.shape and found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name].read(), array)


def test_a_dict_within_itself_ends_in_an_error(tmp_path: Path) -> None:
    whole: dict = {}
    whole["model"] = whole
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as out:
        out.writestr("archive/data.pkl", pickled(whole))
    with pytest.raises(TransferlabError, match="holds no named tensors"):
        read_torch(tmp_path / "m.pth")


@pytest.mark.parametrize("module, name", [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("numpy", "load")])
def test_a_forbidden_global_is_refused_by_name_and_nothing_runs(tmp_path: Path, module: str, name: str) -> None:
    path = tmp_path / "evil.bin"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("archive/data.pkl", pickled({"x": Global(module, name, "touch /tmp/never")}))
    with pytest.raises(TransferlabError, match=rf"evil\.bin: its pickle asks for '{module}\.{name}'"):
        read_torch(path)
    with pytest.raises(TransferlabError, match=rf"'{module}\.{name}'"):
        load_numpy_pickle(pickled(Global(module, name, "x")), "evil.pkl")


def test_a_tensor_that_reaches_past_its_storage_is_refused(tmp_path: Path) -> None:
    named, _ = tensors({"w": np.zeros(4, np.float32)})
    one = named["w"]
    one.arguments = (one.arguments[0], 0, (1000, 1000), (1000, 1), False, OrderedDict())
    with zipfile.ZipFile(tmp_path / "m.bin", "w") as out:
        out.writestr("archive/data.pkl", pickled(named))
        out.writestr("archive/data/0", bytes(16))
    with pytest.raises(TransferlabError, match="extends past its storage"):
        read_torch(tmp_path / "m.bin")


@fuzz(120)
@given(
    cut=st.floats(0, 1), flip=st.integers(0, 10_000), kind=st.sampled_from(["legacy", "zip"]), truncate=st.booleans()
)
def test_damaged_files_are_errors_never_crashes(
    tmp_path: Path, cut: float, flip: int, kind: str, truncate: bool
) -> None:
    path = (legacy if kind == "legacy" else zipped)(tmp_path / "m.pth", ARRAYS)
    data = bytearray(path.read_bytes())
    if truncate:
        data = data[: int(cut * (len(data) - 1))]
    else:
        data[flip % len(data)] ^= 0xFF
    path.write_bytes(data)
    try:
        for tensor in read_torch(path).values():
            tensor.read()
    except TransferlabError as error:
        assert "m.pth" in str(error)


def test_numpy_arrays_come_back() -> None:
    value = {"x": np.arange(6).reshape(2, 3), "y": np.ones(2, np.uint8)}
    got = load_numpy_pickle(pickle.dumps(value), "x.pkl")
    np.testing.assert_array_equal(got["x"], value["x"])
    with pytest.raises(TransferlabError, match=r"x\.pkl: truncated or corrupt"):
        load_numpy_pickle(pickle.dumps(value)[:-20], "x.pkl")


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


ONE_TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    + b"K\x04tQK\x00K\x04\x85K\x01\x85\x89}tR"
)  # fmt: skip
BOMBS = {
    "a key, a tuple doubled forty times": b"\x80\x02}N" + b"2\x86" * 40 + b"K\x01s.",
    "a key of a thousand items, used again and again": b"\x80\x02}(" + b"N" * 1000 + b"tq\x00K\x01s" + b"h\x00K\x01s" * 9 + b".",
    "pairs of an ordered dict": b"\x80\x02ccollections\nOrderedDict\n]]" + b"N" + b"2\x86" * 14 + b"aNaa\x85R.",
    "a storage's key, a tuple doubled": b"\x80\x02(" + text("storage") + b"ctorch\nFloatStorage\nN" + b"2\x86" * 26
    + text("cpu") + b"K\x01tQ.",
    "a storage's key, a list in itself": b"\x80\x02(" + text("storage") + b"ctorch\nFloatStorage\n]q\x00h\x00a" + text("cpu")
    + b"K\x01tQ.",
    "an integer of a million bytes": b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b".",
    "a text of more bytes than there are": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b".",
    "bytes of more than there are": b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b".",
    "a tensor whose shape is changed after it was checked": b"\x80\x02}" + text("w") + ONE_TENSOR + b"}" + text("shape")
    + b"M\xff\xff\x85sbs.",
    "a storage that is changed after it was checked": b"\x80\x02}" + text("w") + b"(" + text("storage")
    + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ}" + text("size") + b"M\xff\xffsbs.",
    "a tensor of a thousand axes": b"\x80\x02" + ONE_TENSOR.replace(b"K\x04\x85K\x01\x85", b"(" + b"K\x01" * 1000 + b"t" + b"(" + b"K\x01" * 1000 + b"t")
    + b".",
    "numbers that have no end": b"\x80\x02" + ONE_TENSOR.replace(b"K\x04\x85K\x01\x85", b"\x8a\x20" + b"\x7f" * 32 + b"\x85K\x00\x85")
    + b".",
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
def test_a_small_pickle_takes_little_time_and_memory_and_stays_inside_its_file(tmp_path: Path, what: str) -> None:
    path = tmp_path / "m.bin"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("archive/data.pkl", BOMBS[what])
        out.writestr("archive/data/0", bytes(16))
    with pytest.raises(TransferlabError, match=r"m\.bin: "):
        read_torch(path)


def test_a_memo_is_no_longer_than_the_stored_objects(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.bin", "w") as out:
        out.writestr("archive/data.pkl", b"\x80\x02}p2147483647\n" + text("w") + ONE_TENSOR + b"s.")
        out.writestr("archive/data/0", np.arange(4, dtype=np.float32).tobytes())
    np.testing.assert_array_equal(read_torch(tmp_path / "m.bin")["w"].read(), [0, 1, 2, 3])


def test_a_legacy_pickle_stops_before_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transferlab import limits

    monkeypatch.setattr(limits, "PICKLE_BYTES", 5000)
    path = legacy(tmp_path / "m.pth", ARRAYS)
    data = path.read_bytes()
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    assert data.startswith(head) and read_torch(path)
    path.write_bytes(head + b"\x80\x02" + b"N0" * 5000 + data[len(head) + 2 :])
    with pytest.raises(TransferlabError, match=r"m\.pth: .*5,000 bytes"):
        read_torch(path)

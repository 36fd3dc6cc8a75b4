"""Weight files: what can be read is read exactly, and what is damaged is one error that names the file and the key."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from support.fuzzing import fuzz

from transferlab.errors import TransferlabError
from transferlab.pretrained.formats.npz import read_npz
from transferlab.pretrained.formats.safetensors import read_safetensors
from transferlab.pretrained.formats.tensors import LazyTensor
from transferlab.pretrained.formats.weights import read_any, read_directory

TENSORS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.bias": np.array([1, 2, 3], np.float16),
    "count": np.array(7, np.int64),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(TENSORS, str(tmp_path / "model.safetensors"))
    return tmp_path / "model.safetensors"


def shards(folder: Path) -> Path:
    """Two shards and their index, as transformers writes them."""
    names = {"a.weight": "one.safetensors", "a.bias": "two.safetensors", "count": "two.safetensors"}
    for name in set(names.values()):
        save_file({key: TENSORS[key] for key, where in names.items() if where == name}, str(folder / name))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def test_safetensors_come_back_with_shape_dtype_and_value(file: Path) -> None:
    got = read_safetensors(file)
    assert got.keys() == TENSORS.keys()
    for key, want in TENSORS.items():
        assert (got[key].shape, got[key].dtype) == (want.shape, want.dtype)
        np.testing.assert_array_equal(np.asarray(got[key]), want)


def test_bfloat16_is_read_as_bfloat16(tmp_path: Path) -> None:
    values = np.array([1.5, -2.0, 3e38], ml_dtypes.bfloat16)
    save_file({"x": values}, str(tmp_path / "x.safetensors"))
    got = read_safetensors(tmp_path / "x.safetensors")["x"]
    assert got.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(got.read().astype(np.float32), values.astype(np.float32))


@pytest.mark.parametrize("length", [0, 4, 20, 150])
def test_a_truncated_file_is_refused_by_name(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(TransferlabError, match=r"model\.safetensors: not a readable safetensors file"):
        read_safetensors(file)


@fuzz(60)
@given(place=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 300))
def test_a_damaged_file_ends_in_tensors_or_one_error(file: Path, place: int, value: int, cut: int) -> None:
    save_file(TENSORS, str(file))
    data = bytearray(file.read_bytes())
    data[place % len(data)] = value
    damaged = file.with_name("damaged.safetensors")
    damaged.write_bytes(bytes(data[: len(data) - cut]))
    try:
        tensors = read_safetensors(damaged)
        for tensor in tensors.values():
            assert tensor.read().shape == tensor.shape
    except TransferlabError as error:
        assert "damaged.safetensors" in str(error)


def test_shards_come_back_as_one_checkpoint(tmp_path: Path) -> None:
    tensors, files = read_directory(shards(tmp_path))
    assert [file.name for file in files] == ["one.safetensors", "two.safetensors"]
    for key, want in TENSORS.items():
        np.testing.assert_array_equal(tensors[key].read(), want)


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_an_index_left_next_to_a_later_model_is_passed_over(index: str, file: Path, tmp_path: Path) -> None:
    (tmp_path / index).write_text(json.dumps({"weight_map": {"a.weight": "gone"}}))
    tensors, files = read_directory(tmp_path)
    assert files == [file] and tensors.keys() == TENSORS.keys()


def test_shards_of_safetensors_come_before_a_pickle(tmp_path: Path) -> None:
    (shards(tmp_path) / "pytorch_model.bin").write_bytes(b"")
    assert read_directory(tmp_path)[0].keys() == TENSORS.keys()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (shards(tmp_path) / "two.safetensors").unlink()
    with pytest.raises(TransferlabError, match=r"names the shard 'two\.safetensors', which does not exist"):
        read_directory(tmp_path)


def test_an_index_that_lies_about_a_key_is_refused(tmp_path: Path) -> None:
    index = shards(tmp_path) / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("a.bias", "a.bios"))
    with pytest.raises(TransferlabError, match=r"'a\.bios' is in two\.safetensors, but it is not.*a\.bias"):
        read_directory(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "../b"}}', "{}"])
def test_an_unreadable_index_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(TransferlabError, match="not a readable index"):
        read_directory(tmp_path)


def test_a_directory_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    with pytest.raises(TransferlabError, match=r"no weights.*notes\.md"):
        read_directory(tmp_path)


def test_npz_keeps_its_values_and_runs_no_pickle(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **TENSORS)
    got = read_any(tmp_path / "x.npz")
    np.testing.assert_array_equal(got["a.weight"].read(), TENSORS["a.weight"])
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(TransferlabError, match=r"objects\.npz: not a readable npz"):
        read_npz(tmp_path / "objects.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:100])
    with pytest.raises(TransferlabError, match=r"cut\.npz: not a readable npz"):
        read_npz(tmp_path / "cut.npz")


def test_a_file_of_an_unknown_kind_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").touch()
    with pytest.raises(TransferlabError, match=r"weights\.h5: unknown kind of weight file.*\.safetensors"):
        read_any(tmp_path / "weights.h5")


def test_a_lazy_tensor_is_not_read_before_it_is_asked_for() -> None:
    reads = []

    def read() -> np.ndarray:
        reads.append(1)
        return np.ones(2, np.float32)

    tensor = LazyTensor((2,), np.dtype(np.float32), read)
    assert not reads
    assert np.asarray(tensor, np.float64).dtype == np.float64
    assert len(reads) == 1

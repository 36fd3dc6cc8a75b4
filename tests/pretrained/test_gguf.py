"""GGUF: what is read is read exactly, and what is damaged is one error that names the file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import fuzz
from support.gguf import gguf, text

from transferlab.errors import TransferlabError
from transferlab.pretrained.formats.gguf import read_gguf
from transferlab.pretrained.formats.weights import read_any

PAIRS = (
    text("general.architecture") + struct.pack("<I", 8) + text("llama"),
    text("llama.block_count") + struct.pack("<II", 4, 2),
    text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc"),
    text("tokenizer.ggml.scores") + struct.pack("<IIQ2f", 9, 6, 2, 0.5, -1.5),
)
HALF, ONE = np.float16(0.5).tobytes(), np.float16(1.0).tobytes()
TENSORS = (
    ("plain", (3, 2), 0, np.arange(6, dtype=np.float32).tobytes()),
    # A scale of 0.5 over low nibbles 0…15 and high nibbles 15…0, shifted by 8.
    ("q4", (32, 1), 2, HALF + bytes(n | (15 - n) << 4 for n in range(16))),
    ("q8", (32, 2), 8, (ONE + bytes(range(32))) * 2),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(PAIRS, TENSORS))
    return path


def test_metadata_and_tensors_come_back(file: Path) -> None:
    found = read_gguf(file)
    assert found.metadata == {
        "general.architecture": "llama", "llama.block_count": 2, "tokenizer.ggml.tokens": ["a", "bc"],
        "tokenizer.ggml.scores": [0.5, -1.5],
    }  # fmt: skip
    assert found.types == {"plain": "F32", "q4": "Q4_0", "q8": "Q8_0"}
    np.testing.assert_array_equal(found.tensors["plain"].read(), [[0, 1, 2], [3, 4, 5]])
    want = 0.5 * (np.concatenate([np.arange(16), 15 - np.arange(16)]) - 8)
    np.testing.assert_array_equal(found.tensors["q4"].read(), [want])
    np.testing.assert_array_equal(read_any(file)["q8"].read(), [range(32), range(32)])


def test_a_tensor_longer_than_a_piece_is_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transferlab.pretrained.formats import gguf as module

    blocks = np.random.default_rng(0).integers(0, 256, (12, 34), np.uint8)
    blocks[:, :2] = np.frombuffer(ONE, np.uint8)
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf((), (("x", (64, 6), 8, blocks.tobytes()),), version=2))
    whole = read_gguf(path).tensors["x"].read()
    monkeypatch.setattr(module, "_PIECE", 5 * 32)
    np.testing.assert_array_equal(read_gguf(path).tensors["x"].read(), whole)
    np.testing.assert_array_equal(whole, blocks[:, 2:].view(np.int8).reshape(6, 64))


def test_a_metadata_value_that_is_missing_or_of_another_kind_is_one_error(file: Path) -> None:
    found = read_gguf(file)
    with pytest.raises(TransferlabError, match=r"metadata has no 'llama\.blok_count'.*llama\.block_count"):
        found.value("llama.blok_count")
    with pytest.raises(TransferlabError, match=r"'general\.architecture' is 'llama', which has the wrong type"):
        found.value("general.architecture", int)


ONE_TENSOR = (("w", (32, 1), 2, bytes(18)),)
WRONG = {
    "another file": (b"GGML" + bytes(40), "does not begin with 'GGUF'"),
    "too short": (b"GGUF", "it has 4 bytes"),
    "version 1": (gguf((), (), version=1) + bytes(32), "its version is 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "an unknown type": (gguf((), (("w", (32, 1), 23, bytes(18)),)), "'w' has the type IQ4_XS, which is not supported; expected one of"),
    "a nameless type": (gguf((), (("w", (32, 1), 99, bytes(18)),)), "'w' has the type number 99"),
    "half a block": (gguf((), (("w", (16, 1), 2, bytes(18)),)), r"'w' of shape \(1, 16\) is not a whole number of Q4_0 blocks"),
    "no data": (gguf((), ONE_TENSOR)[:-32], r"'w' \(1, 32\) Q4_0 extends past the end"),
    "sizes whose product overflows": (gguf((), (("w", (1 << 40, 1 << 40), 0, b""),)) + bytes(32), "past the end"),
    "a tensor twice": (gguf((), ONE_TENSOR * 2), "'w' occurs twice"),
    "a key twice": (gguf(PAIRS[:1] * 2, ()) + bytes(32), r"'general\.architecture' occurs twice"),
    "too many axes": (gguf((), (("w", (1,) * 9, 0, bytes(4)),)), "has 9 axes"),
    "an endless array": (gguf((text("k") + struct.pack("<IIQ", 9, 4, 1 << 60),), ()) + bytes(32), "past the end"),
    "an endless string": (gguf((text("k") + struct.pack("<IQ", 8, 1 << 63),), ()) + bytes(32), "past the end"),
    "arrays in arrays": (gguf((text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 2000,), ()), "unknown type 9"),
    "a value of no type": (gguf((text("k") + struct.pack("<II", 77, 0),), ()), "'k' has the unknown type 77"),
    "an odd alignment": (gguf((text("general.alignment") + struct.pack("<II", 4, 3),), ()), "alignment is 3"),
    "a part": (gguf((text("split.count") + struct.pack("<IH", 2, 3),), ()), "one of 3 parts"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_refused_by_name(what: str, tmp_path: Path) -> None:
    data, message = WRONG[what]
    (tmp_path / "wrong.gguf").write_bytes(data)
    with pytest.raises(TransferlabError, match=rf"wrong\.gguf.*{message}"):
        read_gguf(tmp_path / "wrong.gguf")


@fuzz(150)
@given(changes=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=4), cut=st.integers(0, 500))
def test_a_damaged_file_ends_in_tensors_or_one_error(tmp_path: Path, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(gguf(PAIRS, TENSORS))
    for place, value in changes:
        data[place % len(data)] = value
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(bytes(data[: len(data) - (cut if cut % 3 == 0 else 0)]))
    try:
        for tensor in read_gguf(damaged).tensors.values():
            assert tensor.read().shape == tensor.shape
    except TransferlabError as error:
        assert "damaged.gguf" in str(error)

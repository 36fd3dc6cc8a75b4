"""Every reader on files that were damaged by chance: what comes out is tensors, or one error that names the file."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import VIT_DIALECTS, write_bert, write_vit
from support.fuzzing import fuzz
from support.typed import savez

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.methods.adapted import Adapted
from transferlab.pretrained.formats.npz import read_npz
from transferlab.pretrained.peft import Pair

CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=5)
FUZZ = fuzz(30)


def damaged(data: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """Some bytes changed, and now and then the end missing."""
    out = bytearray(data)
    for place, value in changes:
        out[place % len(out)] = value
    return bytes(out[: len(out) - (cut if cut % 4 == 0 else 0)])


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**6), 10**12), st.floats(), st.text(max_size=5), st.just([]), st.just({}),
    st.just([1, "a"]), st.just({"0": 1}), st.just("gelu"), st.just({"a": {"b": []}}), st.just(10**400),
)  # fmt: skip


@FUZZ
@given(changes=CHANGES, cut=st.integers(0, 600), packed=st.booleans())
def test_a_damaged_npz_is_one_error(tmp_path: Path, changes: list, cut: int, packed: bool) -> None:
    whole, file = tmp_path / "whole.npz", tmp_path / "damaged.npz"
    (np.savez_compressed if packed else np.savez)(whole, a=np.arange(40.0).reshape(5, 8), b=np.array([1, 2], np.int16))
    file.write_bytes(damaged(whole.read_bytes(), changes, cut))
    try:
        for tensor in read_npz(file).values():
            assert tensor.read().shape == tensor.shape
    except TransferlabError as error:
        assert "damaged.npz" in str(error)


def test_an_npz_that_claims_more_than_it_can_hold_is_not_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez_compressed(file, a=np.zeros(1000))
    data = file.read_bytes()
    np.savez_compressed(tmp_path / "y.npz", a=np.zeros(10**6))
    assert read_npz(tmp_path / "y.npz")["a"].read().shape == (10**6,)
    # The size in the directory of the archive is what a reader would allocate.
    file.write_bytes(data.replace((8000 + 128).to_bytes(4, "little"), (1 << 31).to_bytes(4, "little")))
    with pytest.raises(TransferlabError, match=r"x\.npz: not a readable npz"):
        read_npz(file)


def test_bfloat16_in_an_npz_does_not_stay_raw_bytes(tmp_path: Path) -> None:
    import ml_dtypes

    values = np.array([1.5, -2.0, 0.1], ml_dtypes.bfloat16)
    np.savez(tmp_path / "x.npz", x=values)
    tensor = read_npz(tmp_path / "x.npz")["x"]
    assert tensor.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(tensor.read(), values)


def test_an_npz_is_not_read_whole_when_one_array_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones(3), b=np.zeros(4))
    seen = []
    plain = np.lib.format.read_array
    monkeypatch.setattr(np.lib.format, "read_array", lambda *a, **k: (seen.append(1), plain(*a, **k))[1])
    tensors = read_npz(tmp_path / "x.npz")
    assert tensors["b"].shape == (4,) and not seen
    tensors["b"].read()
    assert len(seen) == 1


def test_two_threads_do_not_parse_headers_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython 3.11 can fail there, now and then, and for no fault of the file."""
    savez(tmp_path / "x.npz", {str(i): np.ones(3) for i in range(8)})
    plain, inside, most = np.lib.format.read_array, [], []

    def slow(*args, **settings):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return plain(*args, **settings)

    monkeypatch.setattr(np.lib.format, "read_array", slow)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda tensor: tensor.read(), read_npz(tmp_path / "x.npz").values()))
    assert max(most) == 1 and len(most) == 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("fuzz")
    write_bert(place / "bert", id2label={"0": "a"})
    for dialect in VIT_DIALECTS:
        write_vit(place / dialect, dialect)
    source = tl.load(place / "bert")
    tl.save(source, place / "orbax", format="orbax")
    tl.save(source, place / "shards", shard_bytes=4000)
    pair = Pair(np.ones((16, 2), np.float32), np.ones((2, 16), np.float32), 2.0)
    Adapted(source, {"layers/0/attention/query/kernel": pair}).save_adapter(place / "adapter")
    return {path.name: path for path in place.iterdir()}


def opens(folder: Path, read: Callable[[Path], object]) -> None:
    """Reading gives a result or a TransferlabError; anything else fails the test."""
    try:
        read(folder)
    except TransferlabError as error:
        assert len(str(error)) < 5000


FILES = [
    ("bert", "config.json"), ("timm", "config.json"), ("dinov2", "config.json"), ("vit", "config.json"),
    ("orbax", "transferlab.json"), ("shards", "model.safetensors.index.json"), ("adapter", "adapter_config.json"),
    ("bert", "1_Pooling/config.json"), ("bert", "tokenizer_config.json"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file"), FILES)
@FUZZ
@given(which=st.integers(0, 100), value=ODD, changes=CHANGES, bytewise=st.booleans())
def test_a_damaged_json_is_one_error(
    folders: dict[str, Path], name: str, file: str, which: int, value: object, changes: list, bytewise: bool
) -> None:
    """One field of another kind, or some bytes changed."""
    folder, path = folders[name], folders[name] / file
    whole = path.read_bytes()
    try:
        if bytewise:
            path.write_bytes(damaged(whole, changes, 1))
        else:
            raw = json.loads(whole)
            inner = raw
            keys = list(raw)
            key = keys[which % len(keys)]
            if isinstance(raw[key], dict) and raw[key] and which % 2:
                inner = raw[key]
                key = list(inner)[which % len(inner)]
            inner[key] = value
            path.write_text(json.dumps(raw))
        opens(folder, tl.load_adapter if name == "adapter" else tl.load)
    finally:
        path.write_bytes(whole)


@FUZZ
@given(changes=CHANGES, cut=st.integers(0, 3000))
def test_a_damaged_adapter_is_one_error(folders: dict[str, Path], changes: list, cut: int) -> None:
    path = folders["adapter"] / "adapter_model.safetensors"
    whole = path.read_bytes()
    try:
        path.write_bytes(damaged(whole, changes, cut))
        opens(folders["adapter"], tl.load_adapter)
    finally:
        path.write_bytes(whole)


def test_no_nan_goes_into_the_model(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(folders["bert"], tmp_path / "nan")
    tensors = load_file(str(folder / "model.safetensors"))
    tensors["encoder.layer.1.output.dense.bias"][3] = np.nan
    save_file(tensors, str(folder / "model.safetensors"))
    source = tl.load(folder)
    with pytest.raises(
        TransferlabError, match=r"model\.safetensors: 'encoder\.layer\.1\.output\.dense\.bias' holds NaN"
    ):
        source.module()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_a_nan_or_infinity_of_every_type_is_seen_and_no_other_number_is_taken_for_one(dtype: str) -> None:
    import ml_dtypes

    from transferlab.pretrained.formats.tensors import holds_nonfinite

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    plain = np.array([[0.0, -0.0, 65000.0], [1e-7, 3.0, -65000.0]]).astype(kind)
    assert not holds_nonfinite(plain) and not holds_nonfinite(plain.T) and not holds_nonfinite(plain[:0])
    for nan in (np.nan, -np.nan, np.inf, -np.inf):
        for place in np.ndindex(plain.shape):
            wrong = plain.copy()
            wrong[place] = nan
            assert holds_nonfinite(wrong) and holds_nonfinite(wrong.T)
    assert not holds_nonfinite(np.array([-1, 1 << 62]))


def test_a_nan_or_infinity_in_any_piece_of_a_large_array_is_seen() -> None:
    from transferlab.pretrained.formats.tensors import holds_nonfinite

    large = np.zeros((1 << 12, (1 << 10) + 3), np.float32)
    assert not holds_nonfinite(large)
    flat = large.reshape(-1)
    for place in (0, (1 << 21) - 1, 1 << 21, (1 << 21) + (1 << 16), flat.size // 2, flat.size - 1):
        for wrong in (np.nan, -np.inf):
            flat[place] = wrong
            assert holds_nonfinite(large) and holds_nonfinite(large.T), place
        flat[place] = 0.0

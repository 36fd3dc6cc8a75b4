"""Loading takes the memory of the weights once, in the dtype that is asked for, and leaves the file alone."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import write_bert

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_bert(tmp_path / "bert")
    tensors = {k: v.astype(ml_dtypes.bfloat16) for k, v in load_file(str(made / "model.safetensors")).items()}
    save_file(tensors, str(made / "model.safetensors"))
    return made


def test_bfloat16_is_neither_widened_nor_changed(folder: Path) -> None:
    source = tl.load(folder, dtype="bfloat16")
    for path, leaf in trees.walk(source.arrays[0]):
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(leaf), source.leaves[path].read())
    ids = {"input_ids": np.array([[2, 5, 6, 3]])}
    narrow, wide = source(ids)["hidden"], tl.load(folder)(ids)["hidden"]
    assert narrow.dtype == jnp.bfloat16 and wide.dtype == jnp.float32
    np.testing.assert_allclose(narrow.astype(jnp.float32), wide, atol=0.1)
    module = tl.load(folder).module(jnp.bfloat16)
    assert module.embed.word.embedding[...].dtype == jnp.bfloat16
    with pytest.raises(TransferlabError, match=r"dtype 'bfloat61' is not supported.*bfloat16"):
        tl.load(folder, dtype="bfloat61")


@pytest.mark.parametrize("shape", [(64, 64), (3, 5), (), (0, 4), (7,)])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float64])
def test_a_placed_array_does_not_change_with_the_hosts(shape: tuple[int, ...], dtype: type) -> None:
    for transposed in (False, True):
        host = np.random.default_rng(0).normal(size=shape).astype(dtype)
        view = host.T if transposed else host
        want = np.array(view, np.float32)
        made = trees.placed(view, jnp.float32)
        host[...] = 3
        np.testing.assert_array_equal(np.asarray(made), want)


def test_a_file_that_is_overwritten_does_not_change_what_was_loaded(folder: Path) -> None:
    source = tl.load(folder, dtype="bfloat16")
    want = {path: np.array(leaf) for path, leaf in trees.walk(source.arrays[0])}
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(8 * 1024)
        file.write(bytes(4096))
    for path, leaf in trees.walk(source.arrays[0]):
        np.testing.assert_array_equal(np.asarray(leaf), want[path])


def test_no_strip_of_a_transposed_matrix_is_lost() -> None:
    for shape in ((300, 517), (517, 300), (65, 1100), (64, 64), (1, 70000)):
        x = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
        np.testing.assert_array_equal(trees.contiguous(x.T), x.T)
        assert trees.contiguous(x.T).flags.c_contiguous


def test_hashes_are_not_taken_at_every_load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transferlab.pretrained import source as module

    hashed = []
    plain = module.sha256_file
    monkeypatch.setattr(module, "sha256_file", lambda path: (hashed.append(path), plain(path))[1])
    source = tl.load(folder)
    jax.block_until_ready(source.arrays)
    assert not hashed
    assert list(source.recorded["files"]) == ["model.safetensors"] and len(hashed) == 1
    assert source.recorded["files"] and len(hashed) == 1

"""Positions for another image size: named rules, values, the plan's row, and the hash that a checkpoint refers to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from support.checkpoints import write_vit

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.pretrained.positions import RULES, position_resize, resized_positions
from transferlab.train.setup import plan_for

LABELS = ("down", "up")
PATH = "embed/position"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("vit")
    write_vit(folder, "vit")
    return tl.load(folder)


def table(side: int, slots: int, features: int = 3) -> np.ndarray:
    return np.random.default_rng(side).normal(size=(slots + side * side, features)).astype(np.float32)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("old", "new"), [(14, 24), (7, 3), (5, 1), (1, 4)])
def test_a_rule_keeps_the_tokens_before_the_patches_and_the_level(rule: str, old: int, new: int) -> None:
    got = resized_positions(table(old, 2), 2, new, rule)
    assert got.shape == (2 + new * new, 3) and got.dtype == np.float32
    np.testing.assert_array_equal(got[:2], table(old, 2)[:2])
    flat = np.full((2 + old * old, 3), 0.7, np.float32)
    np.testing.assert_allclose(resized_positions(flat, 2, new, rule), 0.7, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_rows_and_columns_keep_their_places(rule: str) -> None:
    columns = np.tile(np.arange(6.0, dtype=np.float32), 6)[:, None]
    got = resized_positions(columns, 0, 9, rule).reshape(9, 9)
    np.testing.assert_allclose(got, np.tile(got[:1], (9, 1)), atol=1e-6)
    assert (np.diff(got[0]) > 0).all()


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (2, 5), (6, 1)])
def test_linear_zoom_is_scipys(old: int, new: int) -> None:
    given = table(old, 1)
    grid = given[1:].reshape(old, old, 3)
    want = np.asarray(ndimage.zoom(grid, (new / old, new / old, 1), order=1))
    np.testing.assert_allclose(resized_positions(given, 1, new, "linear zoom")[1:], want.reshape(-1, 3), atol=1e-5)


def test_a_table_that_is_no_square_or_a_rule_that_is_none_is_refused() -> None:
    with pytest.raises(
        TransferlabError, match="table of 12 positions, 1 of them before the patches, does not form a square"
    ):
        position_resize((12, 3), 1, 5, "bicubic")
    with pytest.raises(TransferlabError, match=r"Unknown rule 'bicubik'.*'bicubic'"):
        position_resize((10, 3), 1, 5, "bicubik")
    assert position_resize((10, 3), 1, 3, "bicubic") is None


def test_the_plan_says_that_positions_were_resized(source) -> None:
    plain = plan_for(source, LABELS, tl.methods.Full())
    made = plan_for(source.resized(24), LABELS, tl.methods.Full())
    rows = {leaf.path: leaf for leaf in made.leaves}
    assert {path for path, leaf in rows.items() if leaf.action == "resized"} == {PATH}
    assert rows[PATH].reason == "4×4 to 6×6 patches, bicubic, the first 1 kept"
    assert (rows[PATH].shape, rows[PATH].source) == ((37, 12), ("embeddings.position_embeddings",))
    assert {leaf.path: leaf.action for leaf in plain.leaves}[PATH] == "copied"
    row = next(line for line in str(made).splitlines() if "resized" in line)
    assert "(4×4 to" in row
    assert made.totals()["by_action"]["resized"] == 1
    assert made.notes == (f"images are read as 24×24 pixels, for which '{PATH}' is resized, {rows[PATH].reason}",)
    assert "images are read as 24×24 pixels" in str(made)
    assert plan_for(source, LABELS, tl.methods.Full()).notes == ()
    want = resized_positions(source.leaves[PATH].read(), 1, 6, "bicubic")
    np.testing.assert_array_equal(made.place(0)[0]["embed"]["position"], want)


def test_a_resized_source_evaluates_and_comes_back(source) -> None:
    given = {"pixel_values": np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)}
    larger = source.resized(24)
    assert larger(given)["hidden"].shape == (2, 37, 12)
    assert (larger.config.image_size, larger.transform.size) == (24, 24)
    back = source.resized(8).resized(16)
    np.testing.assert_array_equal(back.leaves[PATH].read(), source.leaves[PATH].read())
    with pytest.raises(TransferlabError, match="image_size 3 is smaller than one patch"):
        source.resized(3)
    with pytest.raises(TransferlabError, match="24 × 24 pixels do not fit: this model reads 16 × 16"):
        source(given)


def test_a_checkpoints_base_is_the_same_at_another_image_size(source) -> None:
    assert source.resized(24).sha256 == source.sha256


@pytest.mark.parametrize("dialect", ["vit", "timm", "dinov2"])
def test_every_leaf_of_a_vit_is_accounted_for(dialect: str, tmp_path: Path) -> None:
    write_vit(tmp_path, dialect)
    source = tl.load(tmp_path)
    made = plan_for(source, LABELS, tl.methods.LoRA(rank=2))
    new = {leaf.path for leaf in made.leaves if leaf.action == "initialised"}
    assert new == {"head/kernel", "head/bias"} | {
        f"layers/{i}/attention/{part}/lora/{x}" for i in range(2) for part in ("query", "value") for x in "ab"
    }
    assert {reason for _, reason in made.unused} == {"replaced by the new head"}

"""big_vision's and vision_transformer's ``.npz``: every layout, with the config read off the tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from support import linen_big_vision as like
from support.typed import as_image, found, savez

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.pretrained.families.big_vision import clip_tables, vit_tables
from transferlab.pretrained.names import to_file

PIXELS = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
IDS = np.random.default_rng(2).integers(0, 40, (3, 7))
POOLS = {"tok": "first", "gap": "mean", "map": "pooler"}


def close(got, want) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), atol=2e-5, rtol=0)


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/", "params/img/"])
@pytest.mark.parametrize("form", ["numbered", "stacked", "old"])
def test_a_layout_gives_the_numbers_of_the_module_it_came_from(form: str, prefix: str, tmp_path: Path) -> None:
    module = like.Image("tok", 5)
    params = like.random_params(module, PIXELS)
    hidden, logits = like.evaluated(module, params, PIXELS)
    written = {"numbered": lambda p: p, "stacked": like.stacked, "old": like.old}[form](params)
    savez(tmp_path / "vit.npz", {prefix + path: value for path, value in written.items()})
    source = tl.load(tmp_path / "vit.npz")
    out = source({"pixel_values": PIXELS})
    close(out["hidden"], hidden)
    close(out["logits"], logits)
    assert not source.unused and len(source.labels) == 5
    assert source.config.class_token and source.config.position_slots == 0
    tables = [t for t in vit_tables(source.config) if {n.key for n in t.names} >= written.keys()]
    again = to_file(tables[0], {path: leaf.read() for path, leaf in source.leaves.items()})
    assert again.keys() == written.keys()
    for key, value in written.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)


@pytest.mark.parametrize(
    ("pool", "head"),
    [*((pool, head) for pool in POOLS for head in (None, "zeros", "drawn")), ("tok", "after pre_logits")],
)
def test_every_way_of_pooling_and_head_is_read_as_itself(pool: str, head: str | None, tmp_path: Path) -> None:
    module = like.Image(pool, None if head is None else 4, pre_logits=head == "after pre_logits")
    params = like.random_params(module, PIXELS)
    if head == "zeros":
        params["head/kernel"][:] = 0
    hidden, logits = like.evaluated(module, params, PIXELS)
    savez(tmp_path / "vit.npz", params)
    source = tl.load(tmp_path / "vit.npz")
    out = source({"pixel_values": PIXELS})
    assert source.pooling == ("pooler" if head == "after pre_logits" else POOLS[pool])
    close(out["hidden"], hidden)
    if head is None:
        close(out["pooled"], logits)
        assert "logits" not in out
    else:
        close(out["logits"], logits)


def test_a_given_config_without_the_files_pre_logits_is_refused(tmp_path: Path) -> None:
    module = like.Image("tok", 4, pre_logits=True)
    params = like.random_params(module, PIXELS)
    savez(tmp_path / "vit.npz", params)
    guessed = tl.load(tmp_path / "vit.npz")
    given = tl.load(tmp_path / "vit.npz", config=replace(guessed.config.without_pooler(), pooling="first"))
    close(given({"pixel_values": PIXELS})["logits"], like.evaluated(module, params, PIXELS)[1])


@pytest.mark.parametrize("pool", ["gap", "map"])
def test_pre_logits_without_a_class_token_are_refused(pool: str, tmp_path: Path) -> None:
    savez(tmp_path / "vit.npz", like.random_params(like.Image(pool, 4, pre_logits=True), PIXELS))
    with pytest.raises(TransferlabError, match="pre_logits"):
        tl.load(tmp_path / "vit.npz")


def test_a_class_tokens_position_is_not_taken_for_a_patchs(tmp_path: Path) -> None:
    """vision_transformer's files hold one for it, before the patches'."""
    module = like.Image("tok", None)
    params = like.random_params(module, PIXELS)
    table = np.concatenate([np.full((1, 1, 12), 0.5, np.float32), params["pos_embedding"]], axis=1)
    savez(tmp_path / "vit.npz", like.old(params | {"pos_embedding": table}))
    source = tl.load(tmp_path / "vit.npz")
    assert source.config.position_slots == 1 and source.config.grid == 4
    moved = params | {"cls": params["cls"] + 0.5}
    close(source({"pixel_values": PIXELS})["hidden"], like.evaluated(module, moved, PIXELS)[0])
    resize = found(source.resized(24).leaves["embed/position"].resize)
    assert resize.how.startswith("4×4 to 6×6 patches, linear zoom, the first 1")


def test_bfloat16_that_numpy_stores_as_raw_bytes_is_read(tmp_path: Path) -> None:
    module = like.Image("map", None)
    params = like.random_params(module, PIXELS)
    low = {path: value.astype(ml_dtypes.bfloat16) for path, value in params.items()}
    savez(tmp_path / "vit.npz", {path: value.view("V2") for path, value in low.items()})
    source = tl.load(tmp_path / "vit.npz")
    assert str(source.leaves["norm/scale"].dtype) == "bfloat16"
    rounded = {path: value.astype(np.float32) for path, value in low.items()}
    close(source({"pixel_values": PIXELS})["pooled"], like.evaluated(module, rounded, PIXELS)[1])


@pytest.mark.parametrize("form", ["numbered", "stacked"])
def test_two_towers_give_siglips_logits(form: str, tmp_path: Path) -> None:
    module = like.TwoTowers()
    params = like.random_params(module, PIXELS, IDS)
    image, text, logits = like.evaluated(module, params, PIXELS, IDS)
    written = like.stacked(params) if form == "stacked" else params
    savez(tmp_path / "siglip.npz", {f"params/{path}": value for path, value in written.items()})
    source = tl.load(tmp_path / "siglip.npz")
    out = source({"pixel_values": PIXELS, "input_ids": IDS})
    close(out["image_embedding"], image)
    close(out["text_embedding"], text)
    close(out["logits"], logits)
    vision = tl.load(tmp_path / "siglip.npz", tower="vision")
    assert as_image(vision.transform).size == 16 and dict(vision.unused)["params/t"] == "joins the towers"
    table = next(t for t in clip_tables(source.config) if {n.key for n in t.names} >= written.keys())
    again = to_file(table, {path: leaf.read() for path, leaf in source.leaves.items()})
    for key, value in written.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)


def test_twelve_stacked_layers_keep_their_order(tmp_path: Path) -> None:
    module = like.Image("gap", None, layers=12)
    params = like.random_params(module, PIXELS)
    savez(tmp_path / "vit.npz", dict(sorted(params.items())))
    savez(tmp_path / "stacked.npz", like.stacked(params))
    want = like.evaluated(module, params, PIXELS)[0]
    for name in ("vit", "stacked"):
        np.testing.assert_allclose(
            tl.load(tmp_path / f"{name}.npz")({"pixel_values": PIXELS})["hidden"], want, atol=1e-4
        )


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 2}, {"num_attention_heads": 6}, {"intermediate_size": 11}])
@pytest.mark.parametrize("form", ["numbered", "stacked"])
def test_a_config_of_another_size_is_refused(changes: dict, form: str, tmp_path: Path) -> None:
    params = like.random_params(like.Image("gap", 4), PIXELS)
    savez(tmp_path / "vit.npz", like.stacked(params) if form == "stacked" else params)
    config = replace(tl.load(tmp_path / "vit.npz").config, **changes)
    with pytest.raises(TransferlabError, match="does not fit vit"):
        tl.load(tmp_path / "vit.npz", config=config)


def test_optimizer_state_is_left_out_and_an_unknown_key_is_refused(tmp_path: Path) -> None:
    params = {f"opt/target/{p}": v for p, v in like.random_params(like.Image("gap", 4), PIXELS).items()}
    params |= {"opt/state/step": np.zeros(()), "opt/state/param_states/head/bias/grad_sum_sq_ema": np.zeros(4)}
    savez(tmp_path / "vit.npz", params)
    assert {reason for _, reason in tl.load(tmp_path / "vit.npz").unused} == {
        "the state of the training run, no parameter"
    }
    savez(tmp_path / "vit.npz", {**params, "conv_root": np.zeros(3)})
    with pytest.raises(TransferlabError, match=r"key 'conv_root' \(3,\) matches no leaf"):
        tl.load(tmp_path / "vit.npz")


def test_other_arrays_are_not_taken_for_a_vision_transformer(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", weights=np.zeros(3))
    with pytest.raises(TransferlabError, match="a bare weight file does not say its architecture"):
        tl.load(tmp_path / "x.npz")
    params = like.random_params(like.Image("gap", 4), PIXELS)
    savez(tmp_path / "x.npz", params | {"pos_embedding": np.zeros((1, 15, 12))})
    with pytest.raises(TransferlabError, match="15 positions, 0 of them before the patches, is no square"):
        tl.load(tmp_path / "x.npz")

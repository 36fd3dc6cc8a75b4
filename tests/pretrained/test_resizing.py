"""The resize kit: patches, channels and vocabularies that the file was not written for, visible in the plan."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy import ndimage
from support.checkpoints import WORDS, write_bert, write_vit
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models import (
    BitConfig,
    ConvNeXtConfig,
    EfficientNetConfig,
    MobileNetV2Config,
    ResNetConfig,
    SwinConfig,
    run_stages,
)
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.kernels import kernel_resize, resized_patches
from transferlab.pretrained.names import to_file
from transferlab.pretrained.positions import RULES
from transferlab.pretrained.vocabulary import surface, token_map, vocabulary_resize
from transferlab.train.setup import plan_for

LABELS = ("down", "up")
KERNEL, WORD = "embed/patch/kernel", "embed/word/embedding"
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("vit")
    write_vit(folder, "vit")
    return tl.load(folder)


@pytest.fixture
def bert(tmp_path: Path):
    """Eighteen tokens in a table of as many rows."""
    return tl.load(write_bert(tmp_path / "bert", vocab_size=18))


def enlarge(patch: np.ndarray, side: int, rule: str) -> np.ndarray:
    matrix = RULES[rule](patch.shape[0], side)
    return np.einsum("ui,vj,ijc->uvc", matrix, matrix, patch)


# Patches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["bilinear antialias", "bicubic antialias", "bicubic"])
@pytest.mark.parametrize(("old", "new"), [(4, 8), (5, 7), (16, 17)])
def test_an_enlarged_patch_gives_the_same_token(rule: str, old: int, new: int) -> None:
    """The defining property of PI-resize: ⟨w', B x⟩ = ⟨w, x⟩ for every patch x, if B enlarges."""
    kernel, patch = RNG.normal(size=(old, old, 3, 6)), RNG.normal(size=(old, old, 3))
    want = np.einsum("ijc,ijco->o", patch, kernel)
    got = np.einsum("ijc,ijco->o", enlarge(patch, new, rule), resized_patches(kernel, new, rule))
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_a_smaller_kernel_is_the_nearest_in_mean_over_patches() -> None:
    """The least-squares solution: its error over white patches is below that of any neighbour."""
    kernel = RNG.normal(size=(8, 8, 1, 1))
    small, matrix = resized_patches(kernel, 4), RULES["bilinear antialias"](8, 4)

    def error(w: np.ndarray) -> float:
        return float(np.square(matrix.T @ w[..., 0, 0] @ matrix - kernel[..., 0, 0]).sum())

    assert all(error(small) < error(small + 0.01 * RNG.normal(size=small.shape)) for _ in range(20))


@pytest.mark.parametrize(("old", "new"), [(8, 16), (6, 9)])
def test_bilinear_antialias_enlarges_as_scipy(old: int, new: int) -> None:
    image = RNG.normal(size=(old, old))
    matrix = RULES["bilinear antialias"](old, new)
    want = np.asarray(ndimage.zoom(image, new / old, order=1, mode="nearest", grid_mode=True))
    np.testing.assert_allclose(matrix @ image @ matrix.T, want, atol=1e-9)


def test_a_vit_with_larger_patches_sees_the_same_image(vit) -> None:
    """An image enlarged twofold, cut into patches twice as large: the same tokens, so the same hidden states."""
    small = RNG.normal(size=(2, 16, 16, 3)).astype(np.float32)
    parts = small.reshape(2, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4, 3)
    parts = np.stack([enlarge(part, 8, "bilinear antialias") for part in parts])
    large = parts.reshape(2, 4, 4, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 32, 32, 3)
    other = vit.resized(32, patch_size=8)
    assert (other.config.patch_size, other.config.grid, other.transform.size) == (8, 4, 32)
    np.testing.assert_allclose(
        np.asarray(other({"pixel_values": large})["hidden"]), vit({"pixel_values": small})["hidden"], atol=2e-5
    )


def test_the_plan_says_that_patches_and_channels_were_resized(vit) -> None:
    made = plan_for(vit.resized(patch_size=8, channels=1), LABELS, tl.methods.Full())
    rows = {leaf.path: leaf for leaf in made.leaves if leaf.action == "resized"}
    assert rows.keys() == {KERNEL, "embed/position"}
    assert rows[KERNEL].reason == "3 to 1 channels, sum; 4×4 to 8×8 pixels, FlexiViT's pseudo-inverse"
    assert rows[KERNEL].shape == (8, 8, 1, 12)
    assert "4×4 to 2×2 patches" in rows["embed/position"].reason
    assert made.place(0)[0]["embed"]["patch"]["kernel"].shape == (8, 8, 1, 12)


# Channels --------------------------------------------------------------------------------------------------------


def test_a_channel_mode_makes_its_values() -> None:
    kernel = RNG.normal(size=(2, 2, 3, 5)).astype(np.float32)

    def made(channels: int, mode: str) -> np.ndarray:
        resize = kernel_resize(kernel.shape, None, channels, mode)
        assert resize is not None and resize.shape == (2, 2, channels, 5)
        return resize.apply(kernel)

    np.testing.assert_allclose(made(1, "sum")[:, :, 0], kernel.sum(2), atol=1e-6)
    np.testing.assert_allclose(made(5, "repeat"), kernel[:, :, [0, 1, 2, 0, 1]] * 3 / 5, atol=1e-6)
    np.testing.assert_array_equal(made(5, "zero")[:, :, :3], kernel)
    assert not made(5, "zero")[:, :, 3:].any()
    assert kernel_resize(kernel.shape, 2, 3) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2, "channel_mode": "sum"}, "'sum' gives 1 channel, not 2"),
        ({"channels": 1, "channel_mode": "zero"}, "'zero' adds channels to the file's 3, and cannot give 1"),
        ({"channels": 2, "channel_mode": "repat"}, "Unknown channel_mode 'repat'.*'repeat'"),
        ({"channels": 0}, "channels is 0"),
        ({"patch_size": 17}, "smaller than one patch"),
    ],
)
def test_an_impossible_resize_is_refused(vit, changes: dict, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        vit.resized(**changes)


def test_gray_images_under_sum_give_what_they_give_as_rgb(vit) -> None:
    """The file's mean and deviation are alike in all channels here, so both ways are one."""
    image = RNG.integers(0, 255, (20, 20, 1), dtype=np.uint8)
    grey = vit.resized(channels=1)
    assert grey.transform(image).shape == (16, 16, 1)
    want = vit({"pixel_values": vit.transform(image)[None]})["hidden"]
    np.testing.assert_allclose(grey({"pixel_values": grey.transform(image)[None]})["hidden"], want, atol=2e-5)
    again = grey.resized(channels=3)
    np.testing.assert_array_equal(again.leaves[KERNEL].read(), vit.leaves[KERNEL].read())
    np.testing.assert_array_equal(again.transform(image), vit.transform(image))


def test_images_of_five_channels_are_neither_cut_nor_mixed(vit) -> None:
    source = vit.resized(channels=5, channel_mode="zero")
    image = RNG.integers(0, 255, (20, 24, 5), dtype=np.uint8)
    got = source.transform(image)
    assert got.shape == (16, 16, 5)
    np.testing.assert_allclose(got[..., :3], vit.transform(np.ascontiguousarray(image[..., :3])), atol=1e-6)
    np.testing.assert_allclose(
        source({"pixel_values": got[None]})["hidden"], vit({"pixel_values": got[None, ..., :3]})["hidden"], atol=1e-5
    )
    with pytest.raises(TransferlabError, match="image has 3 channels; this model reads 5"):
        source.transform(image[..., :3])


CONVOLUTIONAL = {
    "efficientnet": EfficientNetConfig(width=0.1, depth=0.1, lite=True, image_size=32),
    "mobilenet": MobileNetV2Config(0.1, image_size=32),
    "resnet": ResNetConfig(embedding_size=4, hidden_sizes=(4, 8), depths=(1, 2), layer_type="basic", image_size=32),
    "bit": BitConfig(embedding_size=8, hidden_sizes=(16, 32), depths=(1, 2), num_groups=4, image_size=32),
    "convnext": ConvNeXtConfig(hidden_sizes=(4, 6), depths=(1, 2), image_size=32),
    "swin": SwinConfig(embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_sizes=(4, 4), image_size=32),
}


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_every_convolutional_family_reads_gray_images(name: str, tmp_path: Path) -> None:
    config, family = CONVOLUTIONAL[name], FAMILIES[name]
    definition = trees.define(config.build())
    shapes = {**trees.flatten(definition.params), **trees.flatten(definition.state)}
    leaves = {path: RNG.uniform(0.1, 0.3, leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    file = tmp_path / "net.safetensors"
    save_file(to_file(family.names(config)[0], leaves), str(file))
    rgb = tl.load(file, config=config)
    grey = rgb.resized(channels=1)
    made = plan_for(grey, LABELS, tl.methods.Probe())
    assert [leaf.path for leaf in made.leaves if leaf.action == "resized"] == [family.input_kernel]
    image = RNG.normal(size=(1, 32, 32, 1)).astype(np.float32)
    first = [
        np.asarray(run_stages(source.module(), {"pixel_values": jnp.asarray(pixels)}, 0, 1)["hidden"])
        for source, pixels in ((grey, image), (rgb, np.repeat(image, 3, -1)))
    ]
    # BiT standardises its kernel, so that a sum over channels is not what it was.
    if name != "bit":
        np.testing.assert_allclose(first[0], first[1], atol=1e-4)
    if not hasattr(config, "patch_size"):
        with pytest.raises(TransferlabError, match=r"patch_size was given, but .* has none that can change"):
            rgb.resized(patch_size=8)


# Vocabularies ----------------------------------------------------------------------------------------------------


def words(*tokens: str) -> Tokenizer:
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def save(tokenizer: Tokenizer, folder: Path) -> Path:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    return folder


def test_rows_follow_tokens_and_not_ids(bert, tmp_path: Path) -> None:
    """Another order, some tokens gone, some new: each row goes where its token is."""
    folder = save(words("[UNK]", "film", "new", "[PAD]", "good", "newer"), tmp_path / "other")
    source = bert.with_tokenizer(folder)
    old, table = bert.leaves[WORD].read(), source.leaves[WORD].read()
    vocabulary = bert.tokenizer.get_vocab()
    for i, token in enumerate(("[UNK]", "film", None, "[PAD]", "good", None)):
        np.testing.assert_array_equal(table[i], old[vocabulary[token]]) if token else np.testing.assert_allclose(
            table[i], old.mean(0), atol=1e-6
        )
    assert (source.config.vocab_size, source.transform.pad_id) == (6, 3)
    made = plan_for(source, LABELS, tl.methods.LoRA())
    rows = [leaf for leaf in made.leaves if leaf.action == "resized"]
    assert [leaf.path for leaf in rows] == [WORD] and rows[0].shape == (6, 16)
    assert rows[0].reason == "18 to 6 tokens: 4 kept by name, 2 new by mean, 14 dropped"
    encoded = source.transform.encode(["good film"])
    assert encoded[0].ids == (4, 1)
    assert source.sha256 == bert.sha256


def test_added_tokens_keep_old_outputs_and_the_sources_own_tokenizer(bert) -> None:
    source = bert.with_tokenizer(add=("<person>", "<place>"))
    given = {"input_ids": np.arange(18)[None]}
    np.testing.assert_array_equal(source(given)["hidden"], bert(given)["hidden"])
    assert source.leaves[WORD].shape == (20, 16)
    assert source.transform.encode(["good <place>"])[0].ids[1:-1] == (4, 19)
    assert bert.tokenizer.token_to_id("<place>") is None
    assert source.transform.describe()["tokenizer"] != bert.transform.describe()["tokenizer"]
    with pytest.raises(TransferlabError, match="'good' is a token of this tokenizer already"):
        bert.with_tokenizer(add=("good",))
    # A text is a sequence of its letters, each of which would become a token.
    with pytest.raises(
        TransferlabError, match=r"add is '<cat>'; it must be a list .* with_tokenizer\(add=\['<cat>'\]\)"
    ):
        bert.with_tokenizer(add="<cat>")
    with pytest.raises(TransferlabError, match="add holds ' '; each token must be a text that is not empty"):
        bert.with_tokenizer(add=("<cat>", " "))
    with pytest.raises(TransferlabError, match="has another tokenizer already"):
        source.with_tokenizer(add=("<time>",))
    with pytest.raises(TransferlabError, match=r"new_rows='meen' is unknown.*'mean'"):
        bert.with_tokenizer(add=("<time>",), new_rows="meen")
    with pytest.raises(TransferlabError, match="has no tokenizer: expected"):
        bert.with_tokenizer("/nowhere")


def test_a_new_row_is_the_mean_of_its_pieces() -> None:
    old = Tokenizer(models.WordPiece({"[UNK]": 0, "film": 1, "##s": 2, "good": 3, "##ness": 4}, unk_token="[UNK]"))
    old.pre_tokenizer = pre_tokenizers.Whitespace()
    new = words("[UNK]", "films", "goodness", "film", "xyz")
    matched = token_map(old, new, 5, "pieces")
    table = RNG.normal(size=(5, 3)).astype(np.float32)
    resize = vocabulary_resize(table.shape, 0, matched, "pieces")
    assert resize is not None and resize.how == (
        "5 to 5 tokens: 2 kept by name, 3 new by pieces, 3 dropped (1 of the new without pieces: the mean)"
    )
    want = np.stack([table[0], (table[1] + table[2]) / 2, (table[3] + table[4]) / 2, table[1], table.mean(0)])
    np.testing.assert_allclose(resize.apply(table), want, atol=1e-6)


def test_a_tokens_surface_is_its_text() -> None:
    byte = Tokenizer(models.BPE({"Ġfilm": 0, "film": 1, "Ã©": 2}, []))
    byte.decoder = decoders.ByteLevel()
    piece = Tokenizer(models.Unigram([("▁film", -1.0), ("s", -1.0)], 0, False))
    piece.decoder = decoders.Metaspace()
    assert [surface(token, byte) for token in ("Ġfilm", "film", "Ã©")] == ["film", "film", "é"]
    assert [surface(token, piece) for token in ("▁film", "s")] == ["film", "s"]


def test_normal_rows_differ_lie_near_the_mean_and_are_drawn_once() -> None:
    tokens = token_map(words("[UNK]", *WORDS), words("[UNK]", *WORDS, "x", "y"), 15, "normal")
    table = RNG.normal(size=(15, 4)).astype(np.float32)
    resize = vocabulary_resize(table.shape, 0, tokens, "normal")
    assert resize is not None
    new = resize.apply(table)
    assert 0 < np.abs(new[15] - new[16]).max() < 1e-3
    np.testing.assert_allclose(new[15:], np.tile(table.mean(0), (2, 1)), atol=1e-3)
    np.testing.assert_array_equal(new, resize.apply(table))


def test_an_untied_head_and_its_bias_get_new_rows() -> None:
    """A language model's head has the vocabulary as its last axis; padding rows that no token has are dropped."""
    old, new = words("[UNK]", "a", "b"), words("b", "[UNK]", "c")
    tokens = token_map(old, new, 5, "mean")
    for shape, axis in (((4, 5), 1), ((5,), 0)):
        leaf = RNG.normal(size=shape).astype(np.float32)
        resize = vocabulary_resize(shape, axis, tokens, "mean")
        assert resize is not None and "5 to 3 tokens: 2 kept by name, 1 new by mean, 3 dropped" in resize.how
        got, rows = np.moveaxis(resize.apply(leaf), axis, 0), np.moveaxis(leaf, axis, 0)
        assert resize.apply(leaf).shape == resize.shape
        np.testing.assert_allclose(got, np.stack([rows[2], rows[0], rows.mean(0)]), atol=1e-6)
    assert vocabulary_resize((3, 2), 0, token_map(old, old, 3, "mean"), "mean") is None


def test_a_run_on_a_changed_source_is_opened_on_the_changed_one(films, tmp_path: Path) -> None:
    source = tl.load(write_bert(tmp_path / "bert")).with_tokenizer(add=("<person>",), new_rows="pieces")
    settings = tl.train.Settings(learning_rate=1e-3, epochs=1)
    run = tl.adapt(source, films, method=tl.methods.Probe(), settings=settings, directory=tmp_path / "run")
    run.fit()
    opened = tl.open_run(tmp_path / "run")
    assert isinstance(opened.transform, tl.data.TextTransform)
    assert opened.transform.encode(["good <person>"])[0].ids[1:-1] == (4, 18)
    assert opened.params["embed"]["word"]["embedding"].shape == source.leaves[WORD].shape
    changes = source.provenance["changes"]
    with pytest.raises(TransferlabError, match="has changed since this run"):
        tl.load(tmp_path / "bert").with_changes({**changes, "add": ["<other>"]})


def test_a_vits_changes_are_kept_where_they_are_recorded(vit) -> None:
    source = vit.resized(patch_size=8).resized(32, channels=4, channel_mode="zero")
    again = vit.with_changes(json.loads(json.dumps(source.provenance["changes"]))).resized(32)
    assert again.config == source.config and again.transform == source.transform
    np.testing.assert_array_equal(again.leaves[KERNEL].read(), source.leaves[KERNEL].read())

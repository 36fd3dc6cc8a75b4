"""Swin against transformers' and timm's own models, at sizes that windows divide and at those they do not."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.comparison import compare
from support.optional_imports import import_timm
from test_bert_parity import randomised
from test_resnet_parity import channels_first, pixels
from test_vit_parity import gradients_equal

import transferlab as tl
from transferlab import trees
from transferlab.models import ClassifierConfig, SwinConfig
from transferlab.pretrained.families.swin import swin_names
from transferlab.pretrained.names import to_file

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

DEEP = {"embed_dim": 6, "depths": [2, 11, 1], "num_heads": [1, 2, 3], "window_size": 3, "image_size": 48,
        "patch_size": 4}  # fmt: skip
PLAIN = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32, "patch_size": 2,
         "qkv_bias": False, "mlp_ratio": 1.5, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3}  # fmt: skip


near = partial(compare, family="Swin", form="transformers", tolerance=5e-5, floor=0.0)


@pytest.fixture(scope="session")
def timm():
    return import_timm()


@pytest.mark.parametrize(
    ("sizes", "shapes"),
    [(DEEP, [(48, 48), (46, 61)]), (PLAIN, [(32, 32), (35, 50)])],
    ids=["fourteen blocks", "no qkv bias, tanh gelu"],
)
def test_hidden_states_and_logits_equal_transformers(sizes: dict, shapes: list, tmp_path: Path) -> None:
    config = transformers.SwinConfig(**sizes, id2label={0: "cat", 1: "dog", 2: "cow"})
    made = randomised(transformers.SwinForImageClassification(config))
    made.save_pretrained(tmp_path)
    source = tl.load(tmp_path)
    for shape in shapes:
        given = pixels(*shape)
        want, got = made.swin(channels_first(given)), source({"pixel_values": given})
        near(got["hidden"].reshape(2, -1, got["hidden"].shape[-1]), want.last_hidden_state, what="hidden")
        near(got["pooled"], want.pooler_output, what="pooled")
        near(got["logits"], made(channels_first(given)).logits)
    assert source.labels == ("cat", "dog", "cow")


def test_written_here_is_read_by_transformers(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    made = randomised(transformers.SwinForImageClassification(transformers.SwinConfig(**DEEP)))
    made.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), pixels(48, 48)
    tensors = to_file(swin_names(source.config, "hf"), {path: leaf.read() for path, leaf in source.leaves.items()})
    tensors = {key if key.startswith("classifier") else f"swin.{key}": value for key, value in tensors.items()}
    old = load_file(str(tmp_path / "model.safetensors"))
    assert tensors.keys() == old.keys()
    save_file(tensors, str(tmp_path / "model.safetensors"), metadata={"format": "pt"})
    again = transformers.SwinForImageClassification.from_pretrained(tmp_path).eval()
    near(again(channels_first(given)).logits, source({"pixel_values": given})["logits"], way="written")


def test_gradients_of_every_parameter_equal_transformers(tmp_path: Path) -> None:
    made = randomised(transformers.SwinForImageClassification(transformers.SwinConfig(**DEEP, num_labels=2)))
    made.save_pretrained(tmp_path)
    made.folder = tmp_path
    given = pixels(46, 48)
    gradients_equal(tl.load(tmp_path), given, made, made(channels_first(given)).logits, "Swin", "transformers")


SMALL = {"img_size": 56, "embed_dim": 12, "depths": (2, 2, 2), "num_heads": (1, 2, 3)}
TIMM = {
    "windows larger than the last map": SMALL,
    "windows that do not divide": {**SMALL, "window_size": 4},
    "windows of each stage": {**SMALL, "window_size": (7, 3, 2)},
    "odd maps": {**SMALL, "img_size": 60, "window_size": 5},
}  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_directory_equals_timms_logits(name: str, timm, tmp_path: Path) -> None:
    arguments = TIMM[name]
    made = randomised(timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **arguments))
    timm.models.save_for_hf(made, tmp_path, safe_serialization=True, model_args=arguments)
    source, given = tl.load(tmp_path), pixels(arguments["img_size"], arguments["img_size"])
    got = source({"pixel_values": given})
    near(got["hidden"], made.forward_features(channels_first(given)), what="hidden", form="timm")
    near(got["logits"], made(channels_first(given)), form="timm")


def test_a_larger_image_equals_timms_logits_with_the_same_windows(timm, tmp_path: Path) -> None:
    arguments = {**SMALL, "window_size": 3, "dynamic_img_size": True}
    made = randomised(timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **arguments))
    timm.models.save_for_hf(made, tmp_path, safe_serialization=True, model_args=arguments)
    source, given = tl.load(tmp_path).resized(100), pixels(100, 76)
    near(source({"pixel_values": given})["logits"], made(channels_first(given)), form="timm")


@pytest.mark.parametrize(
    "name",
    ["swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224", "swin_base_patch4_window7_224",
     "swin_large_patch4_window7_224"],
)  # fmt: skip
def test_a_named_size_has_timms_keys_and_shapes(name: str, timm) -> None:
    with torch.device("meta"):
        made = timm.create_model(name, num_classes=3, weight_init="skip")
    want = {key: tuple(tensor.shape) for key, tensor in made.state_dict().items()}
    config = getattr(SwinConfig, name.split("_")[1])()
    shapes = trees.flatten(trees.define(config.build(ClassifierConfig(("a", "b", "c")))).params)
    leaves = {path: np.empty(leaf.shape, np.bool_) for path, leaf in shapes.items()}
    assert {key: tensor.shape for key, tensor in to_file(swin_names(config, "timm"), leaves).items()} == want

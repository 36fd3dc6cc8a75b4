"""Convolutional networks and Swin that came in another dialect, written for transformers and loaded by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.comparison import compare
from support.typed import as_image
from test_resnet_parity import channels_first, pixels

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models import (
    BitConfig,
    ClassifierConfig,
    ConvNeXtConfig,
    MobileNetV2Config,
    ResNetConfig,
    SwinConfig,
)
from transferlab.pretrained.families.bit import BIT, bit_names
from transferlab.pretrained.families.convnext import convnext_names
from transferlab.pretrained.families.mobilenet import mobilenet_names
from transferlab.pretrained.families.resnet import RESNET, resnet_names
from transferlab.pretrained.families.swin import SWIN, swin_names
from transferlab.pretrained.names import to_file

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

NEXT = ConvNeXtConfig(hidden_sizes=(4, 6), depths=(1, 1), layer_scale_init_value=0.3)
CASES = {
    "resnet": (ResNetConfig(embedding_size=4, hidden_sizes=(8, 12), depths=(2, 1)), resnet_names, "torchvision"),
    "mobilenet": (MobileNetV2Config(0.35, eps=1e-2), mobilenet_names, "torchvision"),
    "convnext": (NEXT, convnext_names, "authors"),
    "convnext v2": (replace(NEXT.v2(), layer_norm_eps=1e-3, conv_mlp=True), convnext_names, "timm"),
    "bit": (BitConfig(embedding_size=8, hidden_sizes=(16, 32), depths=(1, 2), num_groups=4), bit_names, "authors"),
    "swin": (
        SwinConfig(embed_dim=4, depths=(2, 1), num_heads=(1, 2), window_sizes=(3, 3), image_size=48), swin_names, "timm",
    ),
}  # fmt: skip


ROWS = {
    "resnet": ("ResNet", "torch file"), "mobilenet": ("MobileNetV2", "torch file"), "convnext": ("ConvNeXt", "torch file"),
    "convnext v2": ("ConvNeXt V2", "timm"), "bit": ("BiT", "authors' npz"), "swin": ("Swin", "timm"),
}  # fmt: skip
"""Family and form of each case, in the parity table."""


def source_of(case: str, folder: Path, **changes):
    from safetensors.numpy import save_file

    config, names, dialect = CASES[case]
    config = replace(config, **changes)
    definition, rng = trees.define(config.build(ClassifierConfig(("0", "1")))), np.random.default_rng(0)
    leaves = {}
    for path, leaf in {**trees.flatten(definition.params), **trees.flatten(definition.state)}.items():
        values = rng.normal(0, 0.3, leaf.shape).astype(np.float32)
        leaves[path] = np.abs(values) + 0.5 if path.endswith(("var", "scale")) else values
    save_file(to_file(names(config, dialect), leaves), str(folder / "model.safetensors"))
    return tl.load(folder / "model.safetensors", config=config)


@pytest.mark.parametrize("case", CASES)
def test_transformers_has_the_same_outputs_from_the_written_file(case: str, tmp_path: Path) -> None:
    source, given = source_of(case, tmp_path), pixels(48, 48)
    tl.save(source, tmp_path / "hf", format="hf")
    made = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "hf").eval()
    want = source({"pixel_values": given})["logits"]
    family, form = ROWS[case]
    compare(
        made(channels_first(given)).logits, want, family=family, form=form, way="written", tolerance=5e-5, floor=0.0
    )
    again = tl.load(tmp_path / "hf")
    largest = float(np.abs(want).max())
    np.testing.assert_allclose(again({"pixel_values": given})["logits"], want, atol=5e-5 * largest, rtol=0)
    image = np.random.default_rng(1).integers(0, 256, (61, 80, 3), np.uint8)
    np.testing.assert_array_equal(as_image(again.transform)(image), as_image(source.transform)(image))


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("resnet", {"groups": 2}, "cannot have groups 2"),
        ("mobilenet", {"depth_multiplier": 0.25}, "cannot have depth_multiplier 0.25"),
        ("convnext", {"kernel_size": 5}, "cannot have kernel_size 5"),
        ("convnext v2", {"layer_scale_init_value": 0.1}, "convnextv2 cannot have layer_scale_init_value 0.1"),
        ("swin", {"window_sizes": (3, 2)}, r"window_sizes \(3, 2\), only equal ones"),
        ("swin", {"image_size": 32}, "pad_first False where window_sizes"),
    ],
)
def test_a_model_that_transformers_cannot_represent_is_not_written(
    case: str, changes: dict, message: str, tmp_path: Path
) -> None:
    source = source_of(case, tmp_path, **changes)
    with pytest.raises(TransferlabError, match=message):
        tl.save(source, tmp_path / "hf", format="hf")


def test_published_sizes_come_back_the_same() -> None:
    assert RESNET.to_hf is not None and SWIN.to_hf is not None and BIT.to_hf is not None
    assert RESNET.from_hf(RESNET.to_hf(ResNetConfig.resnet50(), None)[0]) == ResNetConfig.resnet50()
    assert SWIN.from_hf(SWIN.to_hf(SwinConfig.tiny(), None)[0]) == replace(SwinConfig.tiny(), pad_first=True)
    assert BIT.from_hf(BIT.to_hf(BitConfig.r50x1().wide(3), None)[0]).widths == (768, 1536, 3072, 6144)

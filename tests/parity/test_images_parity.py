"""What a model sees of an image, against transformers' processors, timm's ``create_transform`` and open_clip's.

Images smaller than the input in one side and in both, of odd sizes and extreme proportions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import torchvision_on_pillow
from support.comparison import compare
from support.optional_imports import import_open_clip, import_timm

from transferlab.data.images import ImageTransform, read_image
from transferlab.models import ClipConfig
from transferlab.pretrained.families.clip import open_clip_transform
from transferlab.pretrained.preprocessing import read_preprocessor, to_preprocessor
from transferlab.pretrained.timm import TimmConfig

transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

SHAPES = ((47, 61), (80, 41), (30, 30), (29, 31), (12, 19), (61, 20), (20, 61), (3, 160), (200, 7), (1, 1))
SIDE = {"height": 30, "width": 30}

PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "squashed": ("ViT", {"size": SIDE}),
    "a number is a square": ("ViT", {"size": 30}),
    "two numbers": ("ViT", {"size": [30, 30]}),
    "a crop_size that is not used": ("ViT", {"size": 30, "crop_size": 20}),
    "squashed, then cut": ("DeiT", {"size": {"height": 34, "width": 34}, "crop_size": SIDE}),
    "squashed, then half a pixel cut": ("DeiT", {"size": 35, "crop_size": 30}),
    "shorter side": ("CLIP", {"size": {"shortest_edge": 30}, "crop_size": 30}),
    "shorter side, then cut": ("Bit", {"size": {"shortest_edge": 37}, "crop_size": SIDE}),
    "a number is the shorter side": ("CLIP", {"size": 33, "crop_size": 30}),
    "a number is MobileNet's shorter side": ("MobileNetV2", {"size": 33, "crop_size": 30}),
    "CLIP's processor without cutting": ("CLIP", {"size": SIDE, "do_center_crop": False}),
    "cut larger than the image": ("CLIP", {"size": {"shortest_edge": 23}, "crop_size": 30}),
    "cut larger than the squashed image": ("DeiT", {"size": 25, "crop_size": 30}),
    "a quotient just below": ("Bit", {"size": {"shortest_edge": 53}, "crop_size": 40}),
    **{f"resample {n}": ("CLIP", {"size": 33, "crop_size": 30, "resample": n}) for n in range(6)},
    "no rescaling": ("ViT", {"size": 30, "do_rescale": False}),
    "no normalising": ("ViT", {"size": 30, "do_normalize": False}),
    "neither": ("ViT", {"size": 30, "do_normalize": False, "do_rescale": False}),
    "another factor": ("Siglip", {"size": SIDE, "rescale_factor": 1 / 127.5}),
    "ConvNeXt's": ("ConvNext", {"size": {"shortest_edge": 30}}),
    "ConvNeXt's, a number": ("ConvNext", {"size": 30, "crop_pct": 0.9}),
    "ConvNeXt's, nothing cut": ("ConvNext", {"size": {"shortest_edge": 30}, "crop_pct": 1.0}),
    "ConvNeXt's, large": ("ConvNext", {"size": {"shortest_edge": 384}, "crop_pct": 0.9}),
    **{
        f"{kind}'s defaults": (kind, {}) for kind in ("ViT", "DeiT", "CLIP", "Bit", "Siglip", "ConvNext", "MobileNetV2")
    },
}


def image(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)


def few(name: str) -> tuple[tuple[int, int], ...]:
    """Large inputs are compared for some shapes: an image of 3 × 160 is 20 000 pixels long there."""
    return SHAPES[:7] if "defaults" in name or "large" in name else SHAPES


@pytest.mark.parametrize("name", PROCESSORS)
def test_an_image_is_framed_as_by_transformers(name: str, tmp_path: Path) -> None:
    kind, settings = PROCESSORS[name]
    raw = {"image_processor_type": f"{kind}ImageProcessor", **settings}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(raw))
    transform, processor = read_preprocessor(tmp_path), getattr(transformers, f"{kind}ImageProcessorPil")(**settings)
    assert transform is not None
    for shape in few(name):
        want = processor(Image.fromarray(image(shape)), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        compare(transform(image(shape)), want, family="Images", form="transformers", what="input", tolerance=4e-6,
                where=str(shape))  # fmt: skip


def test_a_processor_within_another_file_is_read(tmp_path: Path) -> None:
    raw = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 33}, "crop_size": SIDE}
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": raw, "processor_class": "CLIPProcessor"})
    )
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 20}))
    transform, processor = read_preprocessor(tmp_path), transformers.CLIPImageProcessorPil.from_pretrained(tmp_path)
    assert transform is not None
    want = processor(image((47, 61)), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    compare(transform(image((47, 61))), want, family="Images", form="transformers", what="input", tolerance=4e-6)


@pytest.mark.parametrize("model_type", ["resnet", "convnext", "vit", "mobilenet_v2"])
@pytest.mark.parametrize(
    ("size", "fraction", "fit"), [(30, 0.875, "crop"), (40, 40 / 53, "crop"), (30, 1.0, "squash"), (30, 0.8, "squash")]
)
def test_a_written_processor_frames_alike(
    model_type: str, size: int, fraction: float, fit: Any, tmp_path: Path
) -> None:
    transform = ImageTransform(size, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", fraction, fit)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    for old in ({}, {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.9, "size": 20}):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(to_preprocessor(transform, old)))
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
        for shape in ((47, 61), (12, 19), (61, 20)):
            want = processor(image(shape), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
            compare(transform(image(shape)), want, family="Images", form="transformers", what="input", way="written",
                    tolerance=4e-6)  # fmt: skip


TIMM = {
    **{f"crop_pct {crop_pct}": {"crop_pct": crop_pct} for crop_pct in (None, 0.875, 0.9, 0.95, 1.0, 1.15, 1.3)},
    **{f"squash, crop_pct {crop_pct}": {"crop_pct": crop_pct, "crop_mode": "squash"} for crop_pct in (0.9, 1.0, 1.15)},
    **{kind: {"interpolation": kind} for kind in ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")},
    "odd": {"input_size": [3, 37, 37], "crop_pct": 0.96},
    "odd, larger than the image": {"input_size": [3, 37, 37], "crop_pct": 1.1},
}


@pytest.mark.parametrize("name", TIMM)
def test_an_image_is_framed_as_by_timm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = import_timm()
    data = timm.data
    torchvision_on_pillow.put_in(monkeypatch, data.transforms_factory.transforms, data.transforms.F)
    raw = {"architecture": "vit_tiny_patch16_224", "input_size": [3, 30, 30], **TIMM[name]}
    transform = TimmConfig.read(raw).transform()
    theirs = data.create_transform(**data.resolve_data_config(pretrained_cfg=raw))
    for shape in SHAPES:
        want = theirs(Image.fromarray(image(shape))).permute(1, 2, 0)
        compare(
            transform(image(shape)), want, family="Images", form="timm", what="input", tolerance=4e-6, where=str(shape)
        )


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_an_image_is_framed_as_by_open_clip(mode: str, interpolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import_timm()
    import_open_clip()
    module = sys.modules["open_clip.transform"]
    torchvision_on_pillow.put_in(monkeypatch, module, module.F)
    given = {"resize_mode": mode, "interpolation": interpolation, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    transform = open_clip_transform({"preprocess_cfg": given}, ClipConfig.b32())
    theirs = module.image_transform(224, is_train=False, **given)
    for shape in SHAPES[:7]:
        want = theirs(Image.fromarray(image(shape))).permute(1, 2, 0)
        compare(transform(image(shape)), want, family="Images", form="open_clip", what="input", tolerance=4e-6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_composited_as_the_processors_of_transformers_do(mode: str, tmp_path: Path) -> None:
    from transformers.image_transforms import convert_to_rgb

    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    image = Image.fromarray(pixels)
    if mode == "P":
        image.convert("RGB").convert("P").save(tmp_path / "a.png", transparency=3)
    else:
        image.convert(mode).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.mode == mode
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), convert_to_rgb(opened, return_numpy=True))

"""EfficientNet-Lite0 against an independent evaluation of the same file, written in torch's functions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.comparison import compare

import transferlab as tl
from transferlab.data.images import ImageTransform

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")


def same(x, kernel: int, stride: int):
    """TensorFlow's SAME padding, the odd pixel at the bottom and on the right."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return torch.nn.functional.pad(x, pads)


def independent(weights: dict, pixels: np.ndarray):
    """The last feature map and the logits."""
    f = torch.nn.functional
    x = torch.tensor(pixels).permute(0, 3, 1, 2)

    def norm(x, key):
        stats = (weights[f"{key}.running_mean"], weights[f"{key}.running_var"])
        return f.batch_norm(x, *stats, weights[f"{key}.weight"], weights[f"{key}.bias"], eps=1e-3)

    x = f.relu6(norm(f.conv2d(same(x, 3, 2), weights["_conv_stem.weight"], stride=2), "_bn0"))
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    for i, stride in enumerate(strides):
        key, y = f"_blocks.{i}", x
        if f"{key}._expand_conv.weight" in weights:
            y = f.relu6(norm(f.conv2d(y, weights[f"{key}._expand_conv.weight"]), f"{key}._bn0"))
        kernel = weights[f"{key}._depthwise_conv.weight"]
        y = f.conv2d(same(y, kernel.shape[-1], stride), kernel, stride=stride, groups=kernel.shape[0])
        y = f.relu6(norm(y, f"{key}._bn1"))
        y = norm(f.conv2d(y, weights[f"{key}._project_conv.weight"]), f"{key}._bn2")
        x = x + y if stride == 1 and x.shape == y.shape else y
    x = f.relu6(norm(f.conv2d(x, weights["_conv_head.weight"]), "_bn1"))
    return x, x.mean((2, 3)) @ weights["_fc.weight"].T + weights["_fc.bias"]


@pytest.mark.network
@pytest.mark.parametrize("shape", [(224, 224), (97, 131), (64, 65)])
def test_logits_equal_an_independent_evaluation_at_odd_sizes(shape: tuple[int, int]) -> None:
    source = tl.load("efficientnet-lite0")
    weights = torch.load(source.provenance["path"], weights_only=True)
    pixels = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    with torch.no_grad():
        features, want = independent(weights, pixels)
    names = {"family": "EfficientNet-Lite (published weights)", "form": "torch file", "tolerance": 1e-4, "floor": 0.0}
    got = source({"pixel_values": pixels})
    compare(got["hidden"].transpose(0, 3, 1, 2), features, what="hidden", **names)
    compare(got["logits"], want, **names)


@pytest.mark.network
@pytest.mark.parametrize(("photo", "label"), [("chelsea", 285), ("coffee", 967)])
def test_real_photos_are_recognised(photo: str, label: int) -> None:
    data = pytest.importorskip("skimage.data", reason="the photos come with scikit-image")
    source = tl.load("efficientnet-lite0")
    assert isinstance(source.transform, ImageTransform)
    # The whole height of the photo. Cut to .875, as timm's config has it, two kinds of cat (282, 285) change places.
    whole = replace(source.transform, crop_fraction=1.0)
    logits = np.asarray(source({"pixel_values": whole(getattr(data, photo)())[None]})["logits"])
    assert logits[0].argmax() == label

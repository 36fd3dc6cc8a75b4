"""What families of images share: preprocessing, and networks whose size of image is only a number of the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transferlab.data.images import ImageTransform
from transferlab.pretrained.names import COUNTER
from transferlab.pretrained.positions import Resize
from transferlab.pretrained.timm import IMAGENET

BATCH_COUNTERS = ((r".*\.num_batches_tracked", COUNTER),)
"""What torch's batch normalisation writes next to its statistics."""


def resized_image(
    config: Any, shapes: Mapping[str, tuple[int, ...]], image_size: int
) -> tuple[Any, dict[str, Resize | None]]:
    """Return the config for another image size, of a network no leaf of which depends on it."""
    return replace(config, image_size=image_size), {}


def torchvision_transform(config: Any) -> ImageTransform:
    """Return preprocessing as torchvision evaluates: the shorter side to size / .875, the center cut out."""
    return ImageTransform(config.image_size, *IMAGENET, "bilinear", 0.875)

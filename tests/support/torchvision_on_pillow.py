"""The parts of torchvision that timm's and open_clip's preprocessing uses, for Pillow's images: for when torchvision is missing.

It was checked once against torchvision 0.28 itself; with that installed, the tests run on torchvision's own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")


class Compose:
    """Steps one after the other."""

    def __init__(self, steps: Sequence[Any]):
        self.steps = steps

    def __call__(self, image: Any) -> Any:
        for step in self.steps:
            image = step(image)
        return image


class Resize:
    """To (height, width), or the shorter side to a number; the longer side is rounded down to an integer."""

    def __init__(self, size: Any, interpolation: Any):
        self.size, self.filter = size, Image.Resampling[interpolation.name]

    def __call__(self, image: Image.Image) -> Image.Image:
        if isinstance(self.size, int):
            short = min(image.size)
            return image.resize(
                (int(self.size * image.width / short), int(self.size * image.height / short)), self.filter
            )
        return image.resize((self.size[1], self.size[0]), self.filter)


class CenterCrop:
    """An image that is smaller gets a black border, with the odd pixel at the right and bottom."""

    def __init__(self, size: Any):
        self.height, self.width = (size, size) if isinstance(size, int) else size

    def __call__(self, image: Image.Image) -> Image.Image:
        border = (max(self.width - image.width, 0), max(self.height - image.height, 0))
        whole = Image.new(image.mode, (image.width + border[0], image.height + border[1]))
        whole.paste(image, (border[0] // 2, border[1] // 2))
        left, top = round((whole.width - self.width) / 2.0), round((whole.height - self.height) / 2.0)
        return whole.crop((left, top, left + self.width, top + self.height))


class Normalize:
    """(values - mean) / std, of each channel."""

    def __init__(self, mean: Any, std: Any):
        self.mean, self.std = (torch.as_tensor(values).reshape(-1, 1, 1) for values in (mean, std))

    def __call__(self, values: Any) -> Any:
        return (values - self.mean) / self.std


def to_tensor(image: Image.Image) -> Any:
    """(channels, height, width), from 0 to 1."""
    return torch.tensor(np.asarray(image)).permute(2, 0, 1).float() / 255


def put_in(monkeypatch: pytest.MonkeyPatch, classes: Any, functions: Any) -> None:
    """Set the classes in one module and ``to_tensor`` in another, if torchvision is not installed."""
    if find_spec("torchvision") is None:
        for kind in (Compose, Resize, CenterCrop, Normalize):
            monkeypatch.setattr(classes, kind.__name__, kind, raising=False)
        monkeypatch.setattr(functions, "to_tensor", to_tensor, raising=False)

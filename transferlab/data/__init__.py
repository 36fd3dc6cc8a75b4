"""Data: TFDS builders, preprocessing that travels with weights, nested subsets of labels, batches of fixed shapes."""

from typing import Any

from transferlab.data.audio import AudioTransform
from transferlab.data.dataset import Dataset
from transferlab.data.images import ImageTransform
from transferlab.data.text import TextTransform
from transferlab.errors import no_attribute

__all__ = ["AudioTransform", "Dataset", "ImageTransform", "TextTransform"]


def __getattr__(name: str) -> Any:
    raise no_attribute(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted(__all__)

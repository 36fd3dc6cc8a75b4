"""Data: TFDS builders, preprocessing that travels with weights, nested subsets of labels, batches of fixed shapes."""

from typing import TYPE_CHECKING

from transferlab.data.arrays import ArrayTransform
from transferlab.data.audio import AudioTransform
from transferlab.data.dataset import Dataset
from transferlab.data.images import ImageTransform
from transferlab.data.text import TextTransform
from transferlab.errors import face_of

__all__ = ["ArrayTransform", "AudioTransform", "Dataset", "ImageTransform", "TextTransform"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face_of(__name__, __all__)

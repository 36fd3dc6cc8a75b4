"""Data: TFDS builders, preprocessing that travels with weights, nested subsets of labels, batches of fixed shapes."""

from transferlab.data.audio import AudioTransform
from transferlab.data.dataset import Dataset
from transferlab.data.images import ImageTransform
from transferlab.data.text import TextTransform

__all__ = ["AudioTransform", "Dataset", "ImageTransform", "TextTransform"]

"""Data: TFDS builders, preprocessing that travels with weights, nested subsets of labels, batches of fixed shapes."""

from transferlab.data.dataset import Dataset
from transferlab.data.images import ImageTransform
from transferlab.data.text import TextTransform

__all__ = ["Dataset", "ImageTransform", "TextTransform"]

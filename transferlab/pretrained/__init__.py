"""Where weights come from and go to: sources, file formats, and the two-way name rules of each family."""

from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.loading import load
from transferlab.pretrained.registry import REGISTRY
from transferlab.pretrained.source import Source

__all__ = ["REGISTRY", "LazyLeaf", "Source", "load"]

"""Where weights come from and go to: sources, file formats, and the two-way name rules of each family."""

from typing import TYPE_CHECKING

from transferlab.errors import face_of
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.loading import load
from transferlab.pretrained.registry import REGISTRY
from transferlab.pretrained.source import Source

__all__ = ["REGISTRY", "Family", "LazyLeaf", "Source", "load"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face_of(__name__, __all__)

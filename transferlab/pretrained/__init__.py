"""Where weights come from and go to: sources, file formats, and the two-way name rules of each family."""

from typing import Any

from transferlab.errors import no_attribute
from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.loading import load
from transferlab.pretrained.registry import REGISTRY
from transferlab.pretrained.source import Source

__all__ = ["REGISTRY", "LazyLeaf", "Source", "load"]


def __getattr__(name: str) -> Any:
    raise no_attribute(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted(__all__)

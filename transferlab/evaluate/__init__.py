"""Evaluation besides training: baselines without pretrained weights, zero-shot classification, and text generation."""

from typing import Any

from transferlab.errors import no_attribute
from transferlab.evaluate.zero_shot import TEMPLATES, ZeroShot

__all__ = ["TEMPLATES", "ZeroShot"]


def __getattr__(name: str) -> Any:
    raise no_attribute(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted(__all__)

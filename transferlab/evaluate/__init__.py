"""Evaluation besides training: baselines without pretrained weights, zero-shot classification, and text generation."""

from typing import TYPE_CHECKING

from transferlab.errors import face_of
from transferlab.evaluate.zero_shot import TEMPLATES, ZeroShot

__all__ = ["TEMPLATES", "ZeroShot"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face_of(__name__, __all__)

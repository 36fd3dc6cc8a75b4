"""Values whose type a test knows more precisely than the signature: checked, then returned with that type."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from transferlab.data.audio import AudioTransform
from transferlab.data.images import ImageTransform
from transferlab.data.text import TextTransform
from transferlab.models.heads import LanguageModelConfig
from transferlab.pretrained.source import Source

T = TypeVar("T")


def found(value: T | None) -> T:
    """Return what is not None."""
    assert value is not None
    return value


def as_text(transform: object) -> TextTransform:
    """Return the transform of a source of texts."""
    assert isinstance(transform, TextTransform)
    return transform


def as_image(transform: object) -> ImageTransform:
    """Return the transform of a source of images."""
    assert isinstance(transform, ImageTransform)
    return transform


def as_audio(transform: object) -> AudioTransform:
    """Return the transform of a source of audio."""
    assert isinstance(transform, AudioTransform)
    return transform


def language_model_of(source: Source) -> LanguageModelConfig:
    """Return the head of a source of a language model."""
    assert isinstance(source.head, LanguageModelConfig)
    return source.head


def savez(path: Path, arrays: dict[str, Any]) -> None:
    """``np.savez`` of arrays under any names."""
    np.savez(path, **arrays)

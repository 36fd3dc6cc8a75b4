"""Values whose type a test knows more precisely than the signature: checked, then returned with that type."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from transferlab.data.audio import AudioTransform
from transferlab.data.images import ImageTransform
from transferlab.data.inputs import TextInputs
from transferlab.data.text import TextTransform
from transferlab.models.heads import ClassifierConfig, LanguageModelConfig
from transferlab.models.nnx_network import NnxNetwork
from transferlab.pretrained.source import Source
from transferlab.train.setup import Setup
from transferlab.transfer.plan import Plan

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


def nnx_network(plan: Plan) -> NnxNetwork:
    """The plan's network, of one of our own models."""
    assert isinstance(plan.network, NnxNetwork)
    return plan.network


def classifier_of(plan: Plan) -> ClassifierConfig:
    """Return the head of a plan for a classifier."""
    assert isinstance(plan.head, ClassifierConfig)
    return plan.head


def text_inputs(run: Setup) -> TextInputs:
    """Return the inputs of a run on texts."""
    assert isinstance(run.feed, TextInputs)
    return run.feed


def savez(path: Path, arrays: dict[str, Any]) -> None:
    """``np.savez`` of arrays under any names."""
    np.savez(path, **arrays)

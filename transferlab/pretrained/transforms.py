"""Preprocessing that comes with a model's directory, for its one transform or for each tower's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from transferlab.data.images import ImageTransform
from transferlab.data.text import TextTransform, read_tokenizer
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.whisper import read_audio
from transferlab.pretrained.preprocessing import read_preprocessor
from transferlab.pretrained.source import Transform
from transferlab.pretrained.timm import TimmConfig


def read_text_transform(directory: Path, family: Family, config: Any, kind: str | None) -> TextTransform | None:
    """Return the tokenizer of a directory, truncating at the model's longest text; None without one."""
    longest = getattr(config, "max_tokens", getattr(config, "max_position_embeddings", 512))
    types = "token_type_ids" in family.inputs
    whole = family.whole_length(config)
    return read_tokenizer(directory, longest, kind=kind or family.model_types[0], types=types, whole_length=whole)


def read_transforms(
    directory: Path, family: Family, config: Any, kind: str | None, timm: TimmConfig | None = None
) -> tuple[Transform | None, dict[str, Transform | None]]:
    """Return the directory's preprocessing, and that of each tower where it has several."""
    if family.modality == "text":
        return read_text_transform(directory, family, config, kind), {}
    if family.modality == "audio":
        return read_audio(directory) or family.transform(config), {}
    if timm is not None:
        return timm.transform(image_channels(family, config)), {}
    images = read_preprocessor(directory, image_channels(family, config)) or family.transform(config)
    if family.modality == "image and text":
        return None, {"vision": images, "text": read_text_transform(directory, family, config, kind)}
    return images, {}


def image_channels(family: Family, config: Any) -> int:
    """Return the channels of the images that the model, or its vision tower, reads."""
    reads = config.towers()["vision"] if family.modality == "image and text" else config
    return getattr(reads, "num_channels", 3)


def with_channels(transform: Transform | None, family: Family, config: Any) -> Transform | None:
    """Return an image transform for as many channels as the model reads; other transforms as they are."""
    if isinstance(transform, ImageTransform):
        return replace(transform, channels=image_channels(family, config))
    return transform

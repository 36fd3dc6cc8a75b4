"""What preprocessing takes, in a few words, as ``print`` shows it."""

from __future__ import annotations

from transferlab.data.arrays import ArrayTransform
from transferlab.data.audio import AudioTransform
from transferlab.data.images import ImageTransform
from transferlab.data.inputs import Transform
from transferlab.data.text import TextTransform


def read_by(transform: Transform | None) -> str:
    """Return ``texts of up to 256 tokens`` and the like; an empty text without preprocessing."""
    match transform:
        case TextTransform():
            return f"texts of up to {transform.max_length:,} tokens"
        case ImageTransform():
            return f"images of {transform.size} × {transform.size} pixels"
        case AudioTransform():
            return f"sounds of up to {transform.seconds:g} s"
        case ArrayTransform():
            return f"arrays of {' × '.join(map(str, transform.shape))} numbers"
    return ""

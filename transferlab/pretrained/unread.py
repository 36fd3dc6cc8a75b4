"""Weights next to those that are read: they are named, so that they are not taken for part of the model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_WEIGHTS = re.compile(
    r"(pytorch_model|model|consolidated|open_clip|tf_model|flax_model).*\.(safetensors|bin|pth|pt|ckpt|gguf|h5|msgpack|npz)"
)
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


def unread_weights(directory: Path, read: Iterable[Path]) -> tuple[tuple[str, str], ...]:
    """Return (file, why it is not read) for each other file of weights in a model's directory.

    Args:
        directory: of the model.
        read: the files that its weights are read from.
    """
    names = [file.name for file in read]
    unread = []
    for file in sorted(directory.iterdir()):
        if file.name in _ADAPTERS:
            reason = (
                f"an adapter, which is not applied: tl.load_adapter('{directory}', tl.load('{directory}')) applies it"
            )
        elif _WEIGHTS.fullmatch(file.name) and file.name not in names:
            chosen = names[0] if len(names) == 1 else f"{names[0]} and its other parts"
            reason = f"other weights than those read, {chosen}: tl.load('{file}', config=source.config) reads them"
        else:
            continue
        unread.append((file.name, reason))
    return tuple(unread)

"""torch's pickled files, read through the restricted unpickler, and their state dicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transferlab.pretrained.formats.ctranslate2 import is_ctranslate2
from transferlab.pretrained.formats.tensors import LazyTensor
from transferlab.unpickle import read_torch_entry


def read_torch_file(path: Path) -> dict[str, LazyTensor]:
    """Read a ``.pth``, ``.pt``, ``.bin`` or ``.ckpt`` (zip or legacy) through the restricted unpickler."""
    return torch_entry(path, None)[0]


def torch_entry(path: Path, entry: str | None) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
    """Return (the tensors of a torch file's state dict, the names of its others); the entry None is the trained model's."""
    tensors, others = read_torch_entry(path, entry)
    lazy = {key: LazyTensor(tuple(t.shape), np.dtype(t.dtype), t.read, str(path)) for key, t in tensors.items()}
    return lazy, others


TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar")
"""Suffixes of the names of torch files."""


def is_torch(path: Path) -> bool:
    """Whether a file is torch's, by its name and, since CTranslate2 has a ``model.bin`` too, its first bytes."""
    return path.name.lower().endswith(TORCH_SUFFIXES) and not is_ctranslate2(path)

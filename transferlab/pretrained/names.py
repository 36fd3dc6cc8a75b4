"""Name rules: one table per family, read in both directions, between a tree's paths and a checkpoint's keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Layout:
    """How a tensor in the file becomes a leaf of the tree, and back. ``name`` is what the plan prints."""

    name: str
    to_tree: Callable[[np.ndarray], np.ndarray]
    to_file: Callable[[np.ndarray], np.ndarray]
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]


SAME = Layout("as is", lambda x: x, lambda x: x, lambda shape: shape)
"""Biases, scales, embedding tables, and kernels that are (in, out) in the file already."""

LINEAR = Layout("transposed", lambda x: x.T, lambda x: x.T, lambda shape: shape[::-1])
"""torch's ``Linear`` (out, in) ↔ kernel (in, out)."""

CONV = Layout(
    "OIHW to HWIO",
    lambda x: x.transpose(2, 3, 1, 0),
    lambda x: x.transpose(3, 2, 0, 1),
    lambda shape: (shape[2], shape[3], shape[1], shape[0]),
)
"""torch's convolution (out, in, height, width) ↔ (height, width, in, out); depthwise: (height, width, 1, out)."""


@dataclass(frozen=True)
class Name:
    """One leaf: its path in the tree, its key in the file (without any prefix), and the layout between them."""

    path: str
    key: str
    layout: Layout = SAME


@dataclass(frozen=True)
class Names:
    """A family's table for one config.

    Attributes:
        names: one entry per leaf of the model, head included.
        prefixes: what may stand before every key (``bert.``), longest first; the empty prefix is always tried.
        renames: pairs (suffix in old files, suffix today), as ``LayerNorm.gamma`` → ``LayerNorm.weight``.
        ignored: pairs (regular expression over whole keys, reason): what a file may hold beside the model.
    """

    names: tuple[Name, ...]
    prefixes: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()

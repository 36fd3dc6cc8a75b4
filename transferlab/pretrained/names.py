"""Name rules: one table per family, read in both directions, between a tree's paths and a checkpoint's keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from transferlab.errors import TransferlabError
from transferlab.models.heads import (
    ClassifierConfig,
    EmbeddingConfig,
    HeadConfig,
    LanguageModelConfig,
    MaskedLanguageModelConfig,
    TokenClassifierConfig,
)


@dataclass(frozen=True)
class Layout:
    """How a tensor in the file becomes a leaf of the tree, and back.

    Attributes:
        name: what the plan prints.
        to_tree: the file's tensor → the leaf.
        to_file: the leaf → the file's tensor, or its part of that where ``part`` says so.
        shape: shape in the file → shape in the tree.
        part: (n, of) where the file fuses ``of`` leaves and this is the n-th, from 0.
        axis: of the file's tensor, along which the leaves are fused.
    """

    name: str
    to_tree: Callable[[np.ndarray], np.ndarray]
    to_file: Callable[[np.ndarray], np.ndarray]
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    part: tuple[int, int] = (0, 1)
    axis: int = 0


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

CONV1D = Layout("OIW to WIO", lambda x: x.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0), lambda shape: shape[::-1])
"""torch's 1-D convolution (out, in, width) ↔ (width, in, out)."""

POINTWISE = Layout(
    "OI11 to IO",
    lambda x: x[:, :, 0, 0].T,
    lambda x: np.ascontiguousarray(x.T)[:, :, None, None],
    lambda shape: (shape[1], shape[0]),
)
"""torch's 1×1 convolution (out, in, 1, 1) ↔ kernel (in, out)."""


@cache
def fused(layout: Layout, n: int, of: int, axis: int = 0) -> Layout:
    """Return the layout of the n-th of ``of`` leaves that the file fuses along an axis, as q, k, v are."""

    def part(length: int) -> slice:
        # A length that is not divisible gives parts of unequal length, of which one does not have its leaf's shape.
        return slice(n * length // of, (n + 1) * length // of)

    def shape(whole: tuple[int, ...]) -> tuple[int, ...]:
        if axis >= len(whole):
            return layout.shape(whole)
        return layout.shape((*whole[:axis], len(range(whole[axis])[part(whole[axis])]), *whole[axis + 1 :]))

    return Layout(
        f"part {n + 1} of {of}, {layout.name}",
        lambda x: layout.to_tree(x[(slice(None),) * axis + (part(x.shape[axis]),)]),
        layout.to_file,
        shape,
        (n, of),
        axis,
    )


def squeezed(axes: int) -> Layout:
    """Return the layout of a leaf that the file holds with ``axes`` leading axes of length 1 (tokens, positions)."""
    return Layout(
        f"without {axes} leading axes of 1" if axes > 1 else "without its leading axis of 1",
        lambda x: x.reshape(x.shape[axes:]),
        lambda x: x.reshape((1,) * axes + x.shape),
        lambda shape: shape[axes:] if shape[:axes] == (1,) * axes else shape,
    )


BUFFER = "a constant buffer, not a parameter"
OTHER_TASK = "the head of another task than classifying texts"
PRETRAINING_HEAD = "the pre-training head, not part of the encoder"
MASK_TOKEN = "for masked pre-training, not part of the encoder"
COUNTER = "a counter, not a parameter"
"""Why a key that a file may hold besides the model is left unread."""


@dataclass(frozen=True)
class Entry:
    """One leaf: its path in the tree, its key in the file (without any prefix), and the layout between them."""

    path: str
    key: str
    layout: Layout = SAME


@dataclass(frozen=True)
class NameTable:
    """A family's table for one config.

    Attributes:
        names: one entry per leaf of the model, head included.
        prefixes: that every key may have (``bert.``), longest first; the empty prefix is always tried.
        renames: pairs (suffix in old files, suffix today), as ``LayerNorm.gamma`` → ``LayerNorm.weight``.
        ignored: pairs (regular expression over whole keys, reason): what a file may hold besides the model.
        copies: pairs (regular expression over whole keys, path of a leaf): a copy of that leaf that a file may hold, if it is equal.
        language_model: the head of the files that follow this table, where it predicts tokens.
        tokens: whether their head classifies each token.
    """

    names: tuple[Entry, ...]
    prefixes: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    language_model: LanguageModelConfig | MaskedLanguageModelConfig | None = None
    tokens: bool = False

    def holds(self, head: HeadConfig) -> bool:
        """Whether files that follow this table hold this kind of head."""
        if isinstance(head, (ClassifierConfig, EmbeddingConfig)):
            return self.language_model is None and not self.tokens
        if isinstance(head, TokenClassifierConfig):
            return self.tokens
        model = self.language_model
        return model is not None and type(model) is type(head) and model.tied == getattr(head, "tied", None)


def token_names(names: NameTable, key: str, hidden: bool = False, prefix: str = "") -> NameTable:
    """Return the table of files with the same backbone and a classifier of tokens.

    Args:
        names: of files with another head, or with none.
        key: of that classifier; empty where the reference implementation has none.
        hidden: whether it has the hidden layer of ``names``.
        prefix: that all other keys have in such files alone.
    """
    last = ("head/kernel", "head/bias")
    own = tuple(one for one in names.names if not one.path.startswith("head/") or (hidden and one.path not in last))
    if key:
        own += (Entry(last[0], f"{key}.weight", LINEAR), Entry(last[1], f"{key}.bias"))
    prefixes = (prefix,) if prefix else names.prefixes
    return replace(names, names=own, prefixes=prefixes, language_model=None, tokens=True)


def with_prefix(names: NameTable, prefix: str, but: tuple[str, ...] = ()) -> NameTable:
    """Return the table whose keys carry this prefix, except those of paths that begin with one of ``but``."""
    moved = (name if name.path.startswith(but) else replace(name, key=prefix + name.key) for name in names.names)
    return replace(names, names=tuple(moved))


def to_file(names: NameTable, leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ``{key: tensor}`` as the file holds these leaves, fused tensors whole; the keys carry no prefix.

    Raises:
        TransferlabError: some of the leaves that a tensor fuses are missing; the path is named.
    """
    pieces: dict[str, list[np.ndarray]] = {}
    for key, parts in entries_by_key(names).items():
        entries = [name for name in parts if name.path in leaves]
        if entries and len(entries) < len(parts):
            missing = next(name.path for name in parts if name.path not in leaves)
            raise TransferlabError(
                f"Key '{key}' cannot be written: it fuses '{missing}', which is not among the leaves."
            )
        if entries:
            pieces[key] = [name.layout.to_file(np.asarray(leaves[name.path])) for name in entries]
    axes = {name.key: name.layout.axis for name in names.names}
    return {
        # Not ascontiguousarray, which gives a scalar an axis.
        key: np.asarray(np.concatenate(p, axes[key]) if len(p) > 1 else p[0], order="C")
        for key, p in pieces.items()
    }


def entries_by_key(names: NameTable) -> dict[str, tuple[Entry, ...]]:
    """Return ``{key: the leaves it fills}``, the parts of a fused tensor in their order."""
    table: dict[str, list[Entry]] = {}
    for name in names.names:
        table.setdefault(name.key, []).append(name)
    return {key: tuple(sorted(group, key=lambda name: name.layout.part)) for key, group in table.items()}

"""What a model can be written as, and why not as something else: the same answer for plans, before it trains, and for writers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from transferlab import trees
from transferlab.data.text import TextTransform
from transferlab.errors import TransferlabError, Unwritable
from transferlab.models.heads import ClassifierConfig, EmbeddingConfig, HeadConfig
from transferlab.pretrained.auxiliary_files import new_head, padding_token, tokenizer_settings
from transferlab.pretrained.classifiers import with_reference_layers
from transferlab.pretrained.conversion import converted, native, own_format
from transferlab.pretrained.dense_heads import as_encoder, check_vectors
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.formats.tensors import LazyTensor
from transferlab.pretrained.peft import adapter_names
from transferlab.pretrained.source import Source

SENTENCES = "sentence-transformers"
FORMATS = ("hf", "timm", SENTENCES, "orbax")
"""What can be written: a directory of Hugging Face (safetensors), of timm, of sentence-transformers (with a classifier as ``Dense``), or
an Orbax checkpoint with readable paths."""

READERS = {"hf": "transformers", "timm": "timm", SENTENCES: SENTENCES, "peft": "PEFT", "orbax": "Orbax"}
"""Formats by their names, and whose they are, for people."""


@dataclass(frozen=True)
class Export:
    """Whether a model can be written in a format.

    Attributes:
        format: one of :data:`FORMATS`, or ``peft`` for its adapters with the head.
        reason: why it cannot, a clause; empty where it can.
        change: what to change so that it can; empty where it can, or where nothing helps.
    """

    format: str
    reason: str = ""
    change: str = ""

    @property
    def possible(self) -> bool:
        """Whether it can."""
        return not self.reason


def exports(source: Source, head: HeadConfig, adapted: Sequence[str] = ()) -> tuple[Export, ...]:
    """Return what a run on this source can be written as, before it has trained: each format that is made for such models.

    It does what the writers do, without values: where it says yes they write, and where it says no they raise the same.

    Args:
        source: that trains.
        head: that it gets.
        adapted: paths of the kernels with an adapter.

    Example:
        >>> [export.format for export in exports(source, head) if export.possible]
        ['sentence-transformers', 'orbax']
    """
    key = ("exports", head, tuple(adapted))
    if key not in source.plans:
        model = _untrained(source, head)
        found = [_tried(kind, partial(check_writable, model, kind)) for kind in _kinds(model)]
        if adapted:
            found.append(_tried("peft", partial(adapter_names, model, adapted)))
        source.plans[key] = (*found, Export("orbax"))
    return source.plans[key]


def exports_sentence(found: Sequence[Export]) -> str:
    """Return this for people, in a line: ``can be exported for sentence-transformers and Orbax, not for transformers: …``."""
    able = [READERS[export.format] for export in found if export.possible]
    reasons: dict[tuple[str, str], list[str]] = {}
    for export in found:
        if not export.possible:
            reasons.setdefault((export.reason, export.change), []).append(READERS[export.format])
    clauses = [
        f"not for {' or '.join(names)}: {reason}{f' ({change})' if change else ''}"
        for (reason, change), names in reasons.items()
    ]
    return "; ".join([f"can be exported for {_list(able)}", *clauses])


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def default_format(source: Source) -> str:
    """Return the format that a source came in; sentence-transformers' for a classifier of texts that fits that alone."""
    own = own_format(source)
    classifies = isinstance(source.head, ClassifierConfig) and source.modality == "text"
    if own != "hf" or not classifies or _tried(own, partial(check_writable, source, own)).possible:
        return own
    return SENTENCES if _tried(SENTENCES, partial(check_writable, source, SENTENCES)).possible else own


def check_writable(source: Source, kind: str) -> None:
    """Check that a format can hold this model, without reading a value.

    Raises:
        Unwritable: what it cannot hold.
        TransferlabError: something else for which its writer refuses the model.
    """
    if kind == "orbax":
        return
    held = as_held(source, kind)
    described(held, kind)
    if (apart := pads(held, kind)) is not None:
        padding_token(held, tokenizer_settings(held), apart=apart)


def as_held(source: Source, kind: str) -> Source:
    """Return the source as files of this format hold it: with the layers of the reference class, or the encoder alone.

    Raises:
        Unwritable: it cannot be held so.
    """
    if kind == SENTENCES:
        return as_encoder(source)
    if kind == "hf" and isinstance(source.head, EmbeddingConfig) and isinstance(source.transform, TextTransform):
        check_vectors(source, source.head.pooling)
    return with_reference_layers(source) if kind != "orbax" and new_head(source) else source


def described(
    source: Source, kind: str, sized: bool = False, dtype: str | None = None
) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """Return (config.json, tensors) of a source as :func:`as_held` returns it; see :func:`transferlab.pretrained.conversion.native`.

    Raises:
        Unwritable: the format cannot hold it.
    """
    dialect = "hf" if kind == SENTENCES else kind
    if dialect == own_format(source) and source.raw is not None:
        return native(source, dialect, sized, dtype)
    return converted(source, dialect)


def pads(source: Source, kind: str) -> bool | None:
    """Whether what is written needs the name of a padding token: None, or whether it must differ from the one that ends a text."""
    head = source.head
    if not isinstance(source.transform, TextTransform) or head is None:
        return None
    if kind == "hf" and head.pooling == "last" and new_head(source):
        return True
    # Tokenizers of decoders often name none, and the reader of vectors pads its batches.
    vectors = isinstance(head, EmbeddingConfig) and FAMILIES[source.family].head_pooling(source.config) == "last"
    return False if vectors else None


def _kinds(source: Source) -> tuple[str, ...]:
    """Formats that are made for such models, ``orbax`` aside."""
    own, family = own_format(source), FAMILIES[source.family]
    if source.modality == "text":
        vectors = isinstance(source.head, ClassifierConfig | EmbeddingConfig)
        return (own, *[SENTENCES] * vectors)
    other = {"timm": family.to_hf is not None, "hf": family.to_timm is not None}
    return (own, *["hf" if own == "timm" else "timm"] * other[own])


def _tried(kind: str, check: Callable[[], object]) -> Export:
    try:
        check()
    except Unwritable as error:
        return Export(kind, error.reason, error.change)
    except TransferlabError as error:
        return Export(kind, str(error).partition(". ")[0].removesuffix("."))
    return Export(kind)


def _untrained(source: Source, head: HeadConfig) -> Source:
    """The source with this head, whose values are zeros that take no memory."""
    shapes = trees.flatten(trees.define(source.config.build(head)).params)
    zeros = {
        path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in shapes.items() if path.startswith("head/")
    }
    return source.with_params(trees.unflatten(zeros), head=head)

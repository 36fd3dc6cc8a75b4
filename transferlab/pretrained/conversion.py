"""``config.json`` and the tensors that a source is written as: in the dialect it came in, or in another."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from transferlab.errors import TransferlabError, Unwritable
from transferlab.models.heads import (
    ClassifierConfig,
    EmbeddingConfig,
    LanguageModelConfig,
    MaskedLanguageModelConfig,
    TokenClassifierConfig,
)
from transferlab.pretrained.auxiliary_files import changed_tokenizer, set_sizes
from transferlab.pretrained.classifiers import NO_POOLER, check_head, labels_of, set_head, written_labels
from transferlab.pretrained.config_checks import classifies_tokens
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.formats.safetensors import safetensors_metadata
from transferlab.pretrained.formats.tensors import LazyTensor, check_finite, narrowed
from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.names import Entry, NameTable, entries_by_key
from transferlab.pretrained.source import Source


def native(
    source: Source, kind: str, sized: bool, dtype: str | None = None
) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """Return (config.json, tensors) in the source's own dialect: what was not changed is written as it is in the file.

    ``sized`` says whether images are read in another size than the file's own settings say; if not, what the file holds
    for another size stays, as the reference implementation resizes it too. ``dtype`` is that of what was changed, by
    default its file's.

    Raises:
        TransferlabError: a leaf has no key in such files; it is named.
    """
    assert source.raw is not None and source.names is not None
    raw: dict[str, Any] = json.loads(json.dumps(source.raw))
    by_path = {name.path: name for name in source.names.names}
    groups: dict[str, list[tuple[Entry, LazyLeaf]]] = {}
    for path, leaf in source.leaves.items():
        if path not in by_path:
            raise Unwritable(
                f"'{path}' has no key in {source.family}'s files: the reference model has no such head. Keep the model as it "
                "is: tl.save(source, directory, format='orbax').",
                f"the reference model's files have no '{path}'",
            )
        groups.setdefault(leaf.key, []).append((by_path[path], leaf))
    changed_inputs = sized or changed_tokenizer(source)
    stale = _stale(source)
    out, resized = {key: tensor for key, tensor in source.tensors.items() if key not in stale}, False
    for key, parts in groups.items():
        own = source.tensors.get(key)
        as_read = all(leaf.tensor is own and not (changed_inputs and leaf.resize) for _, leaf in parts)
        if own is not None and as_read:
            out[key] = replace(own, read=partial(_finite, own, key))
            continue
        usual = own.dtype if own is not None else _usual_dtype(source) or parts[0][1].dtype
        out[key] = _joined(parts, usual if dtype is None else np.dtype(dtype))
        resized |= own is not None and out[key].shape != own.shape and not parts[0][0].path.startswith("head/")
    if changed_inputs or resized or not source.tensors:
        set_sizes(raw, source)
    head_keys = {key for key, parts in groups.items() if parts[0][0].path.startswith("head/")}
    # The head of another task can have the same key as this one.
    unused = {key for key, _ in source.unused}
    # The file's own head, where another took its place.
    lost = {key for key in out if key not in groups and key not in unused}
    out = {key: tensor for key, tensor in out.items() if key not in lost}
    added = bool(lost) or any(key not in source.tensors or key in unused for key in head_keys)
    if added:
        out = _prefixed(out, source, raw, head_keys)
    head = source.head
    if isinstance(head, EmbeddingConfig):
        # The head that the file had belonged to another model.
        own = {leaf.key for leaf in source.leaves.values()}
        out = {key: tensor for key, tensor in out.items() if key in own}
        if (writer := FAMILIES[source.family].to_hf) is not None and "architectures" in raw:
            raw["architectures"] = writer(source.config, None)[0]["architectures"]
    if isinstance(head, LanguageModelConfig) and added:
        # A tied head was separated from its table.
        raw["tie_word_embeddings"] = head.tied
        if hasattr(source.config, "scale_decoder_outputs"):
            raw["scale_decoder_outputs"] = source.config.scale_decoder_outputs
    if isinstance(head, MaskedLanguageModelConfig) and added:
        raw |= masked_architecture(source, raw)
    if isinstance(head, (ClassifierConfig, TokenClassifierConfig)) and (
        added
        or head.labels != written_labels(raw, head)
        or (kind == "hf" and classifies_tokens(raw) != isinstance(head, TokenClassifierConfig))
    ):
        set_head(raw, source, kind)
    return raw, out


def _stale(source: Source) -> set[str]:
    """Keys of the source's files next to the model's own that became wrong by what was changed in the model."""
    stale = {key for key, why in source.unused if why == NO_POOLER}
    copies = () if source.names is None else source.names.copies
    trained = {path for path, leaf in source.leaves.items() if leaf.trained}
    stale |= {key for key, _ in source.unused if any(p in trained and re.fullmatch(k, key) for k, p in copies)}
    table = source.leaves.get(source.table)
    if table is None or source.names is None or not (table.trained or changed_tokenizer(source)):
        return stale
    # Copies of the table, and heads of other tasks with a row for each token of it.
    rows = table.layout.shape(source.tensors[table.key].shape)[0] if table.key in source.tensors else table.shape[0]
    heads = {name.key for names in source.dialect() for name in names.names if name.path == "head/kernel"}
    # Other files and state dicts are named among the unused too; they are not tensors.
    for key in (key for key, _ in source.unused if key in source.tensors):
        copies = any(re.fullmatch(pattern, key) for pattern, path in source.names.copies if path == source.table)
        regrown = changed_tokenizer(source) and source.tensors[key].shape[:1] == (rows,)
        stale |= {key} if copies or regrown or (source.tied and key in heads) else set()
    return stale


def masked_architecture(source: Source, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of ``config.json`` that say that there is the head of a masked language model."""
    writer = FAMILIES[source.family].to_hf
    assert writer is not None
    own = writer(source.config, source.head)[0]["architectures"]
    # XLM-R and CamemBERT are of the family RoBERTa, and have classes of their own.
    name = re.sub(r"(Model|For[A-Z]\w*)$", "", (raw.get("architectures") or own)[0])
    return {"architectures": [f"{name}ForMaskedLM"], "tie_word_embeddings": True}


def own_format(source: Source) -> str:
    """Return the format that a source came in; for a bare file, one that its family is written as."""
    if source.raw is not None:
        return "hf" if "model_type" in source.raw else "timm"
    family = FAMILIES[source.family]
    return "timm" if family.to_hf is None and family.to_timm is not None else "hf"


def converted(source: Source, kind: str) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """Return (config.json, tensors) in a dialect that the source was not read in.

    Raises:
        TransferlabError: the family, its head or a leaf cannot be written in this dialect.
    """
    family = FAMILIES[source.family]
    writers = {one.name: one.to_hf if kind == "hf" else one.to_timm for one in FAMILIES.values()}
    if writers[family.name] is None:
        able = ", ".join(name for name, writer in writers.items() if writer is not None)
        raise Unwritable(
            f"format '{kind}' cannot be written for {family.name}, only for {able}. Keep the model as it is: "
            "tl.save(source, directory, format='orbax').",
            f"{family.name} is not written so",
        )
    if kind == "timm":
        assert family.to_timm is not None
        timm, names = family.to_timm(source.config)
        if source.labels:
            check_head(source, source.config)
        return timm.written(source.image_transform, source.labels), _by_names(source, names)
    assert family.to_hf is not None
    raw, names = family.to_hf(source.config, source.head)
    if source.labels:
        raw |= labels_of(source)
        check_head(source, family.from_hf(raw))
    return raw, _by_names(source, names)


def _by_names(source: Source, names: NameTable) -> dict[str, LazyTensor]:
    out = {}
    for key, parts in entries_by_key(names).items():
        pairs = [(name, source.leaves[name.path]) for name in parts if name.path in source.leaves]
        if pairs and len(pairs) < len(parts):
            raise TransferlabError(
                f"Key '{key}' cannot be written: the source has only some of the leaves that it fuses."
            )
        if pairs:
            out[key] = _joined(pairs, pairs[0][1].dtype)
    if unnamed := source.leaves.keys() - {name.path for name in names.names}:
        raise Unwritable(
            f"'{min(unnamed)}' has no key in this format. Keep the model as it is: tl.save(source, directory, format='orbax').",
            f"the reference model's files have no '{min(unnamed)}'",
        )
    return out


def _finite(tensor: LazyTensor, key: str) -> np.ndarray:
    """Read a weight as it is in the file; a buffer that no leaf is read from may hold infinities, as a mask does."""
    array = tensor.read()
    check_finite(array, f"{tensor.file}: '{key}'" if tensor.file else f"'{key}'")
    return array


def _joined(parts: list[tuple[Entry, LazyLeaf]], dtype: np.dtype) -> LazyTensor:
    """One tensor of the file from the leaves that it fuses, computed when it is read."""
    parts = sorted(parts, key=lambda part: part[0].layout.part)
    shapes = [name.layout.to_file(np.broadcast_to(np.zeros((), np.int8), leaf.shape)).shape for name, leaf in parts]
    axis, shape = parts[0][0].layout.axis, list(shapes[0])
    if len(parts) > 1:
        shape[axis] = sum(each[axis] for each in shapes)

    def read() -> np.ndarray:
        pieces = [name.layout.to_file(leaf.read()) for name, leaf in parts]
        whole = np.concatenate(pieces, axis) if len(pieces) > 1 else pieces[0]
        return whole if whole.dtype == dtype else narrowed(whole, dtype, parts[0][0].key)

    return LazyTensor(tuple(shape), dtype, read)


def cast(tensor: LazyTensor, dtype: np.dtype, key: str) -> LazyTensor:
    """Return a floating-point tensor in this type, others as they are."""
    if not jnp.issubdtype(tensor.dtype, jnp.floating) or tensor.dtype == dtype:
        return tensor
    return LazyTensor(tensor.shape, dtype, lambda: narrowed(tensor.read(), dtype, key), tensor.file, tensor.release)


def _usual_dtype(source: Source) -> np.dtype | None:
    """The floating-point type of most of the file; None without one."""
    sizes: dict[np.dtype, int] = {}
    for tensor in source.tensors.values():
        if jnp.issubdtype(tensor.dtype, jnp.floating):
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype], default=None)


def _prefixed(
    tensors: dict[str, LazyTensor], source: Source, raw: Mapping[str, Any], head_keys: set[str]
) -> dict[str, LazyTensor]:
    """Put a new head on a backbone that had none, or another: transformers has one prefix on all keys but the head's.

    What else the file held (``unused``) is dropped: it belonged to another head.
    """
    assert source.names is not None
    used = {leaf.key for leaf in source.leaves.values()}
    backbone = {key: tensor for key, tensor in tensors.items() if key in used}
    prefixes = source.names.prefixes
    own = f"{raw.get('model_type')}."
    prefix = own if own in prefixes else prefixes[-1] if prefixes else ""
    if any(key.startswith(prefix) for key in backbone):
        return backbone
    bare = {key: next((key.removeprefix(old) for old in prefixes if key.startswith(old)), key) for key in backbone}
    return {key if key in head_keys else prefix + bare[key]: tensor for key, tensor in backbone.items()}


def with_dtype(raw: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return ``config.json`` with this dtype of its weights, where it names one."""
    fields = [name for name in ("dtype", "torch_dtype") if name in raw]
    return {**raw, **dict.fromkeys(fields or (["dtype"] if "model_type" in raw else []), dtype)}


def metadata(source: Source) -> dict[str, str]:
    """Return the metadata of the source's safetensors files; transformers requires ``format``."""
    for file in source.files.values():
        if isinstance(file, Path) and file.suffix == ".safetensors":
            return safetensors_metadata(file)
    return {"format": "pt"}

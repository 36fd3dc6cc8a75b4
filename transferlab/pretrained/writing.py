"""``save``: a source, or what was trained from it, as a directory that its own library loads: same keys, same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from transferlab import trees
from transferlab.compute.host import interruptible
from transferlab.data.text import TextTransform
from transferlab.errors import TransferlabError, check_arguments, nearest, shown
from transferlab.files import folder_named, write_json
from transferlab.manifest import write_manifest
from transferlab.models.heads import EmbeddingConfig
from transferlab.pretrained.auxiliary_files import (
    changed_tokenizer,
    copy_auxiliary_files,
    limit_tokenizer,
    name_padding,
    new_head,
    reads_differently,
    with_padding,
    write_changed_tokenizer,
    write_images_settings,
    write_sound_settings,
    write_tokenizer,
)
from transferlab.pretrained.cards import write_card
from transferlab.pretrained.classifiers import with_labels
from transferlab.pretrained.conversion import cast, metadata, with_dtype
from transferlab.pretrained.dense_heads import dense_layers
from transferlab.pretrained.export_formats import FORMATS, SENTENCES, as_held, default_format, described, pads
from transferlab.pretrained.formats.safetensors import SAFETENSORS_DTYPES, write_weights
from transferlab.pretrained.loading import load
from transferlab.pretrained.network_source import NetworkSource
from transferlab.pretrained.new_directory import new_directory
from transferlab.pretrained.orbax_directory import write_orbax
from transferlab.pretrained.sentence_transformers import write_modules
from transferlab.pretrained.source import Source


@check_arguments
@interruptible()
def save(
    source: Source,
    directory: str | Path,
    *,
    params: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    format: str | None = None,
    dtype: str | None = None,
    shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
) -> Path:
    """Write a source as a directory that transformers, timm or sentence-transformers loads, or as Orbax.

    Keys, prefixes, legacy names and dtypes stay as they were read, and so do all other fields of ``config.json``, the
    tokenizer's and the preprocessor's files. Tensors are copied one at a time. The directory gets its name only when
    it is complete and has been opened again.

    Args:
        source: from :func:`load`, or ``result.source`` of a finished run.
        directory: where to; it must not exist or be empty, unless ``overwrite``.
        params: arrays in place of the source's, as for :meth:`Source.with_params`.
        state: batch statistics in place of the source's.
        format: ``hf``, ``timm``, ``sentence-transformers`` or ``orbax``; by default what the source was, or what its family is written
            as, and ``sentence-transformers`` for a classifier of texts that transformers' own class cannot hold.
        dtype: of the floating-point tensors as written; by default each one's own.
        shard_bytes: size in bytes beyond which a weight file is split.
        overwrite: whether to replace a model that is there.

    Returns:
        The directory.

    Raises:
        TransferlabError: the format cannot hold this model (the field is named), or the directory is not empty.

    Example:
        >>> source = tl.load("minilm-l6")
        >>> tl.save(source, "exported")  # for transformers and sentence-transformers
        >>> tl.save(result.source, "classifier", format="sentence-transformers")  # a classifier as its module Dense
        >>> tl.save(source, "tree", format="orbax", dtype="bfloat16")

    :func:`load` opens the directory again. An adapter alone is written by its ``save_adapter``.
    """
    if "://" in str(directory):
        raise TransferlabError(
            f"'{directory}' is not a local directory. Save to a local one and copy it to the bucket."
        )
    if not isinstance(source, Source):
        merged = "its adapters merged" if hasattr(source, "merged") else ""
        advice = "tl.save(adapted.merged(), 'folder')" if merged else "tl.save(result.source, 'folder')"
        raise TransferlabError(
            f"source is {shown(source)}; pass a source{f', {merged}' if merged else ''}, as {advice}."
        )
    if isinstance(source, NetworkSource):
        raise TransferlabError(
            f"{source.name} is a network of your own, for which no other library has files. Write its arrays with Orbax or NumPy: "
            "params, state = source.arrays."
        )
    target = folder_named(directory, "directory").expanduser()
    if params is not None or state is not None:
        source = source.with_params(params or {}, state)
    if format is not None and format not in FORMATS:
        raise TransferlabError(f"format '{format}' is unknown.{nearest(str(format), FORMATS)}")
    if shard_bytes < 1:
        raise TransferlabError(f"shard_bytes is {shard_bytes}; it must be at least 1.")
    if dtype is not None and not (dtype in SAFETENSORS_DTYPES.values() and jnp.issubdtype(dtype, jnp.floating)):
        raise TransferlabError(
            f"dtype '{dtype}' is not a floating-point type that can be written; use float32, float16 or bfloat16."
        )
    kind = default_format(source) if format is None else format
    whole, source = source, as_held(source, kind)
    whole = whole if kind == SENTENCES else source
    with new_directory(target, overwrite) as temporary:
        copy_auxiliary_files(source, temporary)
        write_tokenizer(source, temporary)
        if new_head(whole):
            limit_tokenizer(source, temporary)
        sized = reads_differently(source, temporary)
        if kind == "orbax":
            if changed_tokenizer(source):
                write_changed_tokenizer(source, temporary, None)
            write_orbax(source, temporary, dtype)
        else:
            raw, tensors = described(source, kind, sized, dtype)
            if changed_tokenizer(source):
                write_changed_tokenizer(source, temporary, raw)
            if (apart := pads(source, kind)) is True:
                raw = with_padding(source, raw, temporary)
            elif apart is False:
                name_padding(source, temporary, apart=False)
            if kind == SENTENCES and whole.labels:
                raw = with_labels(raw, whole)
            if dtype is not None:
                tensors = {key: cast(tensor, np.dtype(dtype), key) for key, tensor in tensors.items()}
                raw = with_dtype(raw, dtype)
            write_json(temporary / "config.json", raw)
            write_weights(temporary, tensors, shard_bytes, metadata(source))
            if isinstance(source.head, EmbeddingConfig) and isinstance(source.transform, TextTransform):
                write_modules(
                    temporary, source.pooling, source.normalise, source.features, source.transform.max_length,
                    dense_layers(whole, dtype), metadata(source),
                )  # fmt: skip
        write_images_settings(source, temporary, kind)
        if kind == "hf":
            write_sound_settings(source, temporary)
        if sized or source.provenance.get("changes") or any(leaf.trained for leaf in whole.leaves.values()):
            write_card(whole, temporary, kind)
        if kind == "orbax":
            write_manifest(temporary)
        _check(whole, temporary, kind)
    return target


def _check(source: Source, directory: Path, kind: str) -> None:
    """Open what was written: unless it is the same model, the directory does not get its name."""
    again = load(directory)
    want = {path: leaf.shape for path, leaf in source.leaves.items()}
    got = {path: leaf.shape for path, leaf in again.leaves.items()}
    if again.family != source.family or want != got:
        wrong = sorted(path for path in want.keys() | got.keys() if want.get(path) != got.get(path))
        raise TransferlabError(f"What was written is read differently: {again.family}, {', '.join(wrong[:8])}.")
    reads, read = source.image_transform, again.image_transform
    if reads is not None and (read is None or (read.size, read.channels) != (reads.size, reads.channels)):
        raise TransferlabError(f"What was written reads images of another size: {read}, not {reads}.")
    if isinstance(source.head, EmbeddingConfig) and (again.pooling, again.normalise) != (
        source.pooling,
        source.normalise,
    ):
        raise TransferlabError(f"What was written pools otherwise: by {again.pooling}, not {source.pooling}.")
    if again.labels != source.labels:
        raise TransferlabError("What was written has other labels.")
    if kind == SENTENCES and source.labels and _computed(again.head) != _computed(source.head):
        raise TransferlabError(f"What was written has another head: {again.head}, not {source.head}.")
    ours, theirs = trees.flatten(asdict(source.config)), trees.flatten(asdict(again.config))
    # How the reference head pools and how positions are resized depend on the dialect, and so do first values,
    # a file's form of an MLP, where Swin pads, which its writer has checked, and on which side of CLIP's last norm
    # `hidden` is, which no pooled vector depends on.
    dialect = (
        "pooling", "position_rule", "eos_token_id", "logit_scale", "logit_bias", "conv_mlp", "pad_first", "norm_hidden",
    )  # fmt: skip
    fields = [name for name in ours if ours[name] != theirs.get(name) and name.rpartition("/")[2] not in dialect]
    if fields:
        raise TransferlabError(f"What was written has another {', '.join(sorted(fields))} in its config.")


def _computed(head: Any) -> tuple[Any, ...]:
    """What a classifier computes, apart from its leaves."""
    return head.pooling, head.normalise, head.problem, None if head.hidden is None else head.hidden.activation

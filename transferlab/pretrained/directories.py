"""Sources from directories and files: Hugging Face's, timm's, open_clip's, GGUF, our own, or weights alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transferlab.data.images import ImageTransform
from transferlab.data.text import TextTransform
from transferlab.errors import TransferlabError, nearest
from transferlab.fields import check_scalars
from transferlab.pretrained.classifiers import problem_of
from transferlab.pretrained.config_checks import (
    check_depth,
    check_layers,
    check_plain,
    classifies,
    classifies_tokens,
    label_names,
)
from transferlab.pretrained.dense import read_dense
from transferlab.pretrained.dense_heads import with_dense_head
from transferlab.pretrained.families import FAMILIES, family_of
from transferlab.pretrained.families.big_vision import config_of
from transferlab.pretrained.families.clip import OPEN_CLIP, clip_from_open_clip, open_clip_transform, open_clip_weights
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.formats.gguf import read_gguf
from transferlab.pretrained.formats.gguf_tokenizer import tokenizer_from_gguf
from transferlab.pretrained.formats.orbax import read_orbax
from transferlab.pretrained.formats.tensors import LazyTensor
from transferlab.pretrained.formats.weights import check_no_entry, directory_entry, read_any, read_entry
from transferlab.pretrained.matching import Described, assemble, hits
from transferlab.pretrained.names import Entry, NameTable
from transferlab.pretrained.orbax_directory import DESCRIPTION, from_orbax
from transferlab.pretrained.sentence_transformers import MODULES, read_modules
from transferlab.pretrained.source import Source
from transferlab.pretrained.timm import TimmConfig
from transferlab.pretrained.transforms import read_text_transform, read_transforms
from transferlab.pretrained.unread import unread_weights
from transferlab.reading import read_object, reading


def from_gguf(path: Path, name: str, provenance: dict[str, Any]) -> Source:
    """Open a GGUF file, which says its architecture and holds its tokenizer."""
    file = read_gguf(path)
    kind = file.value("general.architecture", str)
    family = FAMILIES.first(lambda family: kind in family.gguf_architectures)
    if family is None:
        known = [kind for family in FAMILIES.values() for kind in family.gguf_architectures]
        raise TransferlabError(f"{path}: general.architecture '{kind}' is not supported.{nearest(kind, known)}")
    with reading(path):
        check_depth(file.metadata, path)
        config = family.from_gguf(file)
        check_layers(config, len(file.tensors), path)
        transform = tokenizer_from_gguf(file, config.max_position_embeddings)
        source = assemble(
            name, family, config, file.tensors, {"path": str(path.resolve()), **provenance},
            Described(transform if isinstance(transform, TextTransform) else None),
        )  # fmt: skip
    unread = () if isinstance(transform, TextTransform) else (("tokenizer.ggml", transform),)
    return replace(source, files={path.name: path}, unused=(*source.unused, *unread))


def from_tree(directory: Path, name: str, config: Any) -> Source:
    """Open an Orbax checkpoint of your own: a tree with our paths, as ``nnx.state`` or ``trees.unflatten`` makes one."""
    tensors, family = read_orbax(directory), family_of(config)
    tables = (
        replace(
            table, names=tuple(Entry(name.path, name.path) for name in table.names),
            prefixes=("params/", "state/", "model/"), renames=(("/value", ""),),
            ignored=((r"(opt_state|optimizer|step|rng|rngs)(/.*)?", "the state of the training run, not a parameter"),),
        )
        for table in family.names(config)
    )  # fmt: skip
    names = max(tables, key=lambda table: hits(table, tensors))
    return _bare(name, family, config, tensors, directory, names)


def from_file(path: Path, name: str, config: Any, entry: str | None) -> Source:
    """Open a weight file, of the architecture of ``config``, or of the one that its shapes imply."""
    tensors, others = read_entry(path, entry)
    config = config_of(tensors) if config is None else config
    if config is None:
        raise TransferlabError(
            f"{path}: a bare weight file does not say its architecture. Pass a config: "
            f"tl.load('{name}', config=tl.models.EfficientNetConfig.lite0()), or load a directory with a config.json."
        )
    source = _bare(name, family_of(config), config, tensors, path)
    return _with_entries(replace(source, files={path.name: path}), entry, others, ", …")


def _with_entries(source: Source, entry: str | None, others: tuple[str, ...], more: str = "") -> Source:
    """Return the source of one state dict of a torch file, with the names of the others as unused."""
    notes = (
        (key, f"another state dict of the file: tl.load('{source.name}', entry='{key}'{more}) reads it")
        for key in others
    )
    provenance = source.provenance if entry is None else {**source.provenance, "entry": entry}
    return replace(source, unused=(*source.unused, *notes), provenance=provenance)


def _bare(
    name: str,
    family: Family,
    config: Any,
    tensors: Mapping[str, LazyTensor],
    path: Path,
    names: NameTable | None = None,
) -> Source:
    """Return a source of weights that came alone: preprocessing is the family's own, and texts are pooled by their mean."""
    transform, towers = family.transform(config), {}
    if family.modality == "image and text":
        towers, transform = {"vision": transform, "text": None}, None
    pooling = "mean" if family.modality == "text" else None
    described = Described(transform, towers, pooling)
    # The file does not say its architecture: who opens it again, as open_run, reads it here.
    given = {"family": family.name, "fields": json.loads(json.dumps(asdict(config), default=str))}
    provenance = {"path": str(path.resolve()), "config": given}
    return assemble(name, family, config, tensors, provenance, described, names)


def from_directory(
    directory: Path,
    name: str,
    provenance: dict[str, Any],
    known: dict[Path, str] | None = None,
    entry: str | None = None,
) -> Source:
    """Open a directory of Hugging Face, timm, open_clip or ours.

    Args:
        directory: with a ``config.json``, or another of these libraries' descriptions.
        name: of the source.
        provenance: where it came from.
        known: hashes of its files that are known already.
        entry: name of the state dict to read, of a torch file with several.

    Raises:
        TransferlabError: a file of it is missing, damaged or asks for what is not supported; file and field are named.
    """
    if (directory / DESCRIPTION).exists():
        check_no_entry(directory, entry)
        return from_orbax(directory, name, provenance)
    with reading(directory / MODULES):
        modules = read_modules(directory)
    directory, whole = modules.folder, directory
    path = directory / "config.json"
    if not path.exists() and (directory / OPEN_CLIP).exists():
        check_no_entry(directory, entry)
        return _from_open_clip(directory, name, provenance)
    if not path.exists():
        if (directory / "adapter_config.json").exists():
            raise TransferlabError(
                f"{directory} is an adapter, not a model. Load it with its base: tl.load_adapter('{directory}')."
            )
        files = sorted(p.name for p in directory.iterdir())[:20]
        raise TransferlabError(f"{directory} has no config.json, which says the architecture. It holds: {files}.")
    raw = read_object(path)
    with reading(path):
        check_depth(raw, path)
        timm = TimmConfig.read(raw) if "model_type" not in raw and "architecture" in raw else None
        family = _family(raw.get("model_type"), timm, path)
    check_plain(raw, path)
    tensors, files, others = directory_entry(directory, entry)
    check_scalars(family.config, raw, where=str(path))
    with reading(path):
        config = family.from_hf(raw) if timm is None else timm.config(family.from_timm)
        labels = label_names(raw, str(path)) if timm is None else timm.labels
        head_dropout, problem = family.head_dropout(raw), problem_of(raw)
        tokens = classifies_tokens(raw)
        token_dropout = family.token_dropout(raw) if tokens else 0.0
    check_layers(config, len(tensors), path)
    provenance = {"path": str(whole.resolve()), **provenance}
    settings = "tokenizer_config.json" if family.modality == "text" else "preprocessor_config.json"
    with reading(path if timm is not None else directory / settings):
        transform, towers = read_transforms(directory, family, config, raw.get("model_type"), timm)
    if isinstance(transform, TextTransform):
        transform = replace(transform, prompt=modules.prompt)
        if modules.pooling == "first" and transform.side == "left":
            raise TransferlabError(
                f"{directory}: texts are padded on the left but pooled by the first token, which is not supported."
            )
    images = towers.get("vision") if towers else transform
    if isinstance(images, ImageTransform) and not 0 < images.size <= _LARGEST_IMAGE:
        raise TransferlabError(
            f"{directory}: images of {images.size} pixels a side are not supported; expected 1 to {_LARGEST_IMAGE}."
        )
    described = Described(
        transform,
        towers,
        modules.pooling,
        modules.normalise,
        labels,
        problem,
        head_dropout,
        classifies=classifies(raw),
        tokens=tokens,
        token_dropout=token_dropout,
    )
    with reading(path):
        source = assemble(name, family, config, tensors, provenance, described)
    hashes = {file.name: (known or {}).get(file, file) for file in files}
    source = replace(source, raw=raw, files=hashes, unused=(*source.unused, *unread_weights(directory, files)))
    if modules.dense:
        with reading(path):
            source = with_dense_head(source, modules, [read_dense(folder) for folder in modules.dense], raw)
    source = _with_entries(source, entry, others)
    # DINOv2 was trained at 518 pixels and evaluates at 224: its positions are resized, as transformers does.
    with reading(path):
        return source.resized(images.size) if isinstance(images, ImageTransform) else source


def _from_open_clip(directory: Path, name: str, provenance: dict[str, Any]) -> Source:
    path = directory / OPEN_CLIP
    raw, weights = read_object(path), open_clip_weights(directory)
    with reading(path):
        check_depth(raw, path)
        config = clip_from_open_clip(raw)
        images = open_clip_transform(raw, config)
    tensors = read_any(weights)
    check_layers(config, len(tensors), path)
    family = family_of(config)
    with reading(directory / "tokenizer_config.json"):
        text = read_text_transform(directory, family, config, None)
    with reading(path):
        described = Described(towers={"vision": images, "text": text})
        source = assemble(name, family, config, tensors, {"path": str(directory.resolve()), **provenance}, described)
    unread = unread_weights(directory, [weights])
    return replace(source, files={weights.name: weights}, unused=(*source.unused, *unread))


_LARGEST_IMAGE = 1 << 14


def _family(kind: Any, timm: TimmConfig | None, path: Path) -> Family:
    """Return the family of Hugging Face's ``model_type``, or of timm's ``architecture``."""
    if timm is None:
        family = FAMILIES.first(lambda family: kind in family.model_types)
        if family is None:
            kinds = [kind for family in FAMILIES.values() for kind in family.model_types]
            raise TransferlabError(f"{path}: model_type '{kind}' is not supported.{nearest(str(kind), kinds)}")
        return family
    family = FAMILIES.first(lambda family: re.fullmatch(family.architectures, timm.architecture) is not None)
    if family is None:
        patterns = "  ".join(family.architectures for family in FAMILIES.values() if family.architectures)
        raise TransferlabError(
            f"{path}: timm's architecture '{timm.architecture}' is not supported; expected a match of: {patterns}"
        )
    return family

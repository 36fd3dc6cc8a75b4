"""A source that reads what its file was not written for: other pictures, another tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transferlab.data.text import TextTransform, read_tokenizer
from transferlab.errors import TransferlabError
from transferlab.models.heads import LanguageModelConfig
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.kernels import kernel_resize
from transferlab.pretrained.positions import Resize
from transferlab.pretrained.vocabulary import token_map, vocabulary_resize, with_tokens

if TYPE_CHECKING:
    from transferlab.pretrained.source import Source


def images(
    source: Source, image_size: int | None, patch_size: int | None, channels: int | None, channel_mode: str | None
) -> Source:
    """What :meth:`Source.resized` does."""
    old = source.image_transform
    if old is None:
        raise TransferlabError(f"image_size, patch_size or channels were given, but {source.name} reads text.")
    family, shapes = FAMILIES[source.family], _file_shapes(source)
    asked = {"patch_size": patch_size, "channels": channels, "channel_mode": channel_mode}
    changes = {
        **source.origin.get("changes", {}),
        **{name: value for name, value in asked.items() if value is not None},
    }
    size = old.size if image_size is None else image_size
    if size < 1:
        raise TransferlabError(f"image_size is {size}; it must be at least 1.")
    fields, resizes = {"image_size": size}, {}
    for name, field in (("patch_size", "patch_size"), ("channels", "num_channels")):
        if name not in changes:
            continue
        if changes[name] < 1:
            raise TransferlabError(f"{name} is {changes[name]}; it must be at least 1.")
        if not family.input_kernel or not hasattr(source.config, field):
            raise TransferlabError(f"{name} was given, but {source.name} ({family.name}) has none that can change.")
        fields[field] = changes[name]
    config = source.config
    if changes:
        path, mode = family.input_kernel, changes.get("channel_mode")
        resizes[path] = kernel_resize(shapes[path], changes.get("patch_size"), changes.get("channels"), mode)
        config = replace(config, **fields)
    config, others = family.resized(config, shapes, size)
    transform = replace(old, size=size, channels=changes.get("channels", old.channels))
    return _changed(source, config, {**resizes, **others}, transform, changes)


def tokens(source: Source, path: str | Path | None, add: Sequence[str], new_rows: str) -> Source:
    """What :meth:`Source.with_tokenizer` does."""
    old, family, shapes = source.transform, FAMILIES[source.family], _file_shapes(source)
    if not isinstance(old, TextTransform):
        raise TransferlabError(f"{source.name} has no tokenizer whose tokens its rows could be matched by.")
    if "new_rows" in source.origin.get("changes", {}):
        raise TransferlabError(f"{source.name} has another tokenizer already; begin with tl.load('{source.name}').")
    new = old if path is None else replace(_read(Path(path), old.max_length), prompt=old.prompt)
    if add:
        tokenizer = with_tokens(new.tokenizer, add)
        new = replace(new, tokenizer=tokenizer, sha256=hashlib.sha256(tokenizer.to_str().encode()).hexdigest())
    if family.vocabulary not in source.leaves:
        raise TransferlabError(f"{source.name} ({family.name}) has no table of tokens that can be resized.")
    tables = {family.vocabulary: 0}
    if isinstance(source.head, LanguageModelConfig):
        # A tied head has no kernel of its own.
        tables |= {leaf: axis for leaf, axis in (("head/kernel", 1), ("head/bias", 0)) if leaf in source.leaves}
    matched = token_map(old.tokenizer, new.tokenizer, shapes[family.vocabulary][0], new_rows)
    resizes = {leaf: vocabulary_resize(shapes[leaf], axis, matched, new_rows) for leaf, axis in tables.items()}
    fields = {"vocab_size": len(matched.kept)}
    for name in ("pad_token_id", "decoder_start_token_id"):
        if isinstance(value := getattr(source.config, name, None), int):
            moved = new.tokenizer.token_to_id(old.tokenizer.id_to_token(value) or "")
            fields[name] = new.pad_id if moved is None else moved
    changes = {**source.origin.get("changes", {}), "tokenizer": None if path is None else str(Path(path).resolve()), "sha256": new.sha256,
               "add": list(add), "new_rows": new_rows}  # fmt: skip
    return _changed(source, replace(source.config, **fields), resizes, new, changes)


def refitted(source: Source, changes: Mapping[str, Any]) -> Source:
    """Return the source, as it was loaded, with the changes that ``origin["changes"]`` recorded.

    Raises:
        TransferlabError: a tokenizer that is gone, or is not what it was.
    """
    source = source.encoder() if "encoder" in changes else source
    if "new_rows" in changes:
        made = source.with_tokenizer(changes["tokenizer"], add=changes["add"], new_rows=changes["new_rows"])
        if made.origin["changes"]["sha256"] != changes["sha256"]:
            raise TransferlabError(f"The tokenizer in {changes['tokenizer']} is not the one that this run had.")
        return made
    images = {name: changes[name] for name in ("patch_size", "channels", "channel_mode") if name in changes}
    return source.resized(**images) if images else source


def _read(path: Path, limit: int) -> TextTransform:
    read = read_tokenizer(path if path.is_dir() else path.parent, limit) if path.exists() else None
    if read is None:
        raise TransferlabError(
            f"{path}: there is no tokenizer; expected a directory with a tokenizer.json or vocab.txt."
        )
    return read


def _file_shapes(source: Source) -> dict[str, tuple[int, ...]]:
    return {path: leaf.layout.shape(leaf.tensor.shape) for path, leaf in source.leaves.items()}


def _changed(
    source: Source, config: Any, resizes: Mapping[str, Resize | None], transform: Any, changes: Mapping[str, Any]
) -> Source:
    leaves = source.leaves | {path: replace(source.leaves[path], resize=resize) for path, resize in resizes.items()}
    origin = {**source.origin, "changes": dict(changes)} if changes else source.origin
    if source.towers:
        towers = {**source.towers, "vision": transform}
        return replace(source, config=config, leaves=leaves, towers=towers, origin=origin)
    return replace(source, config=config, leaves=leaves, transform=transform, origin=origin)

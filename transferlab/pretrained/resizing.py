"""What depends on a source's inputs, changed for other ones than its file's: other images, another tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transferlab.data.images import ImageTransform
from transferlab.data.inputs import Transform
from transferlab.data.text import TextTransform, read_tokenizer
from transferlab.errors import TransferlabError
from transferlab.models.heads import HeadConfig, LanguageModelConfig, MaskedLanguageModelConfig
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.kernels import kernel_resize
from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.positions import Resize
from transferlab.pretrained.vocabulary import token_map, vocabulary_resize, with_tokens


@dataclass(frozen=True)
class Resizable:
    """The part of a source that depends on its inputs; changes return a new one.

    Attributes:
        name: of the source, for messages.
        family: of its architecture.
        config, head: of the source.
        leaves: ``{path: LazyLeaf}``.
        transform: the preprocessing to change; None where the source has none of its kind.
        changes: made to the source before, by name.
    """

    name: str
    family: Family
    config: Any
    head: HeadConfig | None
    leaves: Mapping[str, LazyLeaf]
    transform: Transform | None
    changes: Mapping[str, Any]

    @property
    def file_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each leaf without any resize."""
        return {path: leaf.layout.shape(leaf.tensor.shape) for path, leaf in self.leaves.items()}

    def resized(
        self, config: Any, resizes: Mapping[str, Resize | None], transform: Any, changes: Mapping[str, Any]
    ) -> Resizable:
        """Return it with another config and transform, and with these leaves resized."""
        leaves = {path: replace(self.leaves[path], resize=resize) for path, resize in resizes.items()}
        return replace(self, config=config, leaves={**self.leaves, **leaves}, transform=transform, changes=changes)


def resize_inputs(
    old: Resizable, image_size: int | None, patch_size: int | None, channels: int | None, channel_mode: str | None
) -> Resizable:
    """Implement :meth:`Source.resized`."""
    images, family = old.transform, old.family
    if not isinstance(images, ImageTransform):
        raise TransferlabError(
            f"image_size, patch_size or channels were given, but {old.name} reads {family.modality}."
        )
    shapes = old.file_shapes
    arguments = {"patch_size": patch_size, "channels": channels, "channel_mode": channel_mode}
    changes = {**old.changes, **{name: value for name, value in arguments.items() if value is not None}}
    size = images.size if image_size is None else image_size
    if size < 1:
        raise TransferlabError(f"image_size is {size}; it must be at least 1.")
    fields, resizes = {"image_size": size}, {}
    for name, field in (("patch_size", "patch_size"), ("channels", "num_channels")):
        if name not in changes:
            continue
        if changes[name] < 1:
            raise TransferlabError(f"{name} is {changes[name]}; it must be at least 1.")
        if not family.input_kernel or not hasattr(old.config, field):
            raise TransferlabError(f"{name} was given, but {old.name} ({family.name}) has none that can change.")
        fields[field] = changes[name]
    config = old.config
    if changes:
        path, mode = family.input_kernel, changes.get("channel_mode")
        resizes[path] = kernel_resize(shapes[path], changes.get("patch_size"), changes.get("channels"), mode)
        config = replace(config, **fields)
    config, others = family.resized(config, shapes, size)
    transform = replace(images, size=size, channels=changes.get("channels", images.channels))
    return old.resized(config, {**resizes, **others}, transform, changes)


def replace_tokenizer(old: Resizable, path: str | Path | None, add: Sequence[str], new_rows: str) -> Resizable:
    """Implement :meth:`Source.with_tokenizer`."""
    texts, family = old.transform, old.family
    if not isinstance(texts, TextTransform):
        raise TransferlabError(f"{old.name} has no tokenizer to match the rows of its table by token.")
    if "new_rows" in old.changes:
        raise TransferlabError(
            f"{old.name} has another tokenizer already. Start from its own: tl.load('{old.name}').with_tokenizer(…)"
        )
    shapes = old.file_shapes
    new = texts if path is None else replace(_read(Path(path), texts.max_length), prompt=texts.prompt)
    if add:
        tokenizer = with_tokens(new.tokenizer, add)
        new = replace(new, tokenizer=tokenizer, sha256=hashlib.sha256(tokenizer.to_str().encode()).hexdigest())
    if family.vocabulary not in old.leaves:
        raise TransferlabError(f"{old.name} ({family.name}) has no token table that can be resized.")
    tables = {family.vocabulary: 0}
    if isinstance(old.head, LanguageModelConfig | MaskedLanguageModelConfig):
        # A tied head has no kernel of its own.
        tables |= {leaf: axis for leaf, axis in (("head/kernel", 1), ("head/bias", 0)) if leaf in old.leaves}
    matched = token_map(texts.tokenizer, new.tokenizer, shapes[family.vocabulary][0], new_rows)
    resizes = {leaf: vocabulary_resize(shapes[leaf], axis, matched, new_rows) for leaf, axis in tables.items()}
    fields = {"vocab_size": len(matched.kept)}
    for name in ("pad_token_id", "decoder_start_token_id"):
        if isinstance(value := getattr(old.config, name, None), int):
            moved = new.tokenizer.token_to_id(texts.tokenizer.id_to_token(value) or "")
            fields[name] = new.pad_id if moved is None else moved
    changes = {**old.changes, "tokenizer": None if path is None else str(Path(path).resolve()), "sha256": new.sha256,
               "add": list(add), "new_rows": new_rows}  # fmt: skip
    return old.resized(replace(old.config, **fields), resizes, new, changes)


def _read(path: Path, limit: int) -> TextTransform:
    read = read_tokenizer(path if path.is_dir() else path.parent, limit) if path.exists() else None
    if read is None:
        raise TransferlabError(f"{path} has no tokenizer: expected a directory with a tokenizer.json or vocab.txt.")
    return read

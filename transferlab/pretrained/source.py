"""``Source``: a pretrained model, weights unread: architecture, lazily read weights, preprocessing, label names, license."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import jax
import jax.numpy as jnp
import numpy as np

from transferlab import trees
from transferlab.data.arrays import ArrayTransform
from transferlab.data.audio import AudioTransform
from transferlab.data.images import ImageTransform
from transferlab.data.reads import read_by
from transferlab.data.text import TextTransform
from transferlab.errors import TransferlabError, check_arguments, nearest
from transferlab.files import sha256_file
from transferlab.models.heads import (
    ClassifierConfig,
    EmbeddingConfig,
    HeadConfig,
    LanguageModelConfig,
    MaskedLanguageModelConfig,
    Pooling,
    TokenClassifierConfig,
)
from transferlab.models.nnx_network import NnxNetwork
from transferlab.pretrained.families import FAMILIES, family_of
from transferlab.pretrained.formats.tensors import LazyTensor
from transferlab.pretrained.inputs import check_inputs, token_table
from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.names import SAME, NameTable
from transferlab.pretrained.outputs import evaluation
from transferlab.pretrained.resizing import Resizable, replace_tokenizer, resize_inputs

Transform = TextTransform | ImageTransform | AudioTransform | ArrayTransform
"""Preprocessing that travels with weights."""


@check_arguments
@dataclass(frozen=True, eq=False, repr=False)
class Source:
    """A pretrained model, weights unread; :func:`load` opens one.

    Attributes:
        name: as given to :func:`load`.
        family: a name in ``FAMILIES``, as ``bert``.
        config: the family's config dataclass; ``config.build(head)`` makes the module.
        head: the checkpoint's own head, or None.
        leaves: ``{path: LazyLeaf}``, one for every leaf of the definition.
        unused: pairs (key in the file, why it is not in the tree).
        transform: preprocessing that travels with the weights.
        pooling: how the reference implementation makes one vector of an example; ``normalise`` whether it scales that to
            length 1.
        labels: label names of the checkpoint's head.
        provenance: where it came from: name, revision, path, license, and the ``changes`` that
            :meth:`resized`, :meth:`with_tokenizer` and :meth:`encoder` made; for weights alone, the ``config`` that
            they were loaded with. ``recorded`` adds the hashes of its files.
        dtype: of the parameters in memory when the source is called.
        raw: ``config.json`` as it was read, if there was one.
        names: the table of names that its files follow.
        tensors: all tensors of its files by key, the ``unused`` ones included.
        files: its weight files: where each is, or its hash where that is known.
        towers: each tower's preprocessing by the tower's name, for a model of several; it then has no ``transform``.

    Example:
        >>> source = tl.load("minilm-l6")
        >>> source.leaves["embed/word/embedding"].shape
        (30522, 384)
        >>> source({"input_ids": [[101, 102]]})["pooled"].shape
        (1, 384)
    """

    name: str
    family: str
    config: Any
    head: HeadConfig | None
    leaves: dict[str, LazyLeaf]
    unused: tuple[tuple[str, str], ...]
    transform: Transform | None
    pooling: Pooling
    normalise: bool
    provenance: dict[str, Any]
    dtype: str = "float32"
    raw: Mapping[str, Any] | None = None
    names: NameTable | None = None
    tensors: Mapping[str, LazyTensor] = field(default_factory=dict)
    files: Mapping[str, Path | str] = field(default_factory=dict)
    towers: Mapping[str, Transform | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Transform and table meet here for every source: an id beyond the table is refused when a text becomes ids.
        table = token_table(self.name, FAMILIES[self.family], self.leaves)
        ends = getattr(self.config, "eos_token_id", ())
        end = ends[0] if isinstance(ends, tuple) and ends and table is not None and ends[0] < table.rows else None
        if isinstance(self.transform, TextTransform) and (self.transform.table, self.transform.end_id) != (table, end):
            object.__setattr__(self, "transform", replace(self.transform, table=table, end_id=end))

    def __repr__(self) -> str:
        return f"Source({self.summary})"

    @property
    def summary(self) -> str:
        """Name, family, size, what it reads and its head, in one line: ``'minilm-l6': bert, 22,713,216 parameters, reads …``."""
        count = sum(math.prod(leaf.shape) for leaf in trees.flatten(self.params).values())
        kind, labels = (
            type(self.head).__name__.removesuffix("Config"),
            f" of {len(self.labels):,} labels" if self.labels else "",
        )
        head = "no head" if self.head is None else f"head: {kind}{labels}"
        reads = read_by(self.transform) or f"{self.modality}{'' if self.towers else ', without preprocessing'}"
        return f"{self.name!r}: {self.family}, {count:,} parameters, reads {reads}, {head}"

    @cached_property
    def recorded(self) -> dict[str, Any]:
        """``provenance`` with the SHA-256 of each weight file; runs record it as the provenance of their base."""
        hashes = {name: sha256_file(file) if isinstance(file, Path) else file for name, file in self.files.items()}
        return {**self.provenance, "files": hashes}

    @cached_property
    def plans(self) -> dict[Any, Any]:
        """Plans for this source by their arguments: many runs of a study share one plan."""
        return {}

    @cached_property
    def resident(self) -> MutableMapping[Any, Any]:
        """Leaves of this source that predictors hold on the device, for as long as one does: the next takes the same arrays."""
        return WeakValueDictionary()

    @property
    def modality(self) -> str:
        """``text``, ``image`` or ``audio``, or ``image and text`` for a model of two towers."""
        return FAMILIES[self.family].modality

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names of the checkpoint's own head; empty without one."""
        return () if self.head is None else self.head.labels

    @property
    def tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer`` of a text model, else None."""
        return self.transform.tokenizer if isinstance(self.transform, TextTransform) else None

    @cached_property
    def definition(self) -> trees.Definition:
        """The checkpoint's own module (its head included), without arrays."""
        return trees.define(self.config.build(self.head))

    @property
    def features(self) -> int:
        """Numbers in the vector of a text."""
        ids = {"input_ids": jax.ShapeDtypeStruct((1, 2), jnp.int32)}
        definition = self.definition
        return jax.eval_shape(self._evaluate, definition.params, definition.state, ids)["pooled"].shape[-1]

    @cached_property
    def network(self) -> NnxNetwork:
        """The same module as the engine runs it."""
        return NnxNetwork(self.definition)

    @cached_property
    def params(self) -> trees.Tree:
        """The named parameter tree with lazy leaves: ``np.asarray(source.params["embed"]["word"]["embedding"])``."""
        paths = trees.flatten(self.definition.params)
        return trees.unflatten({path: self.leaves[path] for path in paths})

    @cached_property
    def state(self) -> trees.Tree:
        """Batch statistics with lazy leaves."""
        paths = trees.flatten(self.definition.state)
        return trees.unflatten({path: self.leaves[path] for path in paths})

    @property
    def image_transform(self) -> ImageTransform | None:
        """The image preprocessing of the model or its vision tower; None for a model that reads no images."""
        transform = self.towers.get("vision") if self.towers else self.transform
        return transform if isinstance(transform, ImageTransform) else None

    @check_arguments
    def tower(self, name: str) -> Source:
        """Return one tower alone, as an ordinary backbone: which heads, methods, plans and the frontier cache accept.

        Args:
            name: ``vision`` or ``text``.

        Raises:
            TransferlabError: there is no such tower; the nearest is named.

        Example:
            >>> vision = tl.load("clip").tower("vision")  # a directory of CLIP
        """
        if self.provenance.get("tower") == name:
            return self
        if name not in self.towers:
            hint = nearest(name, self.towers) if self.towers else " It has no towers; omit the tower."
            raise TransferlabError(f"{self.name} has no tower '{name}'.{hint}")
        config, prefix = self.config.towers()[name], f"{name}/"
        family = family_of(config)
        leaves = {p.removeprefix(prefix): leaf for p, leaf in self.leaves.items() if p.startswith(prefix)}
        others = {leaf.key: p.split("/")[0] for p, leaf in self.leaves.items() if not p.startswith(prefix)}
        unused = tuple(
            (key, f"of the tower '{part}'" if part in self.towers else "joins the towers")
            for key, part in others.items()
        )
        return Source(
            self.name, family.name, config, None, leaves, (*self.unused, *unused), self.towers[name],
            family.head_pooling(config), False, {**self.provenance, "family": family.name, "tower": name}, self.dtype,
            files=self.files,
        )  # fmt: skip

    @check_arguments
    def resized(
        self,
        image_size: int | None = None,
        *,
        patch_size: int | None = None,
        channels: int | None = None,
        channel_mode: str | None = None,
    ) -> Source:
        """Return the same source reading images of another size, in other patches, or of other channels.

        The rest of its preprocessing stays. What depends on the size is resized as the reference implementation does,
        always from the file's own values.

        Args:
            image_size: pixels of a side.
            patch_size: pixels of a patch's side (Beyer et al. 2023).
            channels: of the images; see :class:`~transferlab.data.ImageTransform` for how they are read.
            channel_mode: ``sum`` to one channel, ``repeat`` the file's, or ``zero`` for those beyond the file's. By
                default as timm: ``sum`` for one, else ``repeat``.

        Raises:
            TransferlabError: a source that reads text, or a family that has no such size to change.

        Example:
            >>> tl.load("efficientnet-lite0").resized(160, channels=1)
        """
        reads = self._resizable(self.image_transform)
        return self._with_resized(resize_inputs(reads, image_size, patch_size, channels, channel_mode))

    @check_arguments
    def with_tokenizer(
        self, path: str | Path | None = None, *, add: Sequence[str] = (), new_rows: str = "mean"
    ) -> Source:
        """Return the same source reading text by another tokenizer, or by its own with tokens added.

        Rows of tokens that both vocabularies hold are copied by token, whatever their ids; the others are made by
        ``new_rows``. A table that also gives the logits (a tie) is one leaf: its new rows are new logits too.

        Args:
            path: of a Hugging Face directory with a tokenizer, or of its ``tokenizer.json``.
            add: strings that become one token each, after the tokenizer's own.
            new_rows: ``mean`` of all old rows, ``normal`` around it, or the mean of the new token's ``pieces``.

        Raises:
            TransferlabError: a source that reads images or came without a tokenizer, or one that was changed already.

        Example:
            >>> tl.load("minilm-l6").with_tokenizer(add=["<drug>"], new_rows="pieces")
        """
        return self._with_resized(replace_tokenizer(self._resizable(self.transform), path, add, new_rows))

    def with_changes(self, changes: Mapping[str, Any]) -> Source:
        """Return the source, as it was loaded, with the changes that ``provenance["changes"]`` recorded.

        Raises:
            TransferlabError: a tokenizer is missing, or has changed.
        """
        source = self.encoder() if "encoder" in changes else self
        if "windows" in changes:
            rest = {name: value for name, value in changes.items() if name not in ("windows", "encoder")}
            return source.with_changes(rest).with_windows(changes["windows"])
        if "new_rows" in changes:
            changed = source.with_tokenizer(changes["tokenizer"], add=changes["add"], new_rows=changes["new_rows"])
            if changed.provenance["changes"]["sha256"] != changes["sha256"]:
                raise TransferlabError(
                    f"The tokenizer in {changes['tokenizer']} has changed since this run; expected the one that it had."
                )
            return changed
        images = {name: changes[name] for name in ("patch_size", "channels", "channel_mode") if name in changes}
        return source.resized(**images) if images else source

    @check_arguments
    def with_windows(self, overlap: int = 64) -> Source:
        """Return the same source reading texts beyond its limit in windows, of which neighbors have ``overlap`` tokens in common.

        Each window trains as a row of its own; what is predicted of a text is the mean over its windows.

        Raises:
            TransferlabError: a source that does not read text, or an overlap as long as a window.

        Example:
            >>> tl.adapt(source.with_windows(overlap=64), data)
        """
        if not isinstance(self.transform, TextTransform):
            raise TransferlabError(f"{self.name} has no tokenizer; only texts are read in windows.")
        provenance = {**self.provenance, "changes": {**self.provenance.get("changes", {}), "windows": overlap}}
        return replace(self, transform=replace(self.transform, overlap=overlap), provenance=provenance)

    def _resizable(self, transform: Transform | None) -> Resizable:
        family, changes = FAMILIES[self.family], self.provenance.get("changes", {})
        return Resizable(self.name, family, self.config, self.head, self.leaves, transform, changes)

    def _with_resized(self, new: Resizable) -> Source:
        provenance = {**self.provenance, "changes": dict(new.changes)} if new.changes else self.provenance
        source = replace(self, config=new.config, leaves=dict(new.leaves), provenance=provenance)
        if self.towers:
            return replace(source, towers={**self.towers, "vision": new.transform})
        return replace(source, transform=new.transform)

    def encoder(self) -> Source:
        """Return the encoder alone, of an encoder-decoder, for a classifier.

        Raises:
            TransferlabError: a source without a decoder.
        """
        alone = FAMILIES[self.family].encoder
        config = self.config if alone is None else alone(self.config)
        if config == self.config:
            raise TransferlabError(f"{self.name} has no decoder to drop; use the source itself.")
        paths = trees.flatten(trees.define(config.build()).params)
        dropped = [(leaf.key, "of the decoder") for path, leaf in self.leaves.items() if path not in paths]
        leaves = {path: self.leaves[path] for path in paths}
        provenance = {**self.provenance, "changes": {**self.provenance.get("changes", {}), "encoder": True}}
        return replace(
            self, config=config, head=None, leaves=leaves, unused=(*self.unused, *dropped), provenance=provenance
        )

    @check_arguments
    def with_params(
        self, params: Mapping[str, Any], state: Mapping[str, Any] | None = None, *, head: HeadConfig | None = None
    ) -> Source:
        """Return the same source with these arrays in place of the file's, as after training.

        Args:
            params: nested dict of arrays by the source's paths; other leaves stay the file's.
            state: batch statistics, as ``params``.
            head: config of the trained head, if it is not the checkpoint's own.

        Raises:
            TransferlabError: a leaf that the architecture does not have, or of another shape.

        Example:
            >>> bias = np.zeros(384, np.float32)
            >>> source.with_params({"embed": {"norm": {"bias": bias}}})
        """
        head = self.head if head is None else head
        config = self.config
        if isinstance(head, LanguageModelConfig) and head != self.head and hasattr(config, "tie_word_embeddings"):
            config = replace(config, tie_word_embeddings=head.tied)
        definition = trees.define(config.build(head))
        expected = {**trees.flatten(definition.params), **trees.flatten(definition.state)}
        arrays = {**trees.flatten(params), **trees.flatten(state or {})}
        if adapters := [path for path in arrays if "/lora/" in path]:
            raise TransferlabError(
                f"'{adapters[0]}' belongs to an adapter. Merge it first: adapted.merged(), or save it alone: "
                "adapted.save_adapter(directory)."
            )
        if problems := [
            f"'{path}' is not a leaf of {self.name}.{nearest(path, expected)}"
            for path in sorted(arrays.keys() - expected)[:12]
        ]:
            raise TransferlabError("\n  ".join(problems))
        names = self.names_for(head)
        keys = {} if names is None else {name.path: name.key for name in names.names}
        leaves = {}
        for path, leaf in expected.items():
            old = self.leaves.get(path)
            if path in arrays:
                value = arrays[path]
                previous = old if names is self.names or not path.startswith("head/") else None
                leaves[path] = LazyLeaf(
                    previous.key if previous else keys.get(path, path), _in_memory(value), SAME, trained=True
                )
            elif old is not None and not (path.startswith("head/") and head != self.head):
                leaves[path] = old
            else:
                raise TransferlabError(f"'{path}' {tuple(leaf.shape)} is neither in params nor in {self.name}.")
            if leaves[path].shape != tuple(leaf.shape):
                raise TransferlabError(
                    f"'{path}' has shape {leaves[path].shape}; {self.name} expects {tuple(leaf.shape)}."
                )
        new = replace(self, config=config, head=head, leaves=leaves, names=names)
        return (
            replace(new, pooling=head.pooling, normalise=head.normalise) if isinstance(head, EmbeddingConfig) else new
        )

    @property
    def table(self) -> str:
        """Path of the table that has a row for each token, the one that a tied head shares; empty without one."""
        path = FAMILIES[self.family].vocabulary
        return path if path in self.leaves else ""

    @property
    def tied(self) -> bool:
        """Whether the head's kernel is the table of tokens."""
        return isinstance(self.head, LanguageModelConfig | MaskedLanguageModelConfig) and self.head.tied

    def names_for(self, head: HeadConfig | None) -> NameTable | None:
        """Return the table of names of files with this head: each kind of head has a key of its own."""
        names = self.names
        if names is None or head is None or names.holds(head):
            return names
        if isinstance(head, TokenClassifierConfig):
            return FAMILIES[self.family].token_names(names, head.hidden is not None)
        fitting = [table for table in self.dialect() if table.holds(head)]
        if not fitting and isinstance(head, (ClassifierConfig, EmbeddingConfig)):
            fitting = [table for table in FAMILIES[self.family].names(self.config) if table.language_model is None]
        return fitting[0] if fitting else None

    def dialect(self) -> tuple[NameTable, ...]:
        """Return the tables that name all but the head as this source's does, its own first."""
        if self.names is None:
            return ()
        own, tables = _backbone(self.names), FAMILIES[self.family].names(self.config)
        return (self.names, *(table for table in tables if table != self.names and _backbone(table) == own))

    @check_arguments
    def module(self, dtype: Any = None) -> Any:
        """Return the Flax NNX module with its weights in memory, in the source's ``dtype`` or another.

        Called with arrays, it refuses an id that its table has no row for. Within ``jax.jit`` values are not known, and
        such an id takes the nearest row; check them first: ``source.checked(inputs)``.

        Example:
            >>> module = tl.load("minilm-l6").module("bfloat16")
        """
        dtype = self.dtype if dtype is None else jnp.dtype(dtype).name
        params, state = self.arrays if dtype == self.dtype else self._placed(dtype)
        return self.definition.merge(params, state, compute=dtype)

    @cached_property
    def sha256(self) -> str:
        """Hash over the sorted (path, dtype, shape, bytes) of all leaves, to which a run's checkpoint refers.

        It is of the file's values: the same for every image size. The head of a masked language model is left out: earlier
        versions did not read it.
        """
        masked = isinstance(self.head, MaskedLanguageModelConfig)
        leaves = {path: leaf for path, leaf in self.leaves.items() if not (masked and path.startswith("head/"))}
        read = {path: replace(leaf, resize=None).read() for path, leaf in leaves.items()}
        return trees.sha256(trees.unflatten(read))

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Evaluate the checkpoint: deterministic, jitted.

        Args:
            inputs: under the names of transformers: ``input_ids`` (batch, length), ``attention_mask``,
                ``token_type_ids``, ``position_ids``; ``pixel_values`` (batch, height, width, channels), normalized; or
                ``input_features`` (batch, frames, bands).

        Returns:
            ``hidden`` (the last hidden states as the reference base model returns them, or the final feature map with its
            channels last; docs/models.md has a row for each family), ``pooled`` where that model pools, ``embedding``
            where it maps that to a space shared with another tower, ``encoded`` (the encoder's states) where a decoder
            follows, and ``logits`` where the checkpoint has a head: (batch, labels), or (batch, length, vocabulary) of
            a language model. Of two towers: ``vision/hidden``, ``text/hidden``, ``image_embedding`` and
            ``text_embedding`` (of unit length), and ``logits`` (images, texts).

        Raises:
            TransferlabError: an input is unknown or missing, or its shape, dtype or values do not fit, such as an id that its
                table has no row for. Within ``jax.jit`` values are not known and not checked: such an id takes the nearest
                row; check them first: ``source.checked(inputs)``.
        """
        return self._evaluate(*self.arrays, self.checked(inputs))

    def checked(self, inputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Return the inputs as arrays.

        Raises:
            TransferlabError: a name is unknown, the first input is missing, or values do not fit; see :func:`check_inputs`.
        """
        if not isinstance(inputs, Mapping):
            first = FAMILIES[self.family].inputs[0]
            raise TransferlabError(
                f"{self.name} takes arrays by name, as {{'{first}': …}}, not a {type(inputs).__name__}."
                + (
                    " Of a text: source({'input_ids': [source.tokenizer.encode('a text').ids]})."
                    if self.tokenizer is not None
                    else ""
                )
            )
        for tower, model in self.definition.module.towers().items():
            if model.inputs[0] not in inputs:
                raise TransferlabError(
                    f"{self.name} needs '{model.inputs[0]}' for its tower '{tower}'; got {sorted(inputs)}."
                )
        known = FAMILIES[self.family].inputs
        for name in inputs:
            if name not in known:
                raise TransferlabError(f"'{name}' is not an input of {self.name}.{nearest(name, known)}")
        if known[0] not in inputs:
            raise TransferlabError(f"{self.name} needs '{known[0]}'; got {sorted(inputs)}.")
        reads = self.config.towers()["vision"] if self.towers else self.config
        texts = self.towers.get("text") if self.towers else self.transform
        check_inputs(
            inputs,
            self.name,
            self.leaves,
            channels=getattr(reads, "num_channels", None),
            vocabulary=token_table(self.name, FAMILIES[self.family], self.leaves),
            tokenizer=texts.tokenizer if isinstance(texts, TextTransform) else None,
        )
        return {name: jnp.asarray(value) for name, value in inputs.items()}

    @cached_property
    def arrays(self) -> tuple[trees.Tree, trees.Tree]:
        """(params, state) in memory, params in the source's ``dtype``."""
        return self._placed(self.dtype)

    def _placed(self, dtype: Any) -> tuple[trees.Tree, trees.Tree]:
        # Leaf by leaf, so that only a few are in memory twice; in a few threads, since the work is in numpy and jax.
        params, state = trees.flatten(self.params), trees.flatten(self.state)
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as workers:
            arrays = dict(zip(params, workers.map(lambda leaf: leaf.placed(dtype), params.values()), strict=True))
            stats = dict(zip(state, workers.map(lambda leaf: leaf.placed(jnp.float32), state.values()), strict=True))
        return trees.unflatten(arrays), trees.unflatten(stats)

    @cached_property
    def _evaluate(self) -> Any:
        return evaluation(self, self.network)


def _backbone(names: NameTable) -> set[tuple[str, str]]:
    return {(name.path, name.key) for name in names.names if not name.path.startswith("head/")}


def _in_memory(array: Any) -> LazyTensor:
    return LazyTensor(tuple(array.shape), np.dtype(array.dtype), lambda: np.asarray(array))

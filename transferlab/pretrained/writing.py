"""``save``: a source, or what was trained from it, as a directory that its origin loads: same keys, same bytes."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from transferlab import trees
from transferlab.compute.host import interruptible
from transferlab.data.text import TextTransform
from transferlab.errors import TransferlabError, check_arguments, nearest
from transferlab.files import (
    TEMPORARY,
    folder_named,
    is_written,
    make_usual,
    read_json,
    sync_directory,
    sync_tree,
    temporary_sibling,
    write_json,
    writing,
)
from transferlab.manifest import write_manifest
from transferlab.models.heads import ClassifierConfig, LanguageModelConfig
from transferlab.pretrained.cards import write_card
from transferlab.pretrained.companions import (
    changed_tokenizer,
    new_head,
    reads_otherwise,
    set_sizes,
    with_padding,
    write_changed_tokenizer,
)
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.formats import SAFETENSORS_DTYPES, LazyTensor, holds_nonfinite, safetensors_metadata
from transferlab.pretrained.loading import DESCRIPTION, label_names, load
from transferlab.pretrained.names import Name, Names, by_key
from transferlab.pretrained.orbax import write_tree
from transferlab.pretrained.preprocessing import read_preprocessor, write_preprocessor
from transferlab.pretrained.sentence_transformers import MODULES, read_modules
from transferlab.pretrained.source import LazyLeaf, Source
from transferlab.pretrained.timm import TimmConfig

FORMATS = ("hf", "timm", "orbax")
"""What can be written: a directory of Hugging Face (safetensors), of timm, or an Orbax checkpoint with readable paths."""


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
    """Write a source as a directory that its origin loads (transformers, timm, sentence-transformers), or as Orbax.

    Keys, prefixes, legacy names and dtypes stay as they were read, and so do all other fields of ``config.json``, the
    tokenizer's and the preprocessor's files. Tensors go from file to file one at a time. The directory gets its name
    when it is complete and was opened again.

    Args:
        source: from :func:`load`, or ``result.source`` of a finished run.
        directory: where to; it must not exist or be empty, unless ``overwrite``.
        params: arrays in place of the source's, as for :meth:`Source.with_params`.
        state: batch statistics in place of the source's.
        format: ``hf``, ``timm`` or ``orbax``; by default what the source was, or what its family is written as.
        dtype: that floating tensors are written in; by default each one's own.
        shard_bytes: size beyond which a file of weights is split.
        overwrite: whether what is there is replaced.

    Returns:
        The directory.

    Raises:
        TransferlabError: the format cannot hold this model (the field is named), or the directory is not empty.
    """
    if "://" in str(directory):
        raise TransferlabError(f"'{directory}' is no local directory; write to one and copy it there.")
    target = folder_named(directory, "directory").expanduser()
    if params is not None or state is not None:
        source = source.with_params(params or {}, state)
    own = _own_format(source)
    kind = own if format is None else format
    if kind not in FORMATS:
        raise TransferlabError(f"'{kind}' cannot be written.{nearest(str(kind), FORMATS)}")
    if shard_bytes < 1:
        raise TransferlabError(f"shard_bytes is {shard_bytes}; a file holds at least 1 byte.")
    if dtype is not None and not (dtype in SAFETENSORS_DTYPES.values() and jnp.issubdtype(dtype, jnp.floating)):
        raise TransferlabError(f"dtype '{dtype}' is no floating type; float32, float16 and bfloat16 are.")
    if kind != "orbax" and new_head(source):
        source = origins_layers(source)
    with new_directory(target, overwrite) as made:
        _copy_companions(source, made)
        _write_tokenizer(source, made)
        sized = reads_otherwise(source, made)
        if kind == "orbax":
            if changed_tokenizer(source):
                write_changed_tokenizer(source, made, None)
            _write_orbax(source, made, dtype)
        else:
            if kind == own and source.raw is not None:
                raw, tensors = _native(source, kind, sized)
            else:
                raw, tensors = _converted(source, kind)
            if changed_tokenizer(source):
                write_changed_tokenizer(source, made, raw)
            if kind == "hf" and source.head is not None and source.head.pooling == "last" and new_head(source):
                raw = with_padding(source, raw, made)
            if dtype is not None:
                tensors = {key: _cast(tensor, np.dtype(dtype), key) for key, tensor in tensors.items()}
                raw = _with_dtype(raw, dtype)
            write_json(made / "config.json", raw)
            write_weights(made, tensors, shard_bytes, _metadata(source))
        _write_preprocessor(source, made, kind)
        if sized or source.origin.get("changes") or any(leaf.trained for leaf in source.leaves.values()):
            write_card(source, made, kind)
        if kind == "orbax":
            write_manifest(made)
        _check(source, made)
    return target


def write_weights(
    directory: Path, tensors: Mapping[str, LazyTensor], shard_bytes: int, metadata: Mapping[str, str]
) -> None:
    """Write ``model.safetensors``, or shards of at most ``shard_bytes`` (a larger tensor is alone) and their index."""
    shards: list[dict[str, LazyTensor]] = [{}]
    size = 0
    for key, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        write_safetensors(directory / "model.safetensors", tensors, metadata)
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(directory / name, shard, metadata)
        weight_map |= dict.fromkeys(shard, name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(directory / "model.safetensors.index.json", index)


_ORDER = (
    "bool", "uint8", "int8", "float8_e5m2", "float8_e4m3fn", "int16", "uint16", "float16", "bfloat16", "int32", "uint32",
    "float32", "float64", "int64", "uint64",
)  # fmt: skip
"""As the origin's library sorts a file, the last first: wide types first keeps every tensor aligned."""


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file as the origin's own library does, byte for byte, with one tensor in memory at a time."""
    names = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
    for key, tensor in tensors.items():
        if tensor.dtype not in names:
            raise TransferlabError(f"'{key}' is of {tensor.dtype}, which safetensors do not know.")
    keys = sorted(tensors, key=lambda key: (-_ORDER.index(tensors[key].dtype.name), key))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for key in keys:
        tensor = tensors[key]
        entry = {"dtype": names[tensor.dtype], "shape": list(tensor.shape)}
        header[key] = entry | {"data_offsets": [place, place := place + tensor.nbytes]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in keys:
            tensor = tensors[key]
            array = trees.contiguous(np.asarray(tensor.read()))
            if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
                raise TransferlabError(f"'{key}' was read as {array.shape} {array.dtype}, not {tensor.shape}.")
            file.write(array.reshape(-1).view(np.uint8).data)
            tensor.release()
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def new_directory(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling; it takes the target's name when the block ends well, else it is removed.

    Raises:
        TransferlabError: the target is a file, or a directory that holds something, and ``overwrite`` is not given.
    """
    _restore_old(target)
    if target.exists() and not target.is_dir():
        raise TransferlabError(f"{target} is a file; a directory is written.")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise TransferlabError(f"{target} is not empty. Give another directory, or overwrite it.")
    if target.is_dir() and any(target.iterdir()):
        _check_replaceable(target)
    with writing(target), temporary_sibling(target, directory=True) as temporary:
        old = temporary.with_name(temporary.name + _OLD)
        try:
            yield temporary
            sync_tree(temporary)
            make_usual(temporary, 0o777)
            if target.is_dir():
                os.replace(target, old)
            os.replace(temporary, target)
        except BaseException:
            if old.is_dir() and not target.exists():
                os.replace(old, target)
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    sync_directory(target.parent)


_OLD = ".old"
"""How the name of a directory ends that is being replaced."""


def _restore_old(target: Path) -> None:
    """Give back the name of what a writer was replacing when it was killed; where the new one has the name, the old goes."""
    if not target.parent.is_dir():
        return
    for old in target.parent.glob(f".{glob.escape(target.name)}.*{TEMPORARY}{_OLD}"):
        if is_written(old.with_name(old.name.removesuffix(_OLD))):
            continue
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, target)


# ---------------------------------------------------------------------------------------------------------------


def _native(source: Source, kind: str, sized: bool) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """Return (config.json, tensors) in the source's own dialect: what was not changed goes as it lies in the file.

    ``sized`` says whether images are read in another size than the file's own settings say; else what the file holds for
    another size stays, as the origin resizes it too.
    """
    assert source.raw is not None and source.names is not None
    raw: dict[str, Any] = json.loads(json.dumps(source.raw))
    by_path = {name.path: name for name in source.names.names}
    groups: dict[str, list[tuple[Name, LazyLeaf]]] = {}
    for path, leaf in source.leaves.items():
        if path not in by_path:
            raise TransferlabError(
                f"'{path}' has no key in {source.family}'s files: the origin has no such head. Write the format 'orbax'."
            )
        groups.setdefault(leaf.key, []).append((by_path[path], leaf))
    refitted = sized or changed_tokenizer(source)
    stale = _stale(source)
    out, resized = {key: tensor for key, tensor in source.tensors.items() if key not in stale}, False
    for key, parts in groups.items():
        own = source.tensors.get(key)
        as_read = all(leaf.tensor is own and not (refitted and leaf.resize) for _, leaf in parts)
        if own is not None and as_read:
            continue
        out[key] = _joined(parts, own.dtype if own is not None else _usual_dtype(source) or parts[0][1].dtype)
        resized |= own is not None and out[key].shape != own.shape and not parts[0][0].path.startswith("head/")
    if refitted or resized or not source.tensors:
        set_sizes(raw, source)
    head_keys = {key for key, parts in groups.items() if parts[0][0].path.startswith("head/")}
    # A head of another task can have the key of ours.
    unused = {key for key, _ in source.unused}
    added = any(key not in source.tensors or key in unused for key in head_keys)
    if added:
        out = _prefixed(out, source, raw, head_keys)
    head = source.head
    if isinstance(head, LanguageModelConfig) and added:
        # A tied head came apart from its table.
        raw["tie_word_embeddings"] = head.tied
        if hasattr(source.config, "scale_decoder_outputs"):
            raw["scale_decoder_outputs"] = source.config.scale_decoder_outputs
    if isinstance(head, ClassifierConfig) and (added or head.labels != _written_labels(raw, head)):
        _set_head(raw, source, kind)
    return raw, out


def _stale(source: Source) -> set[str]:
    """Keys of the source's files that lie beside the model, and that what was changed in it has made wrong."""
    gone = {key for key, why in source.unused if why == _NO_POOLER}
    table = source.leaves.get(source.table)
    if table is None or source.names is None or not (table.trained or changed_tokenizer(source)):
        return gone
    # Copies of the table, and heads of other tasks with a row for each token of it.
    rows = table.layout.shape(source.tensors[table.key].shape)[0] if table.key in source.tensors else table.shape[0]
    heads = {name.key for names in source.dialect() for name in names.names if name.path == "head/kernel"}
    for key, _ in source.unused:
        copies = any(re.fullmatch(pattern, key) for pattern, path in source.names.copies if path == source.table)
        regrown = changed_tokenizer(source) and source.tensors[key].shape[:1] == (rows,)
        gone |= {key} if copies or regrown or (source.tied and key in heads) else set()
    return gone


def _own_format(source: Source) -> str:
    """The format that a source came in; for a bare file one that its family is written as."""
    if source.raw is not None:
        return "hf" if "model_type" in source.raw else "timm"
    family = FAMILIES[source.family]
    return "timm" if family.to_hf is None and family.to_timm is not None else "hf"


def _converted(source: Source, kind: str) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """Return (config.json, tensors) in a dialect that the source was not read in."""
    family = FAMILIES[source.family]
    writers = {one.name: one.to_hf if kind == "hf" else one.to_timm for one in FAMILIES.values()}
    if writers[family.name] is None:
        able = ", ".join(name for name, writer in writers.items() if writer is not None)
        raise TransferlabError(
            f"A config.json of {family.name} cannot be made for the format '{kind}'. Of {able} it can be."
        )
    if kind == "timm":
        assert family.to_timm is not None
        timm, names = family.to_timm(source.config)
        if isinstance(source.head, ClassifierConfig):
            _check_head(source, source.config)
        return timm.written(source.image_transform, source.labels), _by_names(source, names)
    assert family.to_hf is not None
    raw, names = family.to_hf(source.config, source.head)
    if isinstance(source.head, ClassifierConfig):
        raw |= labels_of(source)
        _check_head(source, family.from_hf(raw))
    return raw, _by_names(source, names)


def _by_names(source: Source, names: Names) -> dict[str, LazyTensor]:
    out = {}
    for key, parts in by_key(names).items():
        given = [(name, source.leaves[name.path]) for name in parts if name.path in source.leaves]
        if given and len(given) < len(parts):
            raise TransferlabError(f"The key '{key}' cannot be written: a part of it is missing.")
        if given:
            out[key] = _joined(given, given[0][1].dtype)
    if lost := source.leaves.keys() - {name.path for name in names.names}:
        raise TransferlabError(f"'{min(lost)}' has no name in this format.")
    return out


def _joined(parts: list[tuple[Name, LazyLeaf]], dtype: np.dtype) -> LazyTensor:
    """One tensor of the file from the leaves that it fuses; it is made when it is read."""
    parts = sorted(parts, key=lambda part: part[0].layout.part)
    shapes = [name.layout.to_file(np.broadcast_to(np.zeros((), np.int8), leaf.shape)).shape for name, leaf in parts]
    axis, shape = parts[0][0].layout.axis, list(shapes[0])
    if len(parts) > 1:
        shape[axis] = sum(one[axis] for one in shapes)

    def read() -> np.ndarray:
        pieces = [name.layout.to_file(leaf.read()) for name, leaf in parts]
        whole = np.concatenate(pieces, axis) if len(pieces) > 1 else pieces[0]
        return whole if whole.dtype == dtype else whole.astype(dtype)

    return LazyTensor(tuple(shape), dtype, read)


def _cast(tensor: LazyTensor, dtype: np.dtype, key: str) -> LazyTensor:
    if not jnp.issubdtype(tensor.dtype, jnp.floating) or tensor.dtype == dtype:
        return tensor
    return LazyTensor(tensor.shape, dtype, lambda: _narrowed(tensor.read(), dtype, key), tensor.file, tensor.release)


def _narrowed(array: np.ndarray, dtype: np.dtype, key: str) -> np.ndarray:
    """The array in this floating type; what it has no number for is an error, not an infinity in the file."""
    with np.errstate(over="ignore"):
        made = array.astype(dtype)
    if holds_nonfinite(made) and not holds_nonfinite(array):
        raise TransferlabError(f"'{key}' has values beyond the range of {dtype}; write it with dtype='bfloat16'.")
    return made


def _usual_dtype(source: Source) -> np.dtype | None:
    """The floating type of most of the file; None without one."""
    sizes: dict[np.dtype, int] = {}
    for tensor in source.tensors.values():
        if jnp.issubdtype(tensor.dtype, jnp.floating):
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype], default=None)


def _prefixed(
    tensors: dict[str, LazyTensor], source: Source, raw: Mapping[str, Any], head_keys: set[str]
) -> dict[str, LazyTensor]:
    """A head goes on a backbone that is bare, or was under another: transformers has one prefix on all keys but the head's.

    What the file held beside the model (``unused``) stays behind; it belonged to another head.
    """
    assert source.names is not None
    used = {leaf.key for leaf in source.leaves.values()}
    kept = {key: tensor for key, tensor in tensors.items() if key in used}
    prefixes = source.names.prefixes
    own = f"{raw.get('model_type')}."
    prefix = own if own in prefixes else prefixes[-1] if prefixes else ""
    if any(key.startswith(prefix) for key in kept):
        return kept
    bare = {key: next((key.removeprefix(one) for one in prefixes if key.startswith(one)), key) for key in kept}
    return {key if key in head_keys else prefix + bare[key]: tensor for key, tensor in kept.items()}


def _written_labels(raw: Mapping[str, Any], head: Any) -> tuple[str, ...]:
    if "model_type" in raw:
        return label_names(dict(raw)) or tuple(str(i) for i in range(len(head.labels)))
    given = raw.get("pretrained_cfg") or raw
    names = tuple(given.get("label_names") or given.get("labels") or ())
    return names or tuple(
        str(i) for i in range(int(raw.get("num_classes", given.get("num_classes", len(head.labels)))))
    )


def _set_head(raw: dict[str, Any], source: Source, kind: str) -> None:
    """Write the head's labels into config.json, and the origin's class that has such a head."""
    assert source.head is not None
    n = len(source.head.labels)
    if kind == "timm":
        inner = raw["pretrained_cfg"] if isinstance(raw.get("pretrained_cfg"), dict) else raw
        raw["num_classes"] = inner["num_classes"] = n
        inner.pop("labels", None)
        inner["label_names"] = list(source.head.labels)
        if isinstance(raw.get("model_args"), dict) and "num_classes" in raw["model_args"]:
            raw["model_args"]["num_classes"] = n
        _check_head(source, FAMILIES[source.family].from_timm(TimmConfig.read(raw)))
        return
    raw.pop("num_labels", None)
    raw |= labels_of(source)
    family = FAMILIES[source.family]
    if family.to_hf is not None:
        raw["architectures"] = family.to_hf(source.config, source.head)[0]["architectures"]
    elif raw.get("architectures"):
        task = "ForSequenceClassification" if family.modality == "text" else "ForImageClassification"
        raw["architectures"] = [re.sub(r"(Model|LMHeadModel|For[A-Z]\w*)$", "", raw["architectures"][0]) + task]
    _check_head(source, family.from_hf(raw))


def _check_head(source: Source, config: Any) -> None:
    """The head of the origin's class, as it reads the config that is written, must compute what this one does."""
    head, family = source.head, FAMILIES[source.family]
    assert isinstance(head, ClassifierConfig)
    keep = "keep it as it is: tl.save(source, directory, format='orbax')"
    if head.bias and not family.head_bias:
        raise TransferlabError(f"The origin's classifier has no bias, this head has; {keep}.")
    wanted, hidden = family.head_pooling(config), family.head_hidden(config)
    if head.pooling != wanted:
        way = (
            f"Train with pooling='{wanted}', or {keep}"
            if wanted in source.definition.module.poolings
            else f"K{keep[1:]}"
        )
        raise TransferlabError(
            f"The origin's classifier pools by '{wanted}', this head by '{head.pooling}': it would answer otherwise. {way}."
        )
    if head.hidden != hidden:
        has = "no hidden layer, this head has one" if hidden is None else "a hidden layer, this head has none like it"
        way = "" if hidden is None else f"; train with Full or LoRA and pooling='{wanted}', whose head has it"
        raise TransferlabError(f"The origin's classifier has {has}{way}, or {keep}.")
    if head.normalise:
        raise TransferlabError(f"The origin's classifier does not scale what it pools; {keep}.")


def labels_of(source: Source) -> dict[str, Any]:
    """The head's labels as ``config.json`` holds them."""
    assert source.head is not None
    labels = source.head.labels
    table = {"id2label": {str(i): label for i, label in enumerate(labels)}}
    return table | {"label2id": {label: i for i, label in enumerate(labels)}}


def like_the_origins(source: Source) -> Source:
    """Return the source as the origin's class with a classifier holds it, of which only the labels' number is known.

    Raises:
        TransferlabError: it pools otherwise.
    """
    source = origins_layers(source)
    raw = dict(source.raw or {})
    if "model_type" in raw:
        _set_head(raw, source, "hf")
    else:
        _check_head(source, source.config)
    return source


_NO_POOLER = "the origin's class with this head has no pooler"


def origins_layers(source: Source) -> Source:
    """Return the source with the layers that the origin's class with its head has.

    Where the origin's classifier has a hidden layer, its class has no pooler. A classifier over the pooler (tanh of a linear
    map of the first token) is that classifier, with the pooler as its hidden layer; the pooler below another head is left
    out.
    """
    head, family = source.head, FAMILIES[source.family]
    hidden = family.head_hidden(source.config)
    if not isinstance(head, ClassifierConfig) or hidden is None or not getattr(source.config, "pooler", False):
        return source
    leaves = {path: leaf for path, leaf in source.leaves.items() if not path.startswith("pooler/")}
    if head.pooling == "pooler" and hidden.activation == "tanh" and head.hidden is None and not head.normalise:
        head = replace(head, pooling=family.head_pooling(source.config), hidden=hidden)
        keys = {name.path: name.key for name in source.names.names} if source.names is not None else {}
        for part in ("kernel", "bias"):
            path = f"head/dense/{part}"
            leaves[path] = replace(source.leaves[f"pooler/{part}"], key=keys.get(path, path), trained=True)
    gone = tuple((leaf.key, _NO_POOLER) for path, leaf in source.leaves.items()
                 if path.startswith("pooler/"))  # fmt: skip
    config = source.config.without_pooler()
    return replace(source, config=config, head=head, leaves=leaves, unused=(*source.unused, *gone))


def _with_dtype(raw: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    fields = [name for name in ("dtype", "torch_dtype") if name in raw]
    return {**raw, **dict.fromkeys(fields or (["dtype"] if "model_type" in raw else []), dtype)}


def _check_replaceable(target: Path) -> None:
    """Only a model's directory is replaced: what else lies there would be lost."""
    files = sorted(target.iterdir())
    if not any(_DESCRIBES.fullmatch(file.name) for file in files):
        raise TransferlabError(f"{target} holds no model, so it is not overwritten. There is: {files[0].name}.")
    for file in files:
        known = _DIRECTORIES if file.is_dir() else re.compile(f"{_WEIGHTS.pattern}|{_COMPANIONS.pattern}|{_HIDDEN}")
        if not known.fullmatch(file.name):
            raise TransferlabError(
                f"{target} is not overwritten: '{file.name}' is no part of a model, and would be lost."
            )


def _metadata(source: Source) -> dict[str, str]:
    """What stood beside the tensors in the source's files; transformers asks for the format."""
    for file in source.files.values():
        if isinstance(file, Path) and file.suffix == ".safetensors":
            return safetensors_metadata(file)
    return {"format": "pt"}


# ---------------------------------------------------------------------------------------------------------------


_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pth?|npz|gguf|h5|msgpack|onnx|ckpt|index\.json)|config\.json|adapter_config\.json|"
    r"pytorch_model.*|transferlab\.json|files\.json|tree"
)
_COMPANIONS = re.compile(r".*\.(json|txt|model|md|jinja|py\.txt)|LICENSE.*|NOTICE.*")
_LARGEST_COMPANION = 1 << 28
_MODULES = re.compile(r"\d+_\w+|additional_chat_templates")
_DIRECTORIES = re.compile(f"{_MODULES.pattern}|tree")
_DESCRIBES = re.compile(r"config\.json|adapter_config\.json|open_clip_config\.json|transferlab\.json")
_HIDDEN = r"\.gitattributes|\.gitignore|\.DS_Store"


def _copy_companions(source: Source, made: Path) -> None:
    """Copy what travels with the weights: tokenizer, preprocessor, sentence-transformers' modules, licence, card."""
    place = Path(source.origin.get("path", ""))
    if "path" not in source.origin or not place.is_dir():
        return
    # A model in a folder of its own among sentence-transformers' modules is written beside them.
    folder = read_modules(place).folder
    inner = sorted(folder.iterdir()) if folder != place else []
    for file in (*sorted(place.iterdir()), *inner):
        if file.is_dir() and _MODULES.fullmatch(file.name):
            if file != folder:
                shutil.copytree(file, made / file.name)
            continue
        wanted = _COMPANIONS.fullmatch(file.name) and not _WEIGHTS.fullmatch(file.name)
        if wanted and file.is_file() and file.stat().st_size <= _LARGEST_COMPANION:
            shutil.copyfile(file, made / file.name)
    if inner:
        first, *others = read_json(made / MODULES)
        write_json(made / MODULES, [{**first, "path": ""}, *others])


def _write_preprocessor(source: Source, made: Path, kind: str) -> None:
    """Where the files do not say how the source reads images, or say otherwise, write it."""
    transform = source.image_transform
    if transform is None or kind == "timm" or read_preprocessor(made, transform.channels) == transform:
        return
    write_preprocessor(made, transform)


def _write_orbax(source: Source, made: Path, dtype: str | None) -> None:
    """``tree``: every leaf under its readable path; ``transferlab.json``: what is needed to open it."""
    if source.raw is not None:
        write_json(made / "config.json", source.raw)
    write_json(
        made / DESCRIPTION,
        {
            "format": 1,
            "family": source.family,
            "config": asdict(source.config),
            "head": None if source.head is None else {"kind": type(source.head).__name__, **asdict(source.head)},
            # Names of the origin: with them it can be written for the origin again.
            "keys": {path: leaf.key for path, leaf in source.leaves.items()},
            "names": _table_number(source),
            "pooling": source.pooling,
            "normalise": source.normalise,
            "origin": {name: value for name, value in source.origin.items() if name != "path"},
        },
    )

    def one(leaf: LazyLeaf) -> np.ndarray:
        array = trees.contiguous(np.asarray(leaf.read()))
        if dtype is None or not jnp.issubdtype(array.dtype, jnp.floating):
            return array
        return _narrowed(array, np.dtype(dtype), leaf.key)

    # The layout and the image size of the tree; Orbax writes the tree as a whole, so here it is in memory once.
    tree = trees.unflatten({path: one(leaf) for path, leaf in source.leaves.items()})
    write_tree(made / "tree", tree)


def _table_number(source: Source) -> int:
    if source.names is None:
        return 0
    # By key: two layouts that do the same are not equal.
    tables = [[(name.path, name.key) for name in table.names] for table in FAMILIES[source.family].names(source.config)]
    return tables.index([(name.path, name.key) for name in source.names.names])


def _write_tokenizer(source: Source, made: Path) -> None:
    """A tokenizer that came without files of its own, as out of a GGUF file."""
    if source.tokenizer is None or any(
        (made / name).exists() for name in ("tokenizer.json", "vocab.txt", "vocab.json")
    ):
        return
    own = type(source.tokenizer).from_str(source.tokenizer.to_str())
    own.no_truncation()
    own.save(str(made / "tokenizer.json"))
    if not (made / "tokenizer_config.json").exists():
        assert isinstance(source.transform, TextTransform)
        limits = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": source.transform.max_length}
        write_json(made / "tokenizer_config.json", limits)


def _check(source: Source, made: Path) -> None:
    """Open what was written: it must be the same model, or the directory does not get its name."""
    again = load(made)
    want = {path: leaf.shape for path, leaf in source.leaves.items()}
    got = {path: leaf.shape for path, leaf in again.leaves.items()}
    if again.family != source.family or want != got:
        wrong = sorted(path for path in want.keys() | got.keys() if want.get(path) != got.get(path))
        raise TransferlabError(f"What was written reads otherwise: {again.family}, {', '.join(wrong[:8])}.")
    reads, read = source.image_transform, again.image_transform
    if reads is not None and (read is None or (read.size, read.channels) != (reads.size, reads.channels)):
        raise TransferlabError(f"What was written reads images of another size: {read}, not {reads}.")
    if again.labels != source.labels:
        raise TransferlabError("What was written has other labels.")
    ours, theirs = trees.flatten(asdict(source.config)), trees.flatten(asdict(again.config))
    # How the origin's head pools and how it resizes positions are matters of dialect, and so are first values,
    # a file's form of an MLP, where Swin pads, which its writer has checked, and on which side of CLIP's last norm
    # `hidden` is, which no pooled vector hangs on.
    dialect = (
        "pooling", "position_rule", "eos_token_id", "logit_scale", "logit_bias", "conv_mlp", "pad_first", "norm_hidden",
    )  # fmt: skip
    fields = [name for name in ours if ours[name] != theirs.get(name) and name.rpartition("/")[2] not in dialect]
    if fields:
        raise TransferlabError(f"What was written has another {', '.join(sorted(fields))} in its config.")

"""LoRA and DoRA adapters as PEFT writes them: ``adapter_config.json`` and ``adapter_model.safetensors``, by a source's paths.

The format: https://huggingface.co/docs/peft/developer_guides/checkpoint; the scale and the patterns: ``peft/tuners/lora``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from transferlab import limits
from transferlab.errors import TransferlabError, Unwritable, nearest
from transferlab.files import write_json
from transferlab.models.heads import ClassifierConfig, EmbeddingConfig, MaskedLanguageModelConfig, TokenClassifierConfig
from transferlab.pretrained.cards import write_card
from transferlab.pretrained.classifiers import as_reference_classifier, labels_of
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.formats.safetensors import read_safetensors, write_safetensors
from transferlab.pretrained.formats.tensors import LazyTensor, wrong_dtype
from transferlab.pretrained.formats.weights import read_any
from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.names import SAME, Entry, NameTable, entries_by_key, with_prefix
from transferlab.pretrained.new_directory import new_directory
from transferlab.pretrained.peft_config import AdapterConfig
from transferlab.pretrained.peft_modules import KERNEL, LABELS, modules_to_save, read_labels, with_modules
from transferlab.pretrained.registry import REGISTRY
from transferlab.pretrained.source import Source

_PREFIX = "base_model.model."
_LARGEST = float(np.finfo(np.float32).max)
_PARTS = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude_vector": "lora_magnitude_vector"}
"""Parts of an adapter and the suffixes of their keys; old files have ``.weight`` after each."""


@dataclass(frozen=True)
class Pair:
    """One adapter: ``scale · (x @ a) @ b`` is added to the output of a linear layer.

    Attributes:
        a: (in, rank).
        b: (rank, out).
        scale: alpha / rank, or alpha / √rank (rsLoRA, Kalajdzievski 2023).
        dropout: rate on its input in training.
        magnitude: (out,), of DoRA: the norm of each column of the adapted kernel; None for LoRA.
    """

    a: Any
    b: Any
    scale: float
    dropout: float = 0.0
    magnitude: Any = None

    def merged(self, kernel: Float[np.ndarray, "inputs outputs"]) -> Float[np.ndarray, "inputs outputs"]:
        """Return the kernel with the adapter merged into it, in float32."""
        whole = kernel + np.asarray(self.a, np.float32) @ np.asarray(self.b, np.float32) * np.float32(self.scale)
        if self.magnitude is None:
            return whole
        return whole * (np.asarray(self.magnitude, np.float32) / np.linalg.norm(whole, axis=0))

    @property
    def rank(self) -> int:
        """Width of the bottleneck."""
        return int(self.a.shape[1])


def read_adapter(directory: Path, source: Source) -> tuple[Source, dict[str, Pair]]:
    """Read a PEFT directory for this base; :func:`write_adapter` is its counterpart.

    Returns:
        The base with what the adapter replaces in it (``modules_to_save``, biases), and ``{kernel's path: its pair}``.
        An adapter of a tensor that the file fuses (timm's q, k, v) is one for each part, with the same ``a``.

    Raises:
        TransferlabError: a field or key that is not supported, or that does not fit this base; it is named.
    """
    path = directory / "adapter_config.json"
    if not path.exists():
        raise TransferlabError(f"{directory} is not a PEFT adapter: it has no adapter_config.json.")
    config = AdapterConfig.read(path)
    weights = directory / "adapter_model.safetensors"
    if weights.exists():
        tensors = read_safetensors(weights)
    elif (directory / "adapter_model.bin").exists():
        weights = directory / "adapter_model.bin"
        tensors = read_any(weights)
    else:
        raise TransferlabError(f"{directory} has no weights: expected adapter_model.safetensors or adapter_model.bin.")
    if source.names is None:
        raise TransferlabError(
            f"{source.name} has no keys of a reference implementation, by which a PEFT adapter names its modules."
        )
    # Adapters of transformers 4 name modules as the files do.
    dialect = source.dialect()
    if config.task == "TOKEN_CLS":
        family = FAMILIES[source.family]
        dialect = (family.token_names(dialect[0], family.token_hidden(source.config) is not None),)
    tables = [
        (
            table,
            {_module_key(key, source): parts for key, parts in entries_by_key(table).items()} | entries_by_key(table),
        )
        for table in dialect
    ]
    suffixes = {part: key for part, key in _PARTS.items() if config.use_dora or part != "magnitude_vector"}
    matrices: dict[str, dict[str, LazyTensor]] = {}
    replaced: dict[str, LazyLeaf] = {}
    heads: list[NameTable] = []
    for key, tensor in tensors.items():
        if wrong := wrong_dtype(key, tensor.dtype):
            raise TransferlabError(f"{weights}: {wrong}.")
        module, separator, rest = key.partition(".lora_")
        if separator:
            part = rest.removesuffix(".weight")
            if part not in suffixes:
                raise TransferlabError(
                    f"{weights}: '{key}' is not LoRA of a linear layer, the only kind that is supported."
                )
            matrices.setdefault(module.removeprefix(_PREFIX), {})[part] = tensor
            continue
        if ".original_module." in key:
            continue  # a module of modules_to_save before training; with bias="all" its bias is written too
        # Biases of adapted layers are below the layer that is wrapped.
        plain = key.removeprefix(_PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        table, names = _names(plain, tables, weights)
        for name in names:
            replaced[name.path] = LazyLeaf(key, tensor, name.layout)
            heads += [table] if name.path.startswith("head/") else []
    arrays = {path: _array(leaf, path, source) for path, leaf in replaced.items()}
    pairs: dict[str, Pair] = {}
    if len(matrices) * max(len(config.rank_pattern), len(config.alpha_pattern)) > limits.PATTERN_TRIES:
        raise TransferlabError(
            f"{path}: {len(matrices):,} modules times the patterns for their ranks are more than {limits.PATTERN_TRIES:,} "
            "tries (transferlab.limits)."
        )
    for module, parts in matrices.items():
        if lacking := [part for part in suffixes if part not in parts]:
            raise TransferlabError(f"{weights}: '{_PREFIX}{module}.{suffixes[lacking[0]]}' is missing.")
        table, names = _names(f"{module}.weight", tables, weights)
        for name in names:
            kernel = _kernel(name, source, arrays)
            pair = _pair(name, module, parts, config, source, kernel)
            if name.path == KERNEL and kernel is not None:
                # A head is one layer: with its adapter merged, it is another head.
                arrays[KERNEL] = pair.merged(np.asarray(kernel, np.float32))
                heads.append(table)
            else:
                pairs[name.path] = pair
    if not pairs and not arrays:
        raise TransferlabError(f"{weights} is empty: expected LoRA matrices or modules_to_save.")
    labels, problem = read_labels(directory)
    return with_modules(source, arrays, heads, config.tying, labels, problem, str(weights)), pairs


def _array(leaf: LazyLeaf, path: str, source: Source) -> np.ndarray:
    """Read what replaces a leaf, with as many axes as that has; a head may have other labels."""
    try:
        array = leaf.read()
    except (ValueError, IndexError):
        array = None
    own = source.leaves.get(path)
    axes = len(own.shape) if own is not None else 1 if path.endswith(("/bias", "/scale")) else 2
    if array is None or array.ndim != axes:
        raise TransferlabError(
            f"{leaf.tensor.file}: '{leaf.key}' has shape {leaf.tensor.shape}; {axes} axes fit '{path}'."
        )
    return array


def _kernel(name: Entry, source: Source, arrays: Mapping[str, np.ndarray]) -> Any:
    """The kernel that an adapter adapts, of a tied head the table; None where the base has none."""
    if name.path in arrays:
        return arrays[name.path]
    if name.path == KERNEL and source.tied:
        return arrays.get(source.table, source.leaves[source.table].read()).T
    leaf = source.leaves.get(name.path)
    return leaf if leaf is None or name.path != KERNEL else leaf.read()


def _module_key(key: str, source: Source) -> str:
    """The key by the names of transformers' present modules."""
    for pattern, today in FAMILIES[source.family].modules(str((source.raw or {}).get("model_type"))):
        key = re.sub(pattern, today, key)
    return key


def _names(
    key: str, tables: list[tuple[NameTable, dict[str, tuple[Entry, ...]]]], file: Path
) -> tuple[NameTable, tuple[Entry, ...]]:
    """The leaves that a key fills, and the table of names that says so."""
    for names, table in tables:
        plain = key
        for old, new in names.renames:
            plain = plain.removesuffix(old) + new if plain.endswith(old) else plain
        for choice in (plain, *(plain.removeprefix(prefix) for prefix in names.prefixes)):
            if choice in table:
                return names, table[choice]
    known = {key for _, table in tables for key in table}
    raise TransferlabError(f"{file}: '{key}' is not a tensor of this base.{nearest(key, known)}")


def _pair(
    name: Entry, module: str, parts: Mapping[str, LazyTensor], config: AdapterConfig, source: Source, kernel: Any
) -> Pair:
    a, b, magnitude = parts["A"], parts["B"], parts.get("magnitude_vector")
    where = f"{a.file}: the adapter of '{module}'"
    if kernel is None or not name.path.endswith("/kernel"):
        raise TransferlabError(f"{where} does not belong to the kernel of a linear layer of {source.name}.")
    shape = kernel.shape
    rank, (n, of) = config.rank(module), name.layout.part
    if len(shape) != 2 or a.shape != (rank, shape[0]) or b.shape != (shape[1] * of, rank):
        raise TransferlabError(
            f"{where} has A {a.shape} and B {b.shape}; rank {rank} on a kernel {shape} gives A {(rank, shape[0])} and "
            f"B {(shape[1] * of, rank)}."
        )
    if magnitude is not None and magnitude.shape != (shape[1] * of,):
        raise TransferlabError(
            f"{where} has a magnitude {magnitude.shape}; the kernel {shape} gives {(shape[1] * of,)}."
        )

    if abs(scale := config.scale(module)) > _LARGEST:
        raise TransferlabError(f"{where} has the scale {scale:g}, from its alpha; that is beyond the range of float32.")

    def read(part: str) -> np.ndarray:
        return LazyLeaf(f"{module}.{_PARTS[part]}", parts[part], SAME).read()

    mine = slice(n * shape[1], (n + 1) * shape[1])
    lengths = None if magnitude is None else read("magnitude_vector")[mine]
    return Pair(read("A").T, read("B")[mine].T, scale, config.dropout, lengths)


# ---------------------------------------------------------------------------------------------------------------


def write_adapter(
    directory: Path, source: Source, pairs: Mapping[str, Pair], head: bool = True, overwrite: bool = False
) -> None:
    """Write a PEFT directory: the pairs, and the source's head as one of ``modules_to_save``.

    :func:`read_adapter` is its counterpart.

    Raises:
        TransferlabError: a kernel that the reference implementation's file fuses with others, or a head whose logits the
            reference class would not give.
    """
    if not pairs:
        raise TransferlabError(
            "There is no adapter to write: the run trained no LoRA. Save the model: tl.save(source, directory)."
        )
    dora = {pair.magnitude is not None for pair in pairs.values()}
    if len(dora) > 1:
        plain = next(path for path, pair in pairs.items() if pair.magnitude is None)
        raise TransferlabError(f"'{plain}' has LoRA and other kernels have DoRA; a PEFT adapter has one kind for all.")
    source, table, by_path = adapter_names(source, sorted(pairs), head)
    with_head = head and bool(source.labels)
    whole = head and source.head is not None and not isinstance(source.head, EmbeddingConfig)
    tensors, ranks, alphas, transposed = {}, {}, {}, set()
    for path, pair in sorted(pairs.items()):
        name = by_path[path]
        module = name.key.removesuffix(".weight")
        ranks[module], alphas[module] = pair.rank, pair.scale * pair.rank
        transposed.add(name.layout is SAME)
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = np.asarray(pair.a, np.float32).T
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = np.asarray(pair.b, np.float32).T
        if pair.magnitude is not None:
            tensors[f"{_PREFIX}{module}.lora_magnitude_vector"] = np.asarray(pair.magnitude, np.float32)
    saved, fields = modules_to_save(source, table, ranks, head)
    tensors |= {_PREFIX + key: tensor for key, tensor in saved.items()}
    rank, alpha = _commonest(ranks), _commonest(alphas)
    base, revision = _base(source)
    raw = {
        "peft_type": "LORA",
        "task_type": _task(source, whole),
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": next(iter(pairs.values())).dropout,
        "target_modules": sorted(ranks),
        "rank_pattern": {module: n for module, n in ranks.items() if n != rank},
        "alpha_pattern": {module: n for module, n in alphas.items() if n != alpha},
        "fan_in_fan_out": transposed == {True},
        "use_rslora": False,
        "use_dora": dora == {True},
        "init_lora_weights": True,
        **fields,
    }
    lazy = {key: LazyTensor(t.shape, t.dtype, lambda t=t: t) for key, t in tensors.items()}
    with new_directory(directory, overwrite) as temporary:
        write_json(temporary / "adapter_config.json", raw)
        if with_head:
            write_json(temporary / LABELS, labels_of(source))
        write_card(source, temporary, "peft")
        write_safetensors(temporary / "adapter_model.safetensors", lazy, {"format": "pt"})


def adapter_names(
    source: Source, adapted: Sequence[str], head: bool = True
) -> tuple[Source, NameTable, dict[str, Entry]]:
    """Return the names by which PEFT finds what is adapted, without reading a value.

    Args:
        source: the base, with its head.
        adapted: paths of the kernels with an adapter.
        head: whether the head is written too.

    Returns:
        The source as the reference class with its head holds it, that class's table of names, and its entries by path.

    Raises:
        Unwritable: PEFT cannot hold such an adapter, or the reference class gives other logits; the message says what can.
    """
    merge = "Merge the adapter instead: tl.save(adapted.merged(), …)."
    if source.names is None:
        raise Unwritable(
            f"{source.name} has no keys of a reference implementation, by which a PEFT adapter names its modules.",
            "the source has no keys of a reference implementation",
        )
    if changes := sorted(source.provenance.get("changes", {}).keys() - {"encoder"}):
        raise Unwritable(
            f"{source.name} was changed as it was loaded ({', '.join(changes)}), and PEFT puts an adapter on the base as it "
            f"is in its files. {merge}",
            f"the source was changed as it was loaded ({', '.join(changes)})",
        )
    if head and isinstance(source.head, MaskedLanguageModelConfig):
        raise Unwritable(
            "A PEFT adapter does not hold the head of a masked language model, which shares the table of tokens. Write the adapters "
            "alone, adapted.save_adapter(directory, head=False), or the whole model, tl.save(adapted.merged(), directory).",
            "the head shares the table of tokens",
            "save_adapter(…, head=False) writes the adapters alone",
        )
    source = as_reference_classifier(source) if head and source.labels else source
    whole = head and source.head is not None and not isinstance(source.head, EmbeddingConfig)
    family, own = FAMILIES[source.family], source.names
    assert own is not None
    kind = (source.raw or {}).get("model_type", family.model_types[0] if family.model_types else "")
    prefixed = [prefix for prefix in own.prefixes if prefix == f"{kind}."] or list(own.prefixes[-1:])
    table = with_prefix(own, prefixed[0], but=("head/",)) if whole and prefixed else own
    modules = (
        name if name.path.startswith("head/") else replace(name, key=_module_key(name.key, source))
        for name in table.names
    )
    table = replace(table, names=tuple(modules))
    by_path = {name.path: name for name in table.names}
    if (
        head
        and source.labels
        and (unnamed := {path for path in source.leaves if path.startswith("head/")} - by_path.keys())
    ):
        raise Unwritable(
            f"'{min(unnamed)}' has no key in {family.name}'s files: the reference model has no such head. {merge}",
            f"the reference model's files have no '{min(unnamed)}'",
        )
    for path in adapted:
        if path not in by_path or path not in source.leaves:
            raise Unwritable(
                f"'{path}' has an adapter, but the reference model with such a head has no such module. {merge}",
                f"the reference model with such a head has no '{path}'",
            )
        name = by_path[path]
        if name.layout.part[1] > 1:
            raise Unwritable(
                f"'{path}' is a part of '{name.key}' in {family.name}'s files, and PEFT adapts that as a whole. {merge}",
                f"'{path}' is a part of '{name.key}', which it adapts as a whole",
            )
    return source, table, by_path


def _base(source: Source) -> tuple[str, str | None]:
    """The base's name on the hub (and its revision) or its path, as it was loaded; never its path in a cache."""
    if source.name.startswith("hf:"):
        name, _, revision = source.name.removeprefix("hf:").partition("@")
        return name, revision or None
    path = Path(source.name).expanduser()
    return (os.path.abspath(path) if path.exists() and source.name not in REGISTRY else source.name), None


def base_name(config: AdapterConfig) -> str:
    """Return what :func:`load` takes for the base of an adapter: a path, a registry name, a bucket, or a name on the hub."""
    base = config.base
    if Path(base).exists() or base in REGISTRY or "://" in base or base.startswith("hf:"):
        return base
    return f"hf:{base}" + (f"@{config.revision}" if config.revision else "")


def _task(source: Source, whole: bool) -> str | None:
    if not whole:
        return "FEATURE_EXTRACTION"
    family = FAMILIES[source.family]
    if isinstance(source.head, TokenClassifierConfig):
        return "TOKEN_CLS"
    if not isinstance(source.head, ClassifierConfig):
        return "CAUSAL_LM" if family.encoder is None else "SEQ_2_SEQ_LM"
    return "SEQ_CLS" if family.modality == "text" else None


def _commonest(values: Mapping[str, Any]) -> Any:
    each = list(values.values())
    return max(each, key=each.count)

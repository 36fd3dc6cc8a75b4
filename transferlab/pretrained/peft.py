"""LoRA and DoRA adapters as PEFT writes them: ``adapter_config.json`` and ``adapter_model.safetensors``, by a source's paths.

The format: https://huggingface.co/docs/peft/developer_guides/checkpoint; the scale and the patterns: ``peft/tuners/lora``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from transferlab import limits
from transferlab.bounds import Count, Rate
from transferlab.errors import FieldError, TransferlabError, nearest
from transferlab.fields import check_fields, given_fields
from transferlab.files import write_json
from transferlab.models.heads import ClassifierConfig
from transferlab.pretrained.cards import write_card
from transferlab.pretrained.classifiers import labels_of, like_the_origins
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.formats.safetensors import read_safetensors, write_safetensors
from transferlab.pretrained.formats.tensors import LazyTensor, wrong_dtype
from transferlab.pretrained.formats.weights import read_any
from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.names import SAME, Entry, NameTable, entries_by_key, with_prefix
from transferlab.pretrained.new_directory import new_directory
from transferlab.pretrained.peft_modules import KERNEL, LABELS, modules_to_save, read_labels, with_modules
from transferlab.pretrained.registry import REGISTRY
from transferlab.pretrained.source import Source
from transferlab.reading import read_object

_PREFIX = "base_model.model."
_LARGEST = float(np.finfo(np.float32).max)
_PARTS = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude_vector": "lora_magnitude_vector"}
"""What an adapter is made of, and the end of its key; old files have ``.weight`` after each."""


@dataclass(frozen=True)
class Pair:
    """One adapter: ``scale · (x @ a) @ b`` is added to what a linear map gives.

    Attributes:
        a: (in, rank).
        b: (rank, out).
        scale: alpha / rank, or alpha / √rank (rsLoRA, Kalajdzievski 2023).
        dropout: on its input while it trains.
        magnitude: (out,), of DoRA: the length of each column of the adapted kernel; None for LoRA.
    """

    a: Any
    b: Any
    scale: float
    dropout: float = 0.0
    magnitude: Any = None

    def merged(self, kernel: Float[np.ndarray, "inputs outputs"]) -> Float[np.ndarray, "inputs outputs"]:
        """The kernel with the adapter in it, in float32."""
        whole = kernel + np.asarray(self.a, np.float32) @ np.asarray(self.b, np.float32) * np.float32(self.scale)
        if self.magnitude is None:
            return whole
        return whole * (np.asarray(self.magnitude, np.float32) / np.linalg.norm(whole, axis=0))

    @property
    def rank(self) -> int:
        """Width of the bottleneck."""
        return int(self.a.shape[1])


@dataclass(frozen=True)
class AdapterConfig:
    """What ``adapter_config.json`` says that changes the numbers."""

    r: Count
    lora_alpha: float
    rank_pattern: Mapping[str, Count]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    use_dora: bool
    dropout: Rate
    modules_to_save: tuple[str, ...]
    base: str
    revision: str = ""
    task: str = ""
    tying: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def read(cls, path: Path) -> AdapterConfig:
        """Read the file; a field that asks for what is not done here is an error that names it."""
        raw = read_object(path)
        if raw.get("peft_type") != "LORA":
            raise TransferlabError(f"{path}: peft_type is {raw.get('peft_type')!r}; only 'LORA' is read.")
        for field in _NOT_READ:
            if raw.get(field):
                raise TransferlabError(f"{path}: {field} is {str(raw[field])[:60]}; that is not supported.")
        task = raw.get("task_type")
        if task not in _TASKS:
            raise TransferlabError(
                f"{path}: task_type is '{str(task)[:40]}'; its head would be taken for another. Read are: "
                f"{', '.join(str(kind) for kind in _TASKS if kind)}, or none."
            )
        start = raw.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(("pissa", "olora", "corda", "loftq")):
            raise TransferlabError(
                f"{path}: init_lora_weights is '{start}', which changed the base's own weights. Save the adapter with "
                "PEFT's path_initial_model_for_weight_conversion, or merge it there."
            )
        numbers = {"lora_alpha": float, "lora_dropout": float}
        given = given_fields({**numbers, **dict.fromkeys(_FLAGS, bool)}, raw, where=str(path))
        modules = raw.get("modules_to_save")
        for name in numbers:
            if name in raw and name not in given:
                raise TransferlabError(f"{path}: {name} is None; it must be a number.")
        if not isinstance(modules, (list, type(None))):
            raise TransferlabError(f"{path}: modules_to_save is {str(modules)[:60]!r}; it must be a list of names.")
        try:
            read = cls(
                r=_whole(raw.get("r", 8)),
                lora_alpha=given.get("lora_alpha", 8.0),
                rank_pattern={str(k): _whole(v) for k, v in (raw.get("rank_pattern") or {}).items()},
                alpha_pattern={str(k): float(v) for k, v in (raw.get("alpha_pattern") or {}).items()},
                use_rslora=given.get("use_rslora", False),
                use_dora=given.get("use_dora", False),
                dropout=given.get("lora_dropout", 0.0),
                modules_to_save=tuple(str(name) for name in modules or ()),
                base=str(raw.get("base_model_name_or_path") or ""),
                revision=str(raw.get("revision") or ""),
                task=str(task or ""),
                tying=given.get("ensure_weight_tying", False),
            )
            if max(len(read.rank_pattern), len(read.alpha_pattern)) > limits.PATTERNS:
                raise ValueError(f"more than {limits.PATTERNS} patterns for its ranks; see transferlab.limits")
            for pattern in (*read.rank_pattern, *read.alpha_pattern):
                _pattern(pattern)
                if len(pattern) > 300 or re.search(r"\)[*+?{]", pattern) or len(re.findall(r"[*+?{]", pattern)) > 3:
                    raise ValueError(f"the pattern '{pattern[:40]}' could take for ever to match")
        except FieldError as error:
            raise TransferlabError(f"{path}: {error}") from None
        except (TypeError, ValueError, AttributeError, re.error, OverflowError, RecursionError) as error:
            raise TransferlabError(f"{path}: not a readable adapter config ({error}).") from None
        return read

    def rank(self, module: str) -> int:
        """The rank of a module's adapter."""
        return self.rank_pattern.get(_matching(module, self.rank_pattern), self.r)

    def scale(self, module: str) -> float:
        """The factor of a module's adapter."""
        alpha = self.alpha_pattern.get(_matching(module, self.alpha_pattern), self.lora_alpha)
        rank = self.rank(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


_FLAGS = ("use_rslora", "use_dora", "ensure_weight_tying")
"""Fields that are true or false; a string would be true, whatever it says."""

_TASKS = (None, "SEQ_CLS", "CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION")
"""Values of ``task_type`` whose heads are read: over whole examples, or over the vocabulary."""

_NOT_READ = (
    "lora_bias", "layer_replication", "alora_invocation_tokens", "trainable_token_indices",
    "target_parameters", "use_qalora", "use_bdlora", "arrow_config", "velora_config", "monteclora_config",
)  # fmt: skip
"""Fields of PEFT that ask for another computation than that of a :class:`Pair`."""


def _whole(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"a rank is {value!r}")
    return value


@lru_cache(maxsize=2 * limits.PATTERNS)
def _pattern(text: str) -> re.Pattern[str]:
    # As PEFT: a pattern fits a module's whole name, or its end after a dot; one that begins with ^ only the whole.
    return re.compile(text if text.startswith("^") else rf"(.*\.)?({text})$")


def _matching(module: str, patterns: Mapping[str, Any]) -> str:
    return next((p for p in patterns if _pattern(p).match(module[:300])), "")


def read_adapter(directory: Path, source: Source) -> tuple[Source, dict[str, Pair]]:
    """Read a PEFT directory for this base.

    Returns:
        The base with what the adapter replaces in it (``modules_to_save``, biases), and ``{kernel's path: its pair}``.
        An adapter of a tensor that the file fuses (timm's q, k, v) is one for each part, with the same ``a``.

    Raises:
        TransferlabError: a field or key that is not supported, or what does not fit this base; named.
    """
    path = directory / "adapter_config.json"
    if not path.exists():
        raise TransferlabError(f"{directory}: no adapter_config.json, so it is no PEFT adapter.")
    config = AdapterConfig.read(path)
    weights = directory / "adapter_model.safetensors"
    if weights.exists():
        tensors = read_safetensors(weights)
    elif (directory / "adapter_model.bin").exists():
        weights = directory / "adapter_model.bin"
        tensors = read_any(weights)
    else:
        raise TransferlabError(f"{directory}: no adapter_model.safetensors.")
    if source.names is None:
        raise TransferlabError(f"{source.name} has no names of an origin's modules, which the adapter goes by.")
    # Adapters of transformers 4 name modules as the files do.
    tables = [
        (
            table,
            {_module_key(key, source): parts for key, parts in entries_by_key(table).items()} | entries_by_key(table),
        )
        for table in source.dialect()
    ]
    wanted = {part: key for part, key in _PARTS.items() if config.use_dora or part != "magnitude_vector"}
    halves: dict[str, dict[str, LazyTensor]] = {}
    replaced: dict[str, LazyLeaf] = {}
    heads: list[NameTable] = []
    for key, tensor in tensors.items():
        if wrong := wrong_dtype(key, tensor.dtype):
            raise TransferlabError(f"{weights}: {wrong}.")
        module, half, rest = key.partition(".lora_")
        if half:
            part = rest.removesuffix(".weight")
            if part not in wanted:
                raise TransferlabError(f"{weights}: '{key}' is no LoRA of a linear map; that is not supported.")
            halves.setdefault(module.removeprefix(_PREFIX), {})[part] = tensor
            continue
        if ".original_module." in key:
            continue  # what a module of modules_to_save was before; with bias="all" its bias is written too
        # Biases of adapted maps stand below the map that is wrapped.
        plain = key.removeprefix(_PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        table, names = _names(plain, tables, weights)
        for name in names:
            replaced[name.path] = LazyLeaf(key, tensor, name.layout)
            heads += [table] if name.path.startswith("head/") else []
    arrays = {path: _array(leaf, path, source) for path, leaf in replaced.items()}
    pairs: dict[str, Pair] = {}
    if len(halves) * max(len(config.rank_pattern), len(config.alpha_pattern)) > limits.PATTERN_TRIES:
        raise TransferlabError(
            f"{path}: {len(halves):,} modules and so many patterns for their ranks; {limits.PATTERN_TRIES:,} tries are the "
            "most (transferlab.limits)."
        )
    for module, parts in halves.items():
        if lacking := [part for part in wanted if part not in parts]:
            raise TransferlabError(f"{weights}: '{_PREFIX}{module}.{wanted[lacking[0]]}' is missing.")
        table, names = _names(f"{module}.weight", tables, weights)
        for name in names:
            kernel = _kernel(name, source, arrays)
            pair = _pair(name, module, parts, config, source, kernel)
            if name.path == KERNEL and kernel is not None:
                # A head is one map: with its adapter in it, it is another head.
                arrays[KERNEL] = pair.merged(np.asarray(kernel, np.float32))
                heads.append(table)
            else:
                pairs[name.path] = pair
    if not pairs and not arrays:
        raise TransferlabError(f"{weights}: holds nothing.")
    labels = read_labels(directory)
    return with_modules(source, arrays, heads, config.tying, labels, str(weights)), pairs


def _array(leaf: LazyLeaf, path: str, source: Source) -> np.ndarray:
    """What takes a leaf's place, of its shape; a head may have other labels."""
    try:
        array = leaf.read()
    except (ValueError, IndexError):
        array = None
    own = source.leaves.get(path)
    wanted = len(own.shape) if own is not None else 1 if path.endswith(("/bias", "/scale")) else 2
    if array is None or array.ndim != wanted:
        raise TransferlabError(
            f"{leaf.tensor.file}: '{leaf.key}' has shape {leaf.tensor.shape}; {wanted} axes fit '{path}'."
        )
    return array


def _kernel(name: Entry, source: Source, arrays: Mapping[str, np.ndarray]) -> Any:
    """The kernel that an adapter is beside, of a tied head the table; None where the base has none."""
    if name.path in arrays:
        return arrays[name.path]
    if name.path == KERNEL and source.tied:
        return arrays.get(source.table, source.leaves[source.table].read()).T
    leaf = source.leaves.get(name.path)
    return leaf if leaf is None or name.path != KERNEL else leaf.read()


def _module_key(key: str, source: Source) -> str:
    """The key by the names of transformers' modules today."""
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
    raise TransferlabError(f"{file}: '{key}' is no tensor of this base.{nearest(key, known)}")


def _pair(
    name: Entry, module: str, parts: Mapping[str, LazyTensor], config: AdapterConfig, source: Source, kernel: Any
) -> Pair:
    a, b, magnitude = parts["A"], parts["B"], parts.get("magnitude_vector")
    where = f"{a.file}: the adapter of '{module}'"
    if kernel is None or not name.path.endswith("/kernel"):
        raise TransferlabError(f"{where} does not belong to the kernel of a linear map of {source.name}.")
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

    Raises:
        TransferlabError: a kernel that the origin's file fuses with others, or a head that the origin's would not answer
            like.
    """
    if not pairs:
        raise TransferlabError("There is no adapter to write.")
    dora = {pair.magnitude is not None for pair in pairs.values()}
    if len(dora) > 1:
        plain = next(path for path, pair in pairs.items() if pair.magnitude is None)
        raise TransferlabError(f"'{plain}' has LoRA and others DoRA; PEFT has one for all of an adapter.")
    if source.names is None:
        raise TransferlabError(f"{source.name} has no names of an origin's modules, which a PEFT adapter goes by.")
    if changes := sorted(source.provenance.get("changes", {}).keys() - {"encoder"}):
        raise TransferlabError(
            f"{source.name} was changed as it was loaded ({', '.join(changes)}), and PEFT puts an adapter on the base as it "
            "lies in its files. Merge the adapter instead: tl.save(adapted.merged(), …)."
        )
    with_head = head and isinstance(source.head, ClassifierConfig)
    whole = head and source.head is not None
    source = like_the_origins(source) if with_head else source
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
    tensors, ranks, alphas, transposed = {}, {}, {}, set()
    for path, pair in sorted(pairs.items()):
        if path not in by_path or path not in source.leaves:
            raise TransferlabError(
                f"'{path}' has an adapter, and the origin's model with such a head has no such module. Merge the adapter "
                "instead: tl.save(adapted.merged(), …)."
            )
        name = by_path[path]
        if name.layout.part[1] > 1:
            raise TransferlabError(
                f"'{path}' is a part of '{name.key}' in the origin's file, and PEFT adapts that as a whole. Merge the "
                "adapter instead: tl.save(adapted.merged(), …)."
            )
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
    with new_directory(directory, overwrite) as made:
        write_json(made / "adapter_config.json", raw)
        if with_head:
            write_json(made / LABELS, labels_of(source))
        write_card(source, made, "peft")
        write_safetensors(made / "adapter_model.safetensors", lazy, {"format": "pt"})


def _base(source: Source) -> tuple[str, str | None]:
    """The base as it was loaded, by its name on the hub (and its revision) or its path; never its place in a cache."""
    if source.name.startswith("hf:"):
        name, _, revision = source.name.removeprefix("hf:").partition("@")
        return name, revision or None
    path = Path(source.name).expanduser()
    return (os.path.abspath(path) if path.exists() and source.name not in REGISTRY else source.name), None


def base_name(config: AdapterConfig) -> str:
    """What ``load`` takes for the base of an adapter: a path, a registry name, a bucket, or a name on the hub."""
    base = config.base
    if Path(base).exists() or base in REGISTRY or "://" in base or base.startswith("hf:"):
        return base
    return f"hf:{base}" + (f"@{config.revision}" if config.revision else "")


def _task(source: Source, whole: bool) -> str | None:
    if not whole:
        return "FEATURE_EXTRACTION"
    family = FAMILIES[source.family]
    if not isinstance(source.head, ClassifierConfig):
        return "CAUSAL_LM" if family.encoder is None else "SEQ_2_SEQ_LM"
    return "SEQ_CLS" if family.modality == "text" else None


def _commonest(values: Mapping[str, Any]) -> Any:
    found = list(values.values())
    return max(found, key=found.count)

"""Names of a family matched to the keys of a file: every leaf filled, every key accounted for, or one error with all of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transferlab import trees
from transferlab.errors import TransferlabError, nearest
from transferlab.models.heads import ClassifierConfig, HeadConfig, Pooling
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.formats.tensors import LazyTensor, wrong_dtype
from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.names import NameTable, entries_by_key
from transferlab.pretrained.source import Source, Transform
from transferlab.pretrained.transforms import with_channels
from transferlab.pretrained.wrapped import AVERAGED, unwrapped


@dataclass(frozen=True)
class Described:
    """What came with the weights, beside their config.

    Attributes:
        transform: preprocessing, of a model of one tower.
        towers: each tower's, of a model of several.
        pooling: how one vector is made of an example; None where nothing says it. ``normalise``: whether it is scaled to
            length 1.
        labels: names of the head's labels, in the order of the logits.
        head_dropout: rate before the head.
        head: that is in the file, where it is described; else it is seen from the keys.
        classifies: whether a head in the file is over whole examples.
    """

    transform: Transform | None = None
    towers: Mapping[str, Transform | None] = field(default_factory=dict)
    pooling: Pooling | None = None
    normalise: bool = False
    labels: tuple[str, ...] = ()
    head_dropout: float = 0.0
    head: HeadConfig | None = None
    classifies: bool = True


def assemble(
    name: str,
    family: Family,
    config: Any,
    tensors: Mapping[str, LazyTensor],
    provenance: dict[str, Any],
    described: Described,
    names: NameTable | None = None,
) -> Source:
    """Match the name rules to the file: every leaf filled, every key accounted for, or one error with all of it.

    Args:
        name: of the source, as it was asked for.
        family: of its architecture.
        config: of its architecture; what the file really holds, as a pooler, is seen from its keys.
        tensors: of the file, by key.
        provenance: where it came from.
        described: what came with the weights.
        names: the table that the file follows; by default the family's that knows most of its keys.
    """
    # A family's own preprocessing does not say how many channels its pictures have.
    transform = with_channels(described.transform, family, config)
    towers = {tower: with_channels(reads, family, config) for tower, reads in described.towers.items()}
    if names is None:
        choices = family.names(config)
        tensors = unwrapped(choices, tensors)
        names = max(choices, key=lambda table: hits(table, tensors))
    found, leftover = _match(names, tensors)
    config = family.adjust(config, set(found))
    unused = []
    tables = family.names(config) if names.language_model is not None and "head/kernel" in found else ()
    tied = [table for table in tables if table.language_model and table.language_model.tied]
    if tied and _is_table(found, family.vocabulary):
        unused.append((found.pop("head/kernel").key, "equal to the embedding table, to which it is tied"))
        names = max(tied, key=lambda table: hits(table, tensors))
    if names.language_model is None and (not described.classifies or "head/kernel" not in found):
        for path in [path for path in found if path.startswith("head/")]:
            unused.append((found.pop(path).key, "the head of another task than classifying"))
    head = described.head or _head(name, family, names, config, found, described)
    definition = trees.define(config.build(head))
    wanted = {**trees.flatten(definition.params), **trees.flatten(definition.state)}
    problems = _misfits(names, {path: tuple(leaf.shape) for path, leaf in wanted.items()}, found, tensors)
    problems += _quantised(wanted, found)
    # The reference implementation loads its model all the same, and reports such keys as unexpected.
    unused += [
        (leaf.key, f"the network that its config says has no '{path}'")
        for path, leaf in found.items()
        if path not in wanted
    ]
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
    pooling = described.pooling or _pooling(family, config, head)
    provenance = {"name": name, "family": family.name, **provenance}
    return Source(
        name, family.name, config, head, leaves, tuple(unused), transform, pooling, described.normalise, provenance,
        names=names, tensors=tensors, towers=towers,
    )  # fmt: skip


def _misfits(
    names: NameTable,
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, LazyLeaf],
    tensors: Mapping[str, LazyTensor],
) -> list[str]:
    """Leaves of the network that the file lacks, or has in another shape than the ``wanted`` one."""
    problems = []
    for path, shape in wanted.items():
        if path not in found:
            key = next((n.key for n in names.names if n.path == path), "?")
            hint = nearest(key, tensors) if len(problems) < _SHOWN else ""
            problems.append(f"'{path}' (key '{key}') is not in the file.{hint}")
        elif found[path].shape != shape:
            here = found[path]
            problems.append(f"'{path}': key '{here.key}' has shape {here.tensor.shape}, which gives {here.shape}; "
                            f"the config asks for {shape}.")  # fmt: skip
    return problems


def _quantised(wanted: Mapping[str, Any], found: Mapping[str, LazyLeaf]) -> list[str]:
    """Keys of floating leaves whose numbers the file has as integers or in 8 bits, which say nothing without their scales."""
    kinds = {found[path].key: found[path].tensor.dtype for path, leaf in wanted.items()
             if path in found and np.dtype(leaf.dtype).kind not in "iub"}  # fmt: skip
    return [f"the file's {wrong}: quantised weights are not read from such files; load the model's weights as they were "
            "before, or a GGUF file of it." for key, kind in kinds.items() if (wrong := wrong_dtype(key, kind))]  # fmt: skip


def _pooling(family: Family, config: Any, head: HeadConfig | None) -> Pooling:
    """How a source pools of which nothing says it: as its own head does, or by its pooler."""
    own = family.head_pooling(config)
    # An encoder of texts without a head answers by its pooler, and not at all without one; what writes texts never has one.
    writes = own == "last" or family.encoder is not None
    text, pooler = family.modality == "text", getattr(config, "pooler", False)
    answers = head is None and (pooler or not writes) if text else pooler
    return "pooler" if answers else own


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
    names: NameTable,
    config: Any,
    found: Mapping[str, LazyLeaf],
    described: Described,
) -> HeadConfig | None:
    """The checkpoint's own head, if it has one: as a tied language-model head has no leaves, its table says it is there."""
    model = names.language_model
    if model is not None and (model.tied or "head/kernel" in found):
        return model
    if model is not None or "head/kernel" not in found:
        return None
    n, labels = found["head/kernel"].shape[1], described.labels
    if labels and len(labels) != n:
        raise TransferlabError(f"{name}: config.json names {len(labels)} labels, the head has {n} rows.")
    return ClassifierConfig(
        labels or tuple(str(i) for i in range(n)),
        pooling=family.head_pooling(config),
        dropout=described.head_dropout,
        bias="head/bias" in found,
        hidden=family.head_hidden(config),
    )


def hits(names: NameTable, tensors: Mapping[str, LazyTensor]) -> int:
    """Return how many leaves a table finds among the tensors."""
    return len(_match(names, tensors)[0])


def _match(names: NameTable, tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyLeaf], list[str]]:
    """Return ({path: leaf}, keys left over). Prefixes may be there or not; old suffixes are renamed."""
    table = entries_by_key(names)
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

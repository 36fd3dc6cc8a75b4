"""Names of a family matched to the keys of a file: every leaf filled, every key accounted for, or one error with all of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from transferlab import trees
from transferlab.errors import TransferlabError, nearest
from transferlab.models.heads import (
    ClassifierConfig,
    HeadConfig,
    MaskedLanguageModelConfig,
    Pooling,
    Problem,
    TokenClassifierConfig,
)
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.formats.tensors import LazyTensor, wrong_dtype
from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.names import SAME, NameTable, entries_by_key
from transferlab.pretrained.source import Source, Transform
from transferlab.pretrained.transforms import with_channels
from transferlab.pretrained.wrapped import AVERAGED, unwrapped


@dataclass(frozen=True)
class Described:
    """What came with the weights, besides their config.

    Attributes:
        transform: preprocessing, of a model of one tower.
        towers: each tower's, of a model of several.
        pooling: how an example becomes one vector; None where nothing says it. ``normalise``: whether it is scaled to
            length 1.
        labels: names of the head's labels, in the order of the logits.
        problem: what the head's outputs mean.
        head_dropout: rate before the head.
        head: of the file, where it is described; else it follows from the keys.
        classifies: whether a head in the file is over whole examples; ``tokens`` whether over each token, with
            ``token_dropout`` before it.
    """

    transform: Transform | None = None
    towers: Mapping[str, Transform | None] = field(default_factory=dict)
    pooling: Pooling | None = None
    normalise: bool = False
    labels: tuple[str, ...] = ()
    problem: Problem = "single_label_classification"
    head_dropout: float = 0.0
    head: HeadConfig | None = None
    classifies: bool = True
    tokens: bool = False
    token_dropout: float = 0.0


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
        name: of the source, as given to :func:`load`.
        family: of its architecture.
        config: of its architecture; whether the file holds a pooler is seen from its keys.
        tensors: of the file, by key.
        provenance: where it came from.
        described: what came with the weights.
        names: the table that the file follows; by default the family's that knows most of its keys.

    Raises:
        TransferlabError: leaves that are not in the file or have another shape, and keys that no leaf is read from; each
            is named, up to the first twelve.
    """
    # A family's own preprocessing does not say how many channels its images have.
    transform = with_channels(described.transform, family, config)
    towers = {tower: with_channels(reads, family, config) for tower, reads in described.towers.items()}
    if names is None:
        choices = family.names(config)
        if described.tokens and family.token_classifier:
            hidden = family.token_hidden(config) is not None
            choices = tuple(family.token_names(table, hidden) for table in choices)
        tensors = unwrapped(choices, tensors)
        fitting = [table for table in choices if _holds(table, tensors, described)]
        names = max(fitting, key=lambda table: hits(table, tensors))
    matches, leftover = _match(names, tensors)
    config = family.adjust(config, set(matches))
    unused = []
    tables = family.names(config) if names.language_model is not None and "head/kernel" in matches else ()
    tied = [table for table in tables if table.language_model and table.language_model.tied]
    if tied and _is_table(matches, family.vocabulary):
        unused.append((matches.pop("head/kernel").key, "equal to the embedding table, to which it is tied"))
        names = max(tied, key=lambda table: hits(table, tensors))
    classified = described.classifies or names.tokens
    if names.language_model is None and (not classified or "head/kernel" not in matches):
        for path in [path for path in matches if path.startswith("head/")]:
            unused.append((matches.pop(path).key, "the head of another task than classifying"))
    head = described.head or _head(name, family, names, config, matches, described)
    definition = trees.define(config.build(head))
    expected = {**trees.flatten(definition.params), **trees.flatten(definition.state)}
    problems = _misfits(names, {path: tuple(leaf.shape) for path, leaf in expected.items()}, matches, tensors)
    problems += _quantized(expected, matches)
    # The reference implementation loads its model all the same, and reports such keys as unexpected.
    unused += [
        (leaf.key, f"the network that its config says has no '{path}'")
        for path, leaf in matches.items()
        if path not in expected
    ]
    for key in leftover:
        reason = next((why for pattern, why in (*names.ignored, *AVERAGED) if re.fullmatch(pattern, key)), None)
        twin = next(
            (matches[path] for pattern, path in names.copies if path in matches and re.fullmatch(pattern, key)), None
        )
        if twin is not None and _equal(tensors[key], twin.tensor):
            unused.append((key, f"a copy of '{twin.key}'"))
        elif twin is not None:
            problems.append(
                f"the file's key '{key}' differs from '{twin.key}', but {family.name} has one table for both."
            )
        elif reason is None:
            problems.append(f"the file's key '{key}' {tensors[key].shape} matches no leaf of {family.name}.")
        else:
            unused.append((key, reason))
    if problems:
        more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        # A size in a damaged config can have thousands of digits.
        lines = [problem if len(problem) < 400 else f"{problem[:400]}…" for problem in problems[:_SHOWN]]
        raise TransferlabError(f"{name} does not fit {family.name}:\n  " + "\n  ".join(lines) + more)
    leaves = {path: matches[path] for path in expected}
    pooling = described.pooling or _pooling(family, config, head)
    provenance = {"name": name, "family": family.name, **provenance}
    return Source(
        name, family.name, config, head, leaves, tuple(unused), transform, pooling, described.normalise, provenance,
        names=names, tensors=tensors, towers=towers,
    )  # fmt: skip


def _misfits(
    names: NameTable,
    expected: Mapping[str, tuple[int, ...]],
    matches: Mapping[str, LazyLeaf],
    tensors: Mapping[str, LazyTensor],
) -> list[str]:
    """Leaves of the network that the file lacks, or has in another shape than the ``wanted`` one."""
    problems = []
    for path, shape in expected.items():
        if path not in matches:
            key = next((n.key for n in names.names if n.path == path), "?")
            hint = nearest(key, tensors) if len(problems) < _SHOWN else ""
            problems.append(f"'{path}' (key '{key}') is not in the file.{hint}")
        elif matches[path].shape != shape:
            leaf = matches[path]
            problems.append(f"'{path}': key '{leaf.key}' has shape {leaf.tensor.shape}, which gives {leaf.shape}; "
                            f"the config asks for {shape}.")  # fmt: skip
    return problems


def _quantized(expected: Mapping[str, Any], matches: Mapping[str, LazyLeaf]) -> list[str]:
    """Keys of floating-point leaves that the file has as integers or in 8 bits, which mean nothing without their scales."""
    kinds = {matches[path].key: matches[path].tensor.dtype for path, leaf in expected.items()
             if path in matches and np.dtype(leaf.dtype).kind not in "iub"}  # fmt: skip
    return [f"the file's {wrong}: quantized weights cannot be read from such files. Load the model's weights before "
            "quantization, or a GGUF file of it." for key, kind in kinds.items() if (wrong := wrong_dtype(key, kind))]  # fmt: skip


def _pooling(family: Family, config: Any, head: HeadConfig | None) -> Pooling:
    """Return the pooling of a source whose files do not say it: its head's, or its pooler."""
    own = family.head_pooling(config)
    # A text encoder without a head pools by its pooler, or not at all; a model that writes text never has one.
    writes = own == "last" or family.encoder is not None
    text, pooler = family.modality == "text", getattr(config, "pooler", False)
    # How tokens are predicted does not say how an example is pooled.
    alone = head is None or isinstance(head, MaskedLanguageModelConfig)
    by_pooler = alone and (pooler or not writes) if text else pooler
    return "pooler" if by_pooler else own


_SHOWN = 12
"""Problems that an error lists; only for those is the nearest name sought."""


def _is_table(matches: Mapping[str, LazyLeaf], vocabulary: str) -> bool:
    """Whether a language-model head's kernel equals the embedding table."""
    head, table = matches.get("head/kernel"), matches.get(vocabulary)
    return head is not None and table is not None and _equal(head.tensor, table.tensor)


def _equal(one: LazyTensor, other: LazyTensor) -> bool:
    """Whether two tensors hold the same values, compared in blocks: those that differ mostly do so in the first."""
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
    matches: Mapping[str, LazyLeaf],
    described: Described,
) -> HeadConfig | None:
    """The checkpoint's own head, if it has one; a tied language-model head has no leaves, so its table of names implies it."""
    model = names.language_model
    if isinstance(model, MaskedLanguageModelConfig):
        return replace(model, bias="head/bias" in matches)
    if model is not None and (model.tied or "head/kernel" in matches):
        return model
    if model is not None or "head/kernel" not in matches:
        return None
    n, labels = matches["head/kernel"].shape[1], described.labels
    if labels and len(labels) != n:
        raise TransferlabError(f"{name}: config.json names {len(labels)} labels, but the head has {n} rows.")
    if names.tokens:
        return TokenClassifierConfig(
            labels or tuple(str(i) for i in range(n)),
            described.token_dropout,
            "head/bias" in matches,
            family.token_hidden(config),
        )
    return ClassifierConfig(
        labels or tuple(str(i) for i in range(n)),
        pooling=family.head_pooling(config),
        dropout=described.head_dropout,
        bias="head/bias" in matches,
        hidden=family.head_hidden(config),
        problem=described.problem,
    )


def _holds(names: NameTable, tensors: Mapping[str, LazyTensor], described: Described) -> bool:
    """Whether a file can be read by this table: one with the head of a masked language model needs all of that, but for its bias,
    and no classifier of examples, which comes first.
    """
    if not isinstance(names.language_model, MaskedLanguageModelConfig):
        return True
    matches, leftover = _match(names, tensors)
    lacking = any(name.path.startswith("head/") and name.path not in {*matches, "head/bias"} for name in names.names)
    width = matches["embed/word/embedding"].shape if "embed/word/embedding" in matches else (0, 0)
    sizes = {"head/bias": width[:1], "head/dense/kernel": (width[-1],) * 2}
    fits = all(matches[path].shape == size for path, size in sizes.items() if path in matches)
    classifier = described.classifies and any(re.fullmatch(names.ignored[0][0], key) for key in leftover)
    return fits and not lacking and not classifier


def hits(names: NameTable, tensors: Mapping[str, LazyTensor]) -> int:
    """Return how many leaves a table finds among the tensors."""
    return len(_match(names, tensors)[0])


def _match(names: NameTable, tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyLeaf], list[str]]:
    """Return ({path: leaf}, keys left over). Prefixes are optional; old suffixes are renamed."""
    table = entries_by_key(names)
    matches: dict[str, LazyLeaf] = {}
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
            if name.path in matches:
                other = matches[name.path].key
                raise TransferlabError(f"Two keys of the file fill '{name.path}': '{other}' and '{key}'.")
            matches[name.path] = LazyLeaf(key, tensor, name.layout)
    # Of a bias that a head holds twice, a file may have either.
    for pattern, path in names.copies:
        copy = next((key for key in leftover if path.startswith("head/") and re.fullmatch(pattern, key)), None)
        if path not in matches and copy is not None:
            leftover.remove(copy)
            matches[path] = LazyLeaf(copy, tensors[copy], SAME)
    return matches, leftover

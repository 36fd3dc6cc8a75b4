"""What a PEFT adapter holds as a whole (``modules_to_save``): heads, tables of tokens, biases and norms.

The table of names that has a key says which head it belongs to; the source says whether a table and a head are one. PEFT gives
each module that it saves a copy of its own: of a tied pair of which one was trained, the other stays the base's, unless
``ensure_weight_tying`` is set (``peft/tuners/tuners_utils.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.models.heads import (
    ClassifierConfig,
    HeadConfig,
    LanguageModelConfig,
    MaskedLanguageModelConfig,
    Problem,
    TokenClassifierConfig,
)
from transferlab.pretrained.classifiers import problem_of
from transferlab.pretrained.config_checks import label_names
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.names import Entry, NameTable, entries_by_key
from transferlab.pretrained.source import Source
from transferlab.reading import read_json

LABELS = "labels.json"
"""Next to an adapter of ours: ``id2label``, as in a model's ``config.json``. PEFT's own files have no field for it."""

KERNEL = "head/kernel"


def with_modules(
    source: Source,
    arrays: Mapping[str, np.ndarray],
    tables: Sequence[NameTable],
    tying: bool,
    labels: tuple[str, ...],
    problem: Problem | None,
    where: str,
) -> Source:
    """Return the base with these arrays, by path, in place of its own.

    Args:
        source: the base.
        arrays: what the adapter holds as a whole.
        tables: the tables of names by which keys of a head were found: they say what kind of head it is.
        tying: PEFT's ``ensure_weight_tying``.
        labels: names of a classifier's labels, if they are known.
        problem: what they mean, if it is known.
        where: the adapter's file, for messages.

    Raises:
        TransferlabError: a head that lacks a layer, two heads, or a tied pair that is not equal; each is named.
    """
    if not arrays:
        return source
    kinds = {table.language_model is None for table in tables}
    if len(kinds) > 1:
        raise TransferlabError(f"{where} holds a language model's head and a classifier; expected one of them.")
    if tables and tables[0].tokens:
        return source.with_params(trees.unflatten(dict(arrays)), head=_token_classifier(source, arrays, labels, where))
    if kinds == {True}:
        head, arrays = _classifier(source, arrays, labels, problem, where)
        return source.with_params(trees.unflatten(dict(arrays)), head=head)
    if not source.tied:
        head = source.head if not tables or isinstance(source.head, _OVER_TOKENS) else tables[0].language_model
        return source.with_params(trees.unflatten(dict(arrays)), head=head)
    return _with_tied(source, arrays, tying, where)


_OVER_TOKENS = (LanguageModelConfig, MaskedLanguageModelConfig)


def _with_tied(source: Source, arrays: Mapping[str, np.ndarray], tying: bool, where: str) -> Source:
    """A base whose head is its table: they are untied where the adapter holds only one of them, or two that differ."""
    assert isinstance(source.head, _OVER_TOKENS)
    flat = dict(arrays)
    table, kernel = flat.get(source.table), flat.get(KERNEL)
    equal = table is not None and kernel is not None and np.array_equal(table, kernel.T)
    if tying and table is not None and kernel is not None and not equal:
        raise TransferlabError(
            f"{where}: ensure_weight_tying is set, but the table of tokens and the head differ. Set it to false to untie them."
        )
    if tying or equal or (table is None and kernel is None):
        if kernel is not None:
            flat[source.table] = flat.pop(KERNEL).T
        return source.with_params(trees.unflatten(flat))
    flat.setdefault(KERNEL, source.leaves[source.table].read().T)
    apart = source.with_params(trees.unflatten(flat), head=replace(source.head, tied=False))
    # A head that is still the base's table was not trained.
    leaf = replace(apart.leaves[KERNEL], trained=kernel is not None)
    return replace(apart, leaves={**apart.leaves, KERNEL: leaf})


def _token_classifier(
    source: Source, arrays: Mapping[str, np.ndarray], labels: tuple[str, ...], where: str
) -> TokenClassifierConfig:
    if KERNEL not in arrays:
        raise TransferlabError(f"{where} holds a part of a classifier, but not its last layer ('{KERNEL}').")
    family, raw, n = FAMILIES[source.family], dict(source.raw or {}), arrays[KERNEL].shape[-1]
    names = next(
        (each for each in (labels, source.labels, label_names(raw)) if len(each) == n), tuple(map(str, range(n)))
    )
    return TokenClassifierConfig(
        names, family.token_dropout(raw), "head/bias" in arrays, family.token_hidden(source.config)
    )


def _classifier(
    source: Source, arrays: Mapping[str, np.ndarray], labels: tuple[str, ...], problem: Problem | None, where: str
) -> tuple[HeadConfig, dict[str, np.ndarray]]:
    """The head of the reference classifier, and the arrays with those layers of it that are the base's."""
    family, own = FAMILIES[source.family], source.head
    raw = dict(source.raw or {})
    # As transformers' class reads it: it has a pooler even where the base's file has none.
    config = family.from_hf(raw) if "model_type" in raw else source.config
    if KERNEL not in arrays and not isinstance(own, ClassifierConfig):
        raise TransferlabError(f"{where} holds a part of a classifier, but not its last layer ('{KERNEL}').")
    n = arrays[KERNEL].shape[-1] if KERNEL in arrays else len(source.labels)
    config_labels = label_names(raw)
    names = next(
        (each for each in (labels, source.labels, config_labels) if len(each) == n), tuple(str(i) for i in range(n))
    )
    head = ClassifierConfig(
        names,
        pooling=family.head_pooling(config),
        dropout=family.head_dropout(raw),
        bias="head/bias" in arrays,
        hidden=family.head_hidden(config),
        problem=problem or problem_of(raw if len(config_labels) == n else {"id2label": dict(enumerate(names))}),
    )
    if isinstance(own, ClassifierConfig) and len(own.labels) == n:
        head = replace(own, labels=names, problem=problem or own.problem)
    if head.pooling == "pooler" and not getattr(source.config, "pooler", False):
        raise TransferlabError(
            f"{where}: the reference classifier reads the pooler, which is in neither {source.name} nor the adapter: it was "
            "drawn at random when the adapter was trained, and is lost. Train with the pooler's module in modules_to_save, or on a "
            "base that has it."
        )
    flat = dict(arrays)
    for path in trees.flatten(trees.define(source.config.build(head)).params):
        if not path.startswith("head/") or path in flat:
            continue
        leaf = source.leaves.get(path)
        if leaf is None or not isinstance(own, ClassifierConfig) or own.hidden != head.hidden or path == KERNEL:
            key = next((name.key for table in source.dialect() for name in table.names if name.path == path), path)
            raise TransferlabError(
                f"{where}: the classifier's '{key}' is neither in the adapter nor in {source.name}: it was drawn at random "
                f"when the adapter was trained, and is lost. Train with modules_to_save=[…, '{key.rpartition('.')[0]}']."
            )
        flat[path] = leaf.read()
    return head, flat


def read_labels(directory: Path) -> tuple[tuple[str, ...], Problem | None]:
    """Return the label names of an adapter that was written here, and what they mean; empty and None where nothing says it.

    Raises:
        TransferlabError: the file cannot be read.
    """
    path = directory / LABELS
    if not path.exists():
        return (), None
    raw = read_json(path)
    try:
        names = label_names(raw, str(path))
        return names, problem_of(raw)
    except (AttributeError, TypeError, ValueError):
        raise TransferlabError(f"{path}: expected {{'id2label': {{'0': …}}}}.") from None


# ---------------------------------------------------------------------------------------------------------------


def modules_to_save(
    source: Source, names: NameTable, adapted: Collection[str], head: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return what was trained as a whole, ``{key: tensor}``, and the fields of ``adapter_config.json`` that say so.

    Args:
        source: the base, with what was trained in it.
        names: the table of names by which PEFT finds the base's modules.
        adapted: the modules that have an adapter.
        head: whether the head is written.

    Raises:
        TransferlabError: PEFT cannot hold what was trained; the key is named.
    """
    paths = set(trees.flatten(source.definition.params))
    trained = {path for path in paths if source.leaves[path].trained and not path.startswith("head/")}
    if head and isinstance(source.head, (ClassifierConfig, TokenClassifierConfig)):
        trained |= {path for path in paths if path.startswith("head/")}
    elif head and isinstance(source.head, LanguageModelConfig):
        trained |= {path for path in paths if path.startswith("head/") and source.leaves[path].trained}
    tensors: dict[str, np.ndarray] = {}
    fields: dict[str, Any] = {"bias": "none"}
    saved: set[str] = set()
    keys, own = entries_by_key(names), {name.path: name for name in names.names}
    for path in sorted(trained):
        key = own[path].key
        module = _module(key)
        if module in adapted:
            # The bias of a layer that has an adapter is below the layer that PEFT wraps.
            tensors[key.replace(f"{module}.", f"{module}.base_layer.", 1)] = _whole(source, keys[key])
            fields["bias"] = "lora_only"
            continue
        saved.add(module)
        for other in (k for k in keys if k.startswith(f"{module}.") and k.rpartition(".")[0] == key.rpartition(".")[0]):
            if all(name.path in source.leaves for name in keys[other]):
                tensors[other] = _whole(source, keys[other])
    if source.tied and source.table in trained:
        head_key = next((name.key for table in source.dialect() for name in table.names
                         if table.language_model is not None and name.path == KERNEL), None)  # fmt: skip
        if head_key is None or FAMILIES[source.family].encoder is not None:
            raise TransferlabError(
                f"'{own[source.table].key}' was trained, and shares its values with other modules of {source.name}; PEFT "
                "has no adapter for them. Merge it: tl.save(adapted.merged(), …)."
            )
        fields["ensure_weight_tying"] = True
        tensors[head_key] = tensors[own[source.table].key]
    return tensors, {**fields, "modules_to_save": sorted(saved) or None}


def _module(key: str) -> str:
    """The module that PEFT saves for this key: a classifier of several layers as one, as PEFT itself does."""
    first = key.partition(".")[0]
    return first if first in ("classifier", "score") else key.rpartition(".")[0]


def _whole(source: Source, parts: tuple[Entry, ...]) -> np.ndarray:
    pieces = [name.layout.to_file(np.asarray(source.leaves[name.path].read(), np.float32)) for name in parts]
    return np.concatenate(pieces, parts[0].layout.axis) if len(pieces) > 1 else pieces[0]

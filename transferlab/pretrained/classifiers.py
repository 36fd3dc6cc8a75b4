"""A head for labels as the reference implementation's class has it: its labels in ``config.json``, its layers, what it cannot hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from transferlab.errors import TransferlabError, Unwritable, nearest
from transferlab.models.heads import (
    ClassifierConfig,
    HiddenLayer,
    MaskedLanguageModelConfig,
    Problem,
    TokenClassifierConfig,
)
from transferlab.pretrained.config_checks import label_names
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.formats.tensors import LazyTensor
from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.names import SAME
from transferlab.pretrained.sentence_transformers import POOLING_MODES
from transferlab.pretrained.source import Source
from transferlab.pretrained.timm import TimmConfig


def written_labels(raw: Mapping[str, Any], head: Any) -> tuple[str, ...]:
    """Return the labels that ``config.json`` gives a head; their indices where it names none."""
    if "model_type" in raw:
        return label_names(dict(raw)) or tuple(str(i) for i in range(len(head.labels)))
    fields = raw.get("pretrained_cfg") or raw
    names = tuple(fields.get("label_names") or fields.get("labels") or ())
    return names or tuple(
        str(i) for i in range(int(raw.get("num_classes", fields.get("num_classes", len(head.labels)))))
    )


def set_head(raw: dict[str, Any], source: Source, kind: str) -> None:
    """Write the head's labels into config.json, and the transformers class that has such a head."""
    assert source.head is not None
    n = len(source.head.labels)
    if kind == "timm":
        inner = raw["pretrained_cfg"] if isinstance(raw.get("pretrained_cfg"), dict) else raw
        raw["num_classes"] = inner["num_classes"] = n
        inner.pop("labels", None)
        inner["label_names"] = list(source.head.labels)
        if isinstance(raw.get("model_args"), dict) and "num_classes" in raw["model_args"]:
            raw["model_args"]["num_classes"] = n
        check_head(source, FAMILIES[source.family].from_timm(TimmConfig.read(raw)))
        return
    raw.pop("num_labels", None)
    raw.pop("problem_type", None)
    raw |= labels_of(source)
    family = FAMILIES[source.family]
    if isinstance(source.head, TokenClassifierConfig) and (raw.get("architectures") or family.to_hf is None):
        # T5's, MT5's and UMT5's classes are named by the model type in capitals.
        own = (raw.get("architectures") or [str(raw.get("model_type", "")).upper()])[0]
        name = re.sub(r"(EncoderModel|Model|LMHeadModel|For[A-Z]\w*)$", "", own)
        raw["architectures"] = [f"{name}ForTokenClassification"]
    elif family.to_hf is not None:
        written = family.to_hf(source.config, source.head)[0]
        raw |= {name: written[name] for name in ("architectures", *family.head_fields)}
    elif raw.get("architectures"):
        task = "ForSequenceClassification" if family.modality == "text" else "ForImageClassification"
        raw["architectures"] = [re.sub(r"(Model|LMHeadModel|For[A-Z]\w*)$", "", raw["architectures"][0]) + task]
    check_head(source, family.from_hf(raw))


def with_labels(raw: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Return ``config.json`` with the labels of the source's head, and what they mean, in place of others."""
    rest = {name: value for name, value in raw.items() if name not in ("num_labels", "problem_type")}
    return rest | labels_of(source)


def check_head(source: Source, config: Any) -> None:
    """Check that the reference class's head, given the config as written, computes what this head does.

    Raises:
        Unwritable: they differ in bias, pooling, hidden layer or normalization; the message says how to keep the head.
    """
    head, family = source.head, FAMILIES[source.family]
    keep = "keep it as it is: tl.save(source, directory, format='orbax')"
    if isinstance(head, TokenClassifierConfig):
        if not family.token_classifier or head.hidden != family.token_hidden(config) or not head.bias:
            raise Unwritable(
                f"The reference implementation has no such classifier of tokens in this family; {keep}.",
                "the reference implementation has no such classifier of tokens",
            )
        return
    assert isinstance(head, ClassifierConfig)
    if source.modality == "text" and head.pooling in POOLING_MODES:
        keep = (
            "write it for sentence-transformers: tl.save(source, directory, format='sentence-transformers'), or as it is: "
            "format='orbax'"
        )
    if head.bias and not family.head_bias:
        raise Unwritable(
            f"The reference classifier has no bias, but this head has one; {keep}.",
            "the reference classifier has no bias",
        )
    pooling, hidden = family.head_pooling(config), family.head_hidden(config)
    if head.pooling != pooling:
        fits = pooling in source.definition.module.poolings
        way = f"Train with pooling='{pooling}', or {keep}" if fits else f"{keep[0].upper()}{keep[1:]}"
        raise Unwritable(
            f"The reference classifier pools by '{pooling}', this head by '{head.pooling}': their logits would differ. {way}.",
            f"the reference classifier pools by {pooling}, this head by {head.pooling}",
            f"pooling='{pooling}' would fit" if fits else "",
        )
    if head.hidden != hidden:
        difference = (
            "no hidden layer, but this head has one" if hidden is None else "a hidden layer that this head lacks"
        )
        way = "" if hidden is None else f"; train with Full or LoRA and pooling='{pooling}', whose head has it"
        raise Unwritable(
            f"The reference classifier has {difference}{way}, or {keep}.",
            f"the reference classifier has {difference}",
            "" if hidden is None else f"Full or LoRA with pooling='{pooling}' would fit",
        )
    if head.normalise:
        raise Unwritable(
            f"The reference classifier does not normalize what it pools, but this head does; {keep}.",
            "the reference classifier does not normalize",
        )


def labels_of(source: Source) -> dict[str, Any]:
    """The head's labels as ``config.json`` holds them."""
    assert source.head is not None
    labels = source.head.labels
    table = {"id2label": {str(i): label for i, label in enumerate(labels)}}
    table |= {"label2id": {label: i for i, label in enumerate(labels)}}
    problem = getattr(source.head, "problem", _PLAIN)
    if problem == "regression" and len(labels) == 1 and source.modality == "text":
        # Else sentence-transformers' CrossEncoder puts one output through a sigmoid.
        table |= {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}
    # transformers takes a head of one output for a regression, unless it is told what it is.
    return table if problem == _PLAIN and len(labels) > 1 else table | {"problem_type": problem}


_PLAIN = "single_label_classification"


def problem_of(raw: Mapping[str, Any]) -> Problem:
    """What the outputs of a ``config.json``'s classifier mean; transformers takes a single one for a regression.

    Raises:
        TransferlabError: a ``problem_type`` that transformers has not.
    """
    problem = raw.get("problem_type")
    if problem is None:
        return "regression" if len(label_names(dict(raw))) == 1 else _PLAIN
    if problem not in get_args(Problem):
        raise TransferlabError(f"problem_type is {problem!r}.{nearest(str(problem), get_args(Problem))}")
    return problem


def as_reference_classifier(source: Source) -> Source:
    """Return the source as the reference class with a classifier holds it, given only the number of labels.

    Raises:
        TransferlabError: that class computes something else, as :func:`check_head` says.
    """
    source = with_reference_layers(source)
    raw = dict(source.raw or {})
    if "model_type" in raw:
        set_head(raw, source, "hf")
    else:
        check_head(source, source.config)
    return source


NO_POOLER = "the reference class with this head has no pooler"


def with_reference_layers(source: Source) -> Source:
    """Return the source with the layers that the reference class with its head has.

    Where the reference classifier has a hidden layer, its class has no pooler. A classifier over the pooler (tanh of a linear
    map of the first token) is that classifier, with the pooler as its hidden layer; the pooler below another head is dropped. So is
    the one below a new head of a masked language model. A hidden layer without an activation, which the head lacks, is the identity.
    """
    if getattr(source.config, "key_bias", False):
        source = _without_key_bias(source)
    head, family = source.head, FAMILIES[source.family]
    hidden = family.head_hidden(source.config)
    if isinstance(head, ClassifierConfig) and hidden is not None and hidden.activation == "linear":
        return source if head.hidden is not None else _with_identity(source, head, hidden)
    masked = (
        isinstance(head, MaskedLanguageModelConfig) and source.leaves["head/dense/kernel"].key not in source.tensors
    )
    if (masked or isinstance(head, TokenClassifierConfig)) and getattr(source.config, "pooler", False):
        return _without_pooler(
            source, {path: leaf for path, leaf in source.leaves.items() if not path.startswith("pooler/")}
        )
    if not isinstance(head, ClassifierConfig) or hidden is None or not getattr(source.config, "pooler", False):
        return source
    leaves = {path: leaf for path, leaf in source.leaves.items() if not path.startswith("pooler/")}
    if head.pooling == "pooler" and hidden.activation == "tanh" and head.hidden is None and not head.normalise:
        head = replace(head, pooling=family.head_pooling(source.config), hidden=hidden)
        keys = {name.path: name.key for name in source.names.names} if source.names is not None else {}
        for part in ("kernel", "bias"):
            path = f"head/dense/{part}"
            leaves[path] = replace(source.leaves[f"pooler/{part}"], key=keys.get(path, path), trained=True)
    return _without_pooler(replace(source, head=head), leaves)


def _with_identity(source: Source, head: ClassifierConfig, hidden: HiddenLayer) -> Source:
    """The same classifier with a projection before its logits that changes nothing."""
    width = source.leaves["head/kernel"].shape[0]
    keys = {} if source.names is None else {name.path: name.key for name in source.names.names}
    leaves = dict(source.leaves)
    for part, value in (("kernel", np.eye(width, dtype=np.float32)), ("bias", np.zeros(width, np.float32))):
        path = f"head/dense/{part}"
        tensor = LazyTensor(value.shape, value.dtype, lambda value=value: value)
        leaves[path] = LazyLeaf(keys.get(path, path), tensor, SAME, trained=True)
    head = replace(head, hidden=replace(hidden, size=width))
    return replace(source, head=head, config=replace(source.config, classifier_proj_size=width), leaves=leaves)


def _without_key_bias(source: Source) -> Source:
    """The source without the bias of its keys, which adds the same to all scores of a query: their softmax stays."""
    dropped = {path: leaf for path, leaf in source.leaves.items() if path.endswith("attention/key/bias")}
    leaves = {path: leaf for path, leaf in source.leaves.items() if path not in dropped}
    unused = tuple((leaf.key, "a bias of keys, which changes no output") for leaf in dropped.values())
    return replace(
        source, config=replace(source.config, key_bias=False), leaves=leaves, unused=(*source.unused, *unused)
    )


def _without_pooler(source: Source, leaves: dict[str, LazyLeaf]) -> Source:
    dropped = tuple((leaf.key, NO_POOLER) for path, leaf in source.leaves.items()
                 if path.startswith("pooler/"))  # fmt: skip
    config = source.config.without_pooler()
    return replace(source, config=config, leaves=leaves, unused=(*source.unused, *dropped))

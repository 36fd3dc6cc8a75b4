"""A classifier over pooled texts as sentence-transformers' ``Dense`` modules next to its encoder, in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from transferlab import trees
from transferlab.data.text import TextTransform
from transferlab.errors import TransferlabError, Unwritable
from transferlab.models.heads import ClassifierConfig, EmbeddingConfig, HiddenLayer, Pooling
from transferlab.pretrained.classifiers import problem_of
from transferlab.pretrained.config_checks import label_names
from transferlab.pretrained.dense import ACTIVATION_CLASSES, Dense
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.formats.tensors import LazyTensor, narrowed
from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.names import LINEAR, SAME
from transferlab.pretrained.sentence_transformers import POOLING_MODES, Modules, check_pooling
from transferlab.pretrained.source import Source

_KEEP = "Keep the model as it is: tl.save(source, directory, format='orbax')."


def as_encoder(source: Source) -> Source:
    """Return the encoder below a classifier of texts, as sentence-transformers has it: pooled, and of length 1 where it is so.

    Raises:
        Unwritable: what sentence-transformers' modules cannot compute; the message says how to keep the model.
    """
    head = source.head
    if source.modality != "text" or not isinstance(source.transform, TextTransform):
        raise Unwritable(
            f"sentence-transformers reads texts, and {source.name} does not, or came without a tokenizer. {_KEEP}",
            "it reads texts by their tokenizer",
        )
    if head is not None and not isinstance(head, ClassifierConfig | EmbeddingConfig):
        kind = type(head).__name__.removesuffix("Config")
        raise Unwritable(
            f"sentence-transformers has one vector for a text, and the head {kind} reads each token. {_KEEP}",
            "it has one vector for a text, and the head reads each token",
        )
    pooling, normalise = (source.pooling, source.normalise) if head is None else (head.pooling, head.normalise)
    check_vectors(source, pooling)
    if isinstance(head, ClassifierConfig) and (lacks := _lacking(head)):
        raise Unwritable(
            f"sentence-transformers' Dense has {lacks}, which this head has. {_KEEP}", f"Dense has {lacks}"
        )
    leaves = {path: leaf for path, leaf in source.leaves.items() if not path.startswith("head/")}
    vector = EmbeddingConfig(pooling, normalise)
    names = source.names_for(vector)
    return replace(source, head=vector, leaves=leaves, names=names, pooling=pooling, normalise=normalise)


def check_vectors(source: Source, pooling: Pooling) -> None:
    """Check that sentence-transformers gives the vectors of this encoder of texts.

    Raises:
        Unwritable: its tokenizers or poolings give others.
    """
    if FAMILIES[source.family].whole_length(source.config):
        raise Unwritable(
            f"{source.name} reads the padding of a text, up to the longest, and sentence-transformers pads a batch to its longest "
            f"text. {_KEEP}",
            "it pads a batch to its longest text, and this model reads the padding of each",
        )
    check_pooling(pooling, source.definition.module.poolings if pooling not in POOLING_MODES else ())


def _lacking(head: ClassifierConfig) -> str:
    """What of a head's hidden layer two modules ``Dense`` do not have; empty where they have all of it."""
    if head.hidden is None:
        return ""
    if head.hidden.norm is not None:
        return "no LayerNorm"
    return "" if head.hidden.activation in ACTIVATION_CLASSES else f"no activation '{head.hidden.activation}'"


def dense_layers(source: Source, dtype: str | None = None) -> tuple[Dense, ...]:
    """Return the layers of a classifier, its values unread; none of another head.

    Args:
        source: with the classifier.
        dtype: of the values as written; by default each one's own.
    """
    if not isinstance(head := source.head, ClassifierConfig):
        return ()

    def tensor(path: str, transposed: bool) -> LazyTensor | None:
        if (leaf := source.leaves.get(path)) is None:
            return None
        kind = leaf.dtype if dtype is None else np.dtype(dtype)
        shape = leaf.shape[::-1] if transposed else leaf.shape
        return LazyTensor(shape, kind, lambda: np.ascontiguousarray(narrowed(leaf.read().T, kind, path)))

    def layer(prefix: str, activation: str) -> Dense:
        weight = tensor(f"{prefix}/kernel", transposed=True)
        assert weight is not None
        return Dense(weight, tensor(f"{prefix}/bias", transposed=False), activation)

    hidden = () if head.hidden is None else (layer("head/dense", head.hidden.activation),)
    return (*hidden, layer("head", "linear"))


def with_dense_head(source: Source, modules: Modules, dense: Sequence[Dense], raw: Mapping[str, Any]) -> Source:
    """Return a source with the classifier that its directory's modules ``Dense`` are.

    Args:
        source: the encoder, of the same directory.
        modules: of the directory.
        dense: its modules ``Dense``, one or two.
        raw: ``config.json``, which names the labels.

    Raises:
        TransferlabError: they are no classifier: nothing names as many labels as there are outputs; or do not fit each other.
    """
    labels, first, last = label_names(raw), dense[0], dense[-1]
    where = modules.dense[-1] / "config.json"
    if last.activation != "linear" or len(labels) != last.outputs:
        names = f"{len(labels)} labels" if labels else "no labels"
        raise TransferlabError(
            f"{where}: a Dense is read as a classifier, without an activation and with a label for each output; this one has "
            f"{last.outputs} outputs and the activation '{last.activation}', and config.json names {names} (id2label)."
        )
    assert modules.pooling is not None
    plain = ClassifierConfig(labels, modules.pooling)
    width = trees.flatten(trees.define(source.config.build(plain)).params)["head/kernel"].shape[0]
    hidden = None
    if len(dense) > 1:
        size = None if first.outputs == width else first.outputs
        hidden = HiddenLayer(first.activation, bias=first.bias is not None, size=size)
    sizes = [width, *(layer.outputs for layer in dense)]
    for layer, given, folder in zip(dense, sizes, modules.dense, strict=False):
        if layer.weight.shape[1] != given:
            raise TransferlabError(
                f"{folder / 'config.json'}: in_features is {layer.weight.shape[1]}, and {given} numbers come before it."
            )
    bias, problem = last.bias is not None, problem_of(raw)
    head = replace(plain, normalise=modules.normalise, bias=bias, hidden=hidden, problem=problem)
    paths = trees.flatten(trees.define(source.config.build(head)).params)
    names = source.names_for(head)
    keys = {} if names is None else {name.path: name.key for name in names.names}
    parts = {"head/kernel": last.weight, "head/bias": last.bias}
    parts |= {"head/dense/kernel": first.weight, "head/dense/bias": first.bias} if hidden is not None else {}
    leaves = {path: leaf for path, leaf in source.leaves.items() if path in paths and not path.startswith("head/")}
    for path, tensor in parts.items():
        if tensor is not None:
            leaves[path] = LazyLeaf(keys.get(path, path), tensor, LINEAR if path.endswith("kernel") else SAME)
    gone = [(leaf.key, "the head is the modules' Dense") for path, leaf in source.leaves.items() if path not in leaves]
    files = {f"{folder.name}/{file.name}": file
             for folder, layer in zip(modules.dense, dense, strict=True) for file in layer.files}  # fmt: skip
    return replace(
        source, head=head, leaves={path: leaves[path] for path in paths}, names=names, unused=(*source.unused, *gone),
        files={**source.files, **files},
    )  # fmt: skip

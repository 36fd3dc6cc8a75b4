"""Which head a task puts on a source, as source and method want it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from transferlab.data.text import TextTransform
from transferlab.errors import TransferlabError
from transferlab.models.heads import ClassifierConfig, Problem
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.network_source import NetworkSource

if TYPE_CHECKING:
    from transferlab.methods.base import Method
    from transferlab.pretrained.source import Source


def ranked(prediction: np.ndarray, outputs: Sequence[str]) -> tuple[dict[str, float], str]:
    """Probabilities by output, the largest first; and the first five of them in a line."""
    order = prediction.argsort()[::-1]
    by_name = {outputs[int(i)]: float(prediction[int(i)]) for i in order}
    return by_name, "  ".join(f"{name} {p:.3f}" for name, p in list(by_name.items())[:5])


def check_whole_texts(task: object, source: Source) -> None:
    """Raise a TransferlabError where the source reads long texts in windows, of which this task would take the first alone."""
    if isinstance(source.transform, TextTransform) and source.transform.overlap is not None:
        raise TransferlabError(
            f"{type(task).__name__} reads each text as a whole, not in windows. Use the source without with_windows, which cuts what is "
            f"longer than {source.transform.max_length} tokens, and counts it."
        )


def classifier(
    source: Source, outputs: Sequence[str], method: Method, problem: Problem = "single_label_classification"
) -> ClassifierConfig:
    """Return a head with one number for each of these outputs (labels, targets) of an example.

    It pools as the method says, else as the source does, and has the hidden layer of the family's classifier in its
    reference implementation where it pools as that does.
    """
    if isinstance(source, NetworkSource):
        pooling = method.pooling or source.pooling
        return ClassifierConfig(tuple(outputs), pooling=pooling, dropout=method.head_dropout, problem=problem)
    family, own = FAMILIES[source.family], source.head
    pooling, hidden = method.pooling or source.pooling, family.head_hidden(source.config)
    if method.pooling is None and pooling == "pooler":
        # An encoder whose files do not say how it pools. A pooler that the method asks for is not replaced: the plan says
        # what the model lacks.
        if hidden is not None and not method.linear_head:
            pooling = family.head_pooling(source.config)
        elif not getattr(source.config, "pooler", False):
            pooling = "mean"
    if isinstance(own, ClassifierConfig) and own.pooling == pooling and set(own.labels) & set(outputs):
        hidden = own.hidden  # they share labels, whose rows are kept
    elif method.linear_head or pooling != family.head_pooling(source.config):
        hidden = None
    # Numbers are put back into the units of the data by kernel and bias, so there is always one.
    bias = family.head_bias or problem == "regression"
    return ClassifierConfig(
        labels=tuple(outputs), pooling=pooling, dropout=method.head_dropout, bias=bias, hidden=hidden, problem=problem
    )

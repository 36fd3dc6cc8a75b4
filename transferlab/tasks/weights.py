"""Weights of classes and of tags: given by name, or balanced by how often each occurs in the training split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from transferlab.bounds import NonNegative, Positive
from transferlab.errors import TransferlabError, nearest

Balance = Literal["balanced"]
ClassWeights = Balance | Mapping[str, NonNegative] | None
PositiveWeights = Balance | Mapping[str, Positive] | None


def class_weights(
    given: Balance | Mapping[str, float], names: Sequence[str], labels: Int[np.ndarray, " train"]
) -> dict[str, float]:
    """Return the weight of each class, 1 where none is given.

    ``balanced`` is examples / (classes · examples of the class), as scikit-learn's (King & Zeng 2001, section 4.2).

    Raises:
        TransferlabError: a weight of a class that the data lacks, a class to be balanced without training examples, or
            training examples of classes of weight 0 alone.
    """
    counts = np.bincount(labels, minlength=len(names))
    if given == "balanced":
        _check_occurs(counts > 0, names, "label", "class_weights")
        return _by_name(names, len(labels) / (len(names) * counts))
    weights = _given(given, names, "label", "class_weights")
    if not counts @ np.array(list(weights.values())):
        raise TransferlabError(
            f"class_weights is {dict(given)}: every training example has the weight 0, so there is nothing to learn."
        )
    return weights


def positive_weights(
    given: Balance | Mapping[str, float], names: Sequence[str], tags: Bool[np.ndarray, "train tags"]
) -> dict[str, float]:
    """Return the weight of an example that has a tag against one that has not, for each tag, 1 where none is given.

    ``balanced`` is examples without the tag / examples with it, as PyTorch suggests for ``BCEWithLogitsLoss(pos_weight=…)``.

    Raises:
        TransferlabError: a weight of a tag that the data lacks, or a tag to be balanced that no training example has, or all.
    """
    if given != "balanced":
        return _given(given, names, "tag", "positive_weights")
    counts = tags.sum(0)
    _check_occurs(counts > 0, names, "tag", "positive_weights")
    _check_occurs(counts < len(tags), names, "tag", "positive_weights", "every training example has")
    return _by_name(names, (len(tags) - counts) / counts)


def _by_name(names: Sequence[str], weights: np.ndarray) -> dict[str, float]:
    return dict(zip(names, map(float, weights), strict=True))


def _given(given: Mapping[str, float], names: Sequence[str], noun: str, field: str) -> dict[str, float]:
    weights = {str(name): float(weight) for name, weight in given.items()}
    if unknown := sorted(weights.keys() - set(names)):
        raise TransferlabError(
            f"{field} has the {noun} '{unknown[0]}', which the data lacks.{nearest(unknown[0], names)}"
        )
    return {name: weights.get(name, 1.0) for name in names}


def _check_occurs(
    occurs: Bool[np.ndarray, " names"],
    names: Sequence[str],
    noun: str,
    field: str,
    who: str = "no training example has",
) -> None:
    missing = [name for name, there in zip(names, occurs, strict=True) if not there]
    if missing:
        rest = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise TransferlabError(
            f"{field} is 'balanced', and {who} the {noun} '{missing[0]}'{rest}. Give the weights instead, as "
            f"{field}={{'{missing[0]}': 1.0}}, or train on other examples."
        )

"""Metrics by name. Each is one function in a file of this folder, marked with :func:`metric`; no list of them is kept.

A metric is a function of what is predicted, what is true and the names of the outputs, by the kind of target:

- ``classes``: probabilities (examples, labels), indices (examples,), label names;
- ``numbers``: values (examples, columns) both, column names;
- ``tags``: probabilities (examples, tags), booleans (examples, tags), tag names;
- ``word_tags``: of each example probabilities (words, tags), indices (words,), tag names.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from transferlab.errors import TransferlabError, check_arguments, nearest
from transferlab.plugins import members

_LOG = logging.getLogger(__name__)
Function = Callable[[Any, Any, Sequence[str]], float]


class Undefined(ValueError):
    """Raised by a metric's function where it has no value; the message is a clause that says why."""


@dataclass(frozen=True)
class Metric:
    """A score by name; calling it returns NaN where it is not defined.

    Example:
        >>> tl.measure.metric_named("f1_macro", "classes")(probabilities, labels)

    Attributes:
        name: as in ``Classification(metric="f1_macro")``.
        kind: of the target that it scores: ``classes``, ``numbers``, ``tags``.
        larger: whether larger is better.
        function: of predictions, truth and the names of the outputs.
        summary: one line.
        source: the function of scikit-learn or SciPy that has the same value, or the paper.
    """

    name: str
    kind: str
    larger: bool
    function: Function = field(repr=False)
    summary: str = field(repr=False)
    source: str = field(repr=False)

    def __call__(self, predicted: Any, true: Any, names: Sequence[str] = ()) -> float:
        """The score; NaN where it is not defined."""
        return self.explained(predicted, true, names)[0]

    def explained(self, predicted: Any, true: Any, names: Sequence[str] = ()) -> tuple[float, str]:
        """The score, and a clause that says why it is not defined; that is empty where it is."""
        if not len(true):
            return math.nan, "there are no examples"
        if isinstance(predicted, np.ndarray) and predicted.dtype.kind == "f" and not np.isfinite(predicted).all():
            return math.nan, "the predictions are not finite"
        with warnings.catch_warnings():
            # scikit-learn and SciPy warn of each undefined case.
            warnings.simplefilter("ignore")
            try:
                value = float(self.function(predicted, true, names))
            except ValueError as error:
                return math.nan, str(error).partition("\n")[0]
        return value, "" if math.isfinite(value) else "it has no value for these examples"


def metric(kind: str, source: str, *, larger: bool = True) -> Callable[[Function], Metric]:
    """Make a function a :class:`Metric` of the same name; the first line of its docstring describes it.

    Example:
        >>> @metric("classes", "scikit-learn: cohen_kappa_score")
        ... def kappa(probabilities, labels, names):
        ...     '''Agreement beyond chance.'''
        ...     return cohen_kappa_score(labels, probabilities.argmax(-1))
    """

    def named(function: Function) -> Metric:
        summary = (function.__doc__ or "").strip().partition("\n")[0]
        return Metric(function.__name__, kind, larger, function, summary, source)

    return named


@cache
def metrics_by_kind() -> Mapping[str, Mapping[str, Metric]]:
    """Return kind of target → name → metric: all in this folder's files, in the order in which they stand there, and those that
    installed packages add.

    Raises:
        TransferlabError: two of a kind have one name.
    """
    found: dict[str, dict[str, Metric]] = {}
    for value in members(__name__.rpartition(".")[0]):
        if isinstance(value, Metric) and found.setdefault(value.kind, {}).setdefault(value.name, value) != value:
            raise TransferlabError(f"Two metrics of {value.kind} are called '{value.name}'.")
    return found


def metric_named(name: str, kind: str) -> Metric:
    """Return a metric of this kind of target.

    Raises:
        TransferlabError: an unknown name, of which the nearest is named, or a metric of other targets.
    """
    of_kind = metrics_by_kind().get(kind, {})
    if name not in of_kind:
        others = [other for other, names in metrics_by_kind().items() if name in names]
        what = (
            f"'{name}' scores {' or '.join(others)}, not {kind}." if others else f"Unknown metric '{name}' of {kind}."
        )
        raise TransferlabError(what + nearest(name, of_kind))
    return of_kind[name]


@check_arguments
def score(predictions: Any, truth: Any, name: str, *, kind: str | None = None, names: Sequence[str] = ()) -> float:
    """Return a metric by name; NaN where it is not defined, which is logged with the reason.

    Example:
        >>> tl.measure.score(result.predictions["probabilities"], data.labels[data.test], "auroc")

    Args:
        predictions: probabilities of classes (examples, labels) or of tags (examples, tags), or numbers (examples, columns).
        truth: each example's index or label, its tags as booleans (examples, tags), or its numbers.
        name: of the metric.
        kind: ``classes``, ``numbers`` or ``tags``; None takes the one that has such a metric and such arrays.
        names: of the outputs; needed where ``truth`` holds labels.

    Raises:
        TransferlabError: an unknown metric, or arrays that do not fit each other.
    """
    predicted, true = np.asarray(predictions), np.asarray(truth)
    kind = _kind(predicted, true) if kind is None else kind
    chosen = metric_named(name, kind)
    predicted, true = _aligned(predicted, true, kind, names)
    value, reason = chosen.explained(predicted, true, names)
    if reason:
        _LOG.warning("%s is not defined here: %s.", name, reason)
    return value


@cache
def say_undefined(name: str, reason: str) -> None:
    """Log that a metric is not defined, if there is a reason: once for each, however often it is computed."""
    if reason:
        _LOG.warning("%s is not defined here, NaN: %s.", name, reason)


def all_scores(predicted: Any, true: Any, kind: str, names: Sequence[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Return every metric of a kind of target by name, and why some are not defined (NaN)."""
    found = {name: metric.explained(predicted, true, names) for name, metric in metrics_by_kind().get(kind, {}).items()}
    return {name: value for name, (value, _) in found.items()}, {name: why for name, (_, why) in found.items() if why}


def _kind(predicted: np.ndarray, true: np.ndarray) -> str:
    if true.dtype == bool and true.ndim == 2:
        return "tags"
    return "classes" if predicted.ndim == 2 and true.ndim == 1 and true.dtype.kind in "iuUO" else "numbers"


def _aligned(predicted: np.ndarray, true: np.ndarray, kind: str, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays as the metrics of this kind take them."""
    if kind == "classes" and true.dtype.kind in "UO":
        if unknown := sorted(set(true.tolist()) - set(names)):
            hint = nearest(str(unknown[0]), names) or " Pass names=, the labels in the order of the probabilities."
            raise TransferlabError(f"truth has the label '{unknown[0]}', which is none of the names.{hint}")
        true = np.array([list(names).index(label) for label in true.tolist()], np.int64)
    if kind == "numbers":
        predicted, true = (x[:, None] if x.ndim == 1 else x for x in (predicted, true))
    fits = predicted.ndim == 2 and (len(predicted) == len(true) if kind == "classes" else predicted.shape == true.shape)
    if kind in ("classes", "numbers", "tags") and not fits:
        raise TransferlabError(
            f"predictions have the shape {predicted.shape} and truth {true.shape}; metrics of {kind} compare "
            + ("(examples, labels) with (examples,)." if kind == "classes" else "arrays of one shape.")
        )
    if kind == "classes" and len(true) and not 0 <= true.min() <= true.max() < predicted.shape[1]:
        raise TransferlabError(
            f"truth has the class {int(true.max())}, and predictions have {predicted.shape[1]} columns."
        )
    return predicted, true.astype(bool) if kind == "tags" else true

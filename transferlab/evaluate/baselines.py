"""Plain baselines for every table: what a constant predicts, and linear models on words or pixels.

A task names those that it has (:attr:`transferlab.tasks.Task.baselines`); one of its own is a function of task and data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Num, UInt8

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset

Predictions = dict[str, Any]
"""What a task predicts of each example, by name, in the units of the data."""
Features = Any
"""A matrix (examples, features), dense or sparse."""


@dataclass(frozen=True)
class Baseline:
    """A row of a study's table without pretrained weights.

    Attributes:
        about: what it does, as a phrase.
        predict: (task, data) → predictions for the test split, learned from the training split.
        reads: the modality that it needs; None for any.
        constant: whether it predicts the same of every example: the level of chance, a dotted line in figures.
        of_source: whether ``predict`` takes the source too, as (task, data, source), whose tokens it counts.
    """

    about: str
    predict: Callable[..., Predictions]
    reads: Literal["text", "image"] | None = None
    constant: bool = False
    of_source: bool = False

    def predictions(self, task: Any, data: Dataset, source: Any) -> Predictions:
        """Predictions for the test split, for this source where that matters."""
        return self.predict(task, data, source) if self.of_source else self.predict(task, data)


# Constants -----------------------------------------------------------------------------------------------------------


def _frequencies(task: Any, data: Dataset) -> Predictions:
    outputs = task.column(data)
    train = outputs.values[data.train]
    count = train.mean(0) if train.ndim > 1 else np.bincount(train, minlength=len(outputs.names)) / len(train)
    return {"probabilities": np.tile(count.astype(np.float32), (len(data.test), 1))}


def _constant(statistic: Callable[..., np.ndarray]) -> Callable[[Any, Dataset], Predictions]:
    def predict(task: Any, data: Dataset) -> Predictions:
        return {"value": np.tile(statistic(task.column(data).values[data.train], axis=0), (len(data.test), 1))}

    return predict


# Features ------------------------------------------------------------------------------------------------------------


def word_features(train: Sequence[str], test: Sequence[str]) -> tuple[Features, Features] | None:
    """TF-IDF of words, scikit-learn's defaults; None where no training text has a word (of at least two letters)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer()
    if not any(words.build_analyzer()(text) for text in train):
        return None
    return words.fit_transform(train), words.transform(test)


def pixel_features(
    train: Sequence[UInt8[np.ndarray, "_height _width 3"]], test: Sequence[UInt8[np.ndarray, "_height _width 3"]]
) -> tuple[Float[np.ndarray, "train pixels"], Float[np.ndarray, "test pixels"]]:
    """Raw pixels, scaled to 0 … 1. Images of different sizes are all scaled to 32 × 32."""
    from PIL import Image

    one_size = len({image.shape for image in (*train, *test)}) == 1

    def flat(images: Sequence[np.ndarray]) -> np.ndarray:
        if not one_size:
            small = [Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR) for image in images]
            images = [np.asarray(image) for image in small]
        return np.stack([np.asarray(image, np.float32).reshape(-1) / 255.0 for image in images])

    return flat(train), flat(test)


def _words(data: Dataset) -> tuple[Features, Features] | None:
    """Of the training and the test texts; of a pair, both texts count."""

    def texts(indices: Int[np.ndarray, " n"]) -> list[str]:
        records = (data.records[int(i)] for i in indices)
        return ["\n".join(record[name] for name in ("text", "text_pair") if name in record) for record in records]

    return word_features(texts(data.train), texts(data.test))


def _pixels(data: Dataset) -> tuple[Features, Features]:
    """Of the training and the test images."""
    train, test = ([data.records[int(i)]["image"] for i in indices] for indices in (data.train, data.test))
    return pixel_features(train, test)


# Linear models -------------------------------------------------------------------------------------------------------


def logistic(
    train: Features, labels: Int[np.ndarray, " train"], test: Features, classes: int, c: float = 1.0
) -> Float[np.ndarray, "test classes"]:
    """Logistic regression: a probability for every class, zero for those that are not among the training labels."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, max_iter=2000).fit(train, labels)
    out = np.zeros((test.shape[0], classes), np.float32)
    out[:, model.classes_] = model.predict_proba(test)
    return out


def one_against_rest(
    train: Features, tags: Bool[np.ndarray, "train tags"], test: Features, c: float = 1.0
) -> Float[np.ndarray, "test tags"]:
    """A logistic regression for each tag; one that all or no training examples have gets that probability, 1 or 0."""
    columns = [
        logistic(train, tag.astype(np.int64), test, 2, c)[:, 1]
        if 0 < tag.sum() < len(tag)
        else np.full(test.shape[0], float(tag.any()), np.float32)
        for tag in tags.T
    ]
    return np.stack(columns, axis=1)


ALPHAS = np.logspace(-3, 3, 13)
"""Penalties that ridge regression chooses from."""


def ridge(
    train: Features, values: Num[np.ndarray, "train targets"], test: Features
) -> Float[np.ndarray, "test targets"]:
    """Ridge regression of standardized targets; the penalty is the best of :data:`ALPHAS` by cross-validation.

    Each example is left out in turn, where there are at most 1000 of them, else a fifth at a time. With a single example the
    prediction is its target.
    """
    from sklearn.linear_model import RidgeCV

    mean, deviation = values.mean(0), values.std(0)
    scale = np.where(deviation > 0, deviation, 1.0)
    if len(values) < 3:
        return np.tile(mean, (test.shape[0], 1))
    model = RidgeCV(ALPHAS, cv=None if len(values) <= 1000 else 5).fit(train, (values - mean) / scale)
    return model.predict(test).reshape(test.shape[0], -1) * scale + mean


# Rows of tables ------------------------------------------------------------------------------------------------------


def _linear(
    features: Callable[[Dataset], tuple[Features, Features] | None], c: float
) -> Callable[[Any, Dataset], Predictions]:
    """The linear model for the task's kind of target on these features; ``c`` is the inverse penalty of a logistic one."""

    def predict(task: Any, data: Dataset) -> Predictions:
        target = task.column(data)
        known = features(data)
        if known is None:
            return next(baseline for baseline in task.baselines.values() if baseline.constant).predict(task, data)
        (train, test), values = known, target.values[data.train]
        if target.kind == "classes":
            return {"probabilities": logistic(train, values, test, len(target.names), c)}
        if target.kind == "tags":
            return {"probabilities": one_against_rest(train, values, test, c)}
        return {"value": ridge(train, values, test)}

    return predict


MAJORITY = Baseline("always predicting the most frequent label", _frequencies, constant=True)
"""The relative frequencies of the training labels."""
PRIOR = Baseline("always predicting each tag with its frequency", _frequencies, constant=True)
MEAN = Baseline("always predicting the mean of the training targets", _constant(np.mean), constant=True)
MEDIAN = Baseline("always predicting the median of the training targets", _constant(np.median), constant=True)
TFIDF = Baseline("a linear model on TF-IDF of words", _linear(_words, 10.0), "text")
"""Logistic regression has C = 10: scikit-learn's C = 1 underfits rows of unit length."""
PIXELS = Baseline("a linear model on raw pixels", _linear(_pixels, 1.0), "image")

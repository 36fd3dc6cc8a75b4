"""Plain baselines for every table: the majority label, and logistic regression on words or pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from transferlab.data.dataset import Dataset


def probabilities(name: str, data: Dataset) -> Float[np.ndarray, "test classes"]:
    """The probabilities that a baseline, trained on the training split, predicts for the test split.

    Args:
        name: ``majority``, ``tfidf`` (texts) or ``pixels`` (images).
        data: its labels, and its texts or images.
    """
    labels, classes = data.labels[data.train], len(data.label_names)
    if name == "majority":
        return majority(labels, len(data.test), classes)
    content = "text" if name == "tfidf" else "image"
    train = [data.records[int(i)][content] for i in data.train]
    test = [data.records[int(i)][content] for i in data.test]
    fit = tfidf if name == "tfidf" else pixels
    return fit(train, labels, test, classes)


def majority(labels: Int[np.ndarray, " train"], n_test: int, classes: int) -> Float[np.ndarray, "test classes"]:
    """The relative frequencies of the training labels, for every test example: predicts the most frequent label."""
    frequencies = np.bincount(labels, minlength=classes) / len(labels)
    return np.tile(frequencies.astype(np.float32), (n_test, 1))


def tfidf(
    train: Sequence[str], labels: Int[np.ndarray, " train"], test: Sequence[str], classes: int
) -> Float[np.ndarray, "test classes"]:
    """TF-IDF of words with logistic regression, scikit-learn's defaults but C = 10: C = 1 underfits unit-length rows.

    Where no training text has a word (of at least two letters), it predicts like :func:`majority`.
    """
    words = TfidfVectorizer()
    if not any(words.build_analyzer()(text) for text in train):
        return majority(labels, len(test), classes)
    model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=2000))
    model.fit(train, labels)
    return _all_classes(model.predict_proba(test), model[-1].classes_, classes)


def pixels(
    train: Sequence[UInt8[np.ndarray, "_height _width 3"]],
    labels: Int[np.ndarray, " train"],
    test: Sequence[UInt8[np.ndarray, "_height _width 3"]],
    classes: int,
) -> Float[np.ndarray, "test classes"]:
    """Raw pixels, scaled to 0 … 1, with logistic regression at scikit-learn's defaults.

    Images of different sizes are all scaled to 32 × 32.
    """
    one_size = len({image.shape for image in (*train, *test)}) == 1

    def flat(images: Sequence[np.ndarray]) -> np.ndarray:
        if not one_size:
            small = [Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR) for image in images]
            images = [np.asarray(image) for image in small]
        return np.stack([np.asarray(image, np.float32).reshape(-1) / 255.0 for image in images])

    model = LogisticRegression(max_iter=2000).fit(flat(train), labels)
    return _all_classes(model.predict_proba(flat(test)), model.classes_, classes)


def _all_classes(
    probabilities: Float[np.ndarray, "n present"], present: Int[np.ndarray, " present"], classes: int
) -> Float[np.ndarray, "n classes"]:
    """A column for every class, zero for those that are not among the training labels."""
    out = np.zeros((len(probabilities), classes), np.float32)
    out[:, present] = probabilities
    return out

"""Scores on cases small enough to count."""

from __future__ import annotations

import math

import numpy as np
import pytest

from transferlab.measure import accuracy, balanced_accuracy, cross_entropy, scores


def _sure(predictions: list[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predictions]


def test_balanced_accuracy_does_not_reward_always_predicting_the_frequent_label():
    labels = np.array([0] * 90 + [1] * 10)
    predictions = _sure([0] * 100, 2)
    assert accuracy(predictions, labels) == pytest.approx(0.9)
    assert balanced_accuracy(predictions, labels) == pytest.approx(0.5)


def test_a_class_that_the_test_set_lacks_does_not_count_as_missed():
    labels = np.array([0, 0, 2, 2])
    assert balanced_accuracy(_sure([0, 1, 2, 2], 4), labels) == pytest.approx((0.5 + 1.0) / 2)


def test_cross_entropy_is_in_nats_and_finite_when_the_truth_had_probability_zero():
    labels = np.array([0, 1])
    assert cross_entropy(np.array([[0.5, 0.5], [0.75, 0.25]]), labels) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert math.isfinite(cross_entropy(_sure([1, 0], 2), labels))


def test_an_empty_test_set_has_no_score():
    none, labels = np.zeros((0, 3), np.float32), np.zeros(0, np.int64)
    assert math.isnan(accuracy(none, labels))
    assert math.isnan(balanced_accuracy(none, labels))
    assert math.isnan(cross_entropy(none, labels))


def test_a_table_shows_these_three_scores():
    probabilities, labels = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]], np.float32), np.array([0, 1, 1])
    got = scores(probabilities, labels)
    assert got == {
        "accuracy": accuracy(probabilities, labels),
        "balanced_accuracy": balanced_accuracy(probabilities, labels),
        "cross_entropy": cross_entropy(probabilities, labels),
    }
    assert got["accuracy"] == pytest.approx(2 / 3)
    assert got["balanced_accuracy"] == pytest.approx(3 / 4)


def test_a_model_that_diverged_is_right_about_no_class():
    nothing, labels = np.full((4, 2), np.nan, np.float32), np.array([0, 0, 0, 1])
    assert accuracy(nothing, labels) == balanced_accuracy(nothing, labels) == 0.0
    assert np.isnan(cross_entropy(nothing, labels))

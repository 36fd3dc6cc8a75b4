"""The n-gram baseline: a worked example, probabilities that sum to one, the tokens of the task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.corpora import corpus, decoder_source, sentences

from transferlab.evaluate.ngram import KneserNey
from transferlab.tasks import CausalLanguageModel


def test_probabilities_are_those_of_a_worked_example() -> None:
    model = KneserNey(4, order=2).fit([[0, 1, 2], [0, 1, 3]])
    # Bigrams: (0 1) twice, (1 2) and (1 3) once, so the discount is 2 / (2 + 2). Each of 1, 2 and 3 follows one token.
    alone = (1 - 0.75) / 3 + 0.75 * 3 / 3 / 4
    assert model.probability([], 1) == pytest.approx(alone) and model.probability([], 0) == pytest.approx(0.75 / 4)
    assert model.probability([0], 1) == pytest.approx((2 - 0.5) / 2 + 0.5 * 1 / 2 * alone)
    assert model.probability([1], 2) == pytest.approx((1 - 0.5) / 2 + 0.5 * 2 / 2 * alone)
    assert model.probability([3], 2) == pytest.approx(alone)  # nothing ever followed 3
    np.testing.assert_allclose(model.log_likelihoods([0, 1, 2]), np.log([0.75 + 0.25 * alone, 0.25 + 0.5 * alone]))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_sum_to_one_and_the_likeliest_is_the_largest(order: int) -> None:
    rng = np.random.default_rng(0)
    model = KneserNey(9, order).fit(rng.integers(0, 8, (20, 12)).tolist())
    for context in ([], [1], [2, 3], [8, 8], [5, 1, 2, 4]):
        each = [model.probability(context, token) for token in range(9)]
        assert sum(each) == pytest.approx(1.0) and each[model.likeliest(context)] == pytest.approx(max(each))


def test_the_baseline_predicts_the_tokens_that_the_task_does(tmp_path: Path) -> None:
    source, data, task = decoder_source(tmp_path / "model"), corpus(sentences(80), test=20), CausalLanguageModel()
    predictions = task.baselines["ngram"].predictions(task, data, source)
    scores = task.scored(predictions, data, data.test)
    counts = [len(data.records[int(i)]["text"].split()) + 1 for i in data.test]
    assert np.diff(predictions["log_likelihood"].offsets).tolist() == counts
    # Four words of five follow from the one before; 14 words otherwise.
    assert 1.5 < scores["perplexity"] < 5.0 and 0.5 < scores["accuracy"] < 0.9

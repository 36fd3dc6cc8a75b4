"""Baselines: the level of chance of each task, and linear models on texts without words and images of different sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import transferlab as tl
from transferlab.evaluate.baselines import ALPHAS, logistic, one_against_rest, pixel_features, ridge, word_features
from transferlab.tasks import Classification, MultiLabel, Regression, TokenLabels

WORDS = ("good", "bad", "film", "day", "the", "plot")


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts whose number, tags and class follow from their words."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("rated") / "r.csv"
    rows = ["text,stars,tags,verdict"]
    for i in range(120):
        words = rng.choice(WORDS, 6)
        stars = 5000 + 300.0 * ((words == "good").sum() - (words == "bad").sum())
        tags = "|".join(tag for tag in ("good", "film") if tag in words)
        rows.append(f"{' '.join(words)} {i},{stars + rng.normal():.3f},{tags},{'yes' if stars > 5000 else 'no'}")
    path.write_text("\n".join(rows))
    return path


def predicted(task, data, name: str) -> dict[str, float]:
    predictions = task.baselines[name].predict(task, data)
    assert set(predictions) == {task.predicted}
    return task.score(predictions, data, data.test)


def test_a_constant_is_the_mean_the_median_or_the_frequencies_of_the_training_split(rated: Path) -> None:
    numbers = tl.dataset(rated, target="stars", test_examples=40)
    values = numbers.target.values[numbers.train]
    for name, constant in (("mean", values.mean()), ("median", np.median(values))):
        found = Regression.baselines[name].predict(Regression(), numbers)["value"]
        np.testing.assert_allclose(found, np.full((40, 1), constant))
    tags = tl.dataset(rated, target="tags", label_kind="tags", separator="|", test_examples=40)
    found = MultiLabel.baselines["prior"].predict(MultiLabel(), tags)["probabilities"]
    np.testing.assert_allclose(found[3], tags.target.values[tags.train].mean(0), rtol=1e-6)
    classes = tl.dataset(rated, target="verdict", test_examples=40)
    found = Classification.baselines["majority"].predict(Classification(), classes)["probabilities"]
    np.testing.assert_allclose(found[0], np.bincount(classes.labels[classes.train]) / 80, rtol=1e-6)
    assert all(next(iter(task.baselines.values())).constant for task in (Classification, MultiLabel, Regression))


def test_words_beat_the_constant_for_classes_numbers_and_tags(rated: Path) -> None:
    numbers = tl.dataset(rated, target="stars", test_examples=40)
    assert predicted(Regression(), numbers, "tfidf")["rmse"] < 0.6 * predicted(Regression(), numbers, "mean")["rmse"]
    tags = tl.dataset(rated, target="tags", label_kind="tags", separator="|", test_examples=40)
    words, prior = (predicted(MultiLabel(), tags, name) for name in ("tfidf", "prior"))
    assert words["average_precision"] > prior["average_precision"] + 0.1 and words["f1_micro"] > prior["f1_micro"]
    classes = tl.dataset(rated, target="verdict", test_examples=40)
    words, constant = (predicted(Classification(), classes, name) for name in ("tfidf", "majority"))
    assert words["accuracy"] > constant["accuracy"]


def test_images_of_different_sizes_are_compared_by_pixels() -> None:
    dark = [np.full((3 + i, 5, 3), 20 + i, np.uint8) for i in range(3)]
    light = [np.full((7, 4 + i, 3), 220 + i, np.uint8) for i in range(3)]
    train, test = pixel_features([*dark[:2], *light[:2]], [dark[2], light[2]])
    assert logistic(train, np.array([0, 0, 1, 1]), test, 2).argmax(-1).tolist() == [0, 1]
    assert np.argsort(ridge(train, np.array([[1.0], [1.1], [7.0], [7.2]]), test)[:, 0]).tolist() == [0, 1]


def test_texts_without_a_word_get_the_constant(tmp_path: Path) -> None:
    assert word_features(["\U0001f600", "", "a"], ["good film"]) is None
    rows = [f"{'a' * (i % 2)} \U0001f600{chr(0x1F601 + i)},{'yes' if i % 3 else 'no'}" for i in range(24)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]))
    data, task = tl.dataset(tmp_path / "t.csv", test_examples=4), Classification()
    words, constant = (task.baselines[name].predict(task, data)["probabilities"] for name in ("tfidf", "majority"))
    np.testing.assert_array_equal(words, constant)


def test_the_penalty_of_ridge_is_chosen_by_leaving_one_out_whatever_the_unit_of_the_target() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(30, 4)), rng.normal(size=(3, 4))
    values = train @ rng.normal(size=(4, 1)) + 3 * rng.normal(size=(30, 1))
    standard = (values - values.mean()) / values.std()

    def left_out(alpha: float) -> float:
        rest = [np.delete(np.arange(30), i) for i in range(30)]
        errors = [Ridge(alpha).fit(train[r], standard[r]).predict(train[[i]]) - standard[i] for i, r in enumerate(rest)]
        return float(np.square(errors).mean())

    best = min(ALPHAS, key=left_out)
    assert ALPHAS[0] < best < ALPHAS[-1]
    right = Ridge(best).fit(train, values).predict(test).reshape(-1, 1)
    np.testing.assert_allclose(ridge(train, values, test), right)
    # Two targets in other units: each is as important as the other.
    both = ridge(train, np.hstack([1e6 * values, 5.0 - 1e-3 * values]), test)
    np.testing.assert_allclose(both, np.hstack([1e6 * right, 5.0 - 1e-3 * right]))


def test_a_tag_that_no_training_example_has_is_never_predicted() -> None:
    train, test = np.eye(4)[[0, 0, 1, 1]], np.eye(4)[[0, 1]]
    tags = np.array([[1, 0, 1], [1, 0, 1], [0, 0, 1], [0, 0, 1]], bool)
    found = one_against_rest(train, tags, test, c=10.0)
    assert found[0, 0] > 0.5 > found[1, 0] and found[:, 1].tolist() == [0, 0] and found[:, 2].tolist() == [1, 1]


def test_a_word_gets_its_most_frequent_tag_and_an_unknown_one_that_of_all_words() -> None:
    rows = [{"words": ["Ada", "runs"], "tags": ["NOUN", "VERB"]}, {"words": ["runs", "help"], "tags": ["NOUN", "VERB"]}]
    rows += [{"words": ["runs", "far", str(i)], "tags": ["VERB", "ADV", "VERB"]} for i in range(6)]
    data = tl.dataset({"train": rows, "test": [{"words": ["runs", "Ada", "never"], "tags": ["VERB", "NOUN", "ADV"]}]})
    task = TokenLabels().resolved(data)
    word, majority = (
        task.baselines[name].predict(task, data)["probabilities"] for name in ("frequent_tag", "majority")
    )
    tags = task.outputs(data)
    assert [tags[i] for i in word[0].argmax(-1)] == ["VERB", "NOUN", "VERB"]
    assert [tags[i] for i in majority[0].argmax(-1)] == ["VERB"] * 3

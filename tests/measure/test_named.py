"""Metrics by name: each against scikit-learn or SciPy, where it is not defined, and how one more is added."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as reference

import transferlab as tl
from transferlab import measure
from transferlab.errors import TransferlabError
from transferlab.measure.named import all_scores, metric_named, metrics_by_kind, say_undefined

RNG = np.random.default_rng(0)
NAMES = ("a", "b", "c", "d")
LABELS = RNG.integers(0, 4, 300)
PROBABILITIES = RNG.dirichlet(np.ones(4), 300)
PROBABILITIES[np.arange(300), LABELS] += RNG.random(300)
PROBABILITIES = (PROBABILITIES / PROBABILITIES.sum(1, keepdims=True)).astype(np.float32)
TAGS = RNG.random((300, 4)) < 0.3
TAG_PROBABILITIES = (0.6 * RNG.random((300, 4)) + 0.4 * TAGS).astype(np.float32)
TRUE = RNG.normal(size=(300, 2)).round(1)
VALUES = TRUE + RNG.normal(size=(300, 2))


def of_columns(function, true: np.ndarray = TRUE, predicted: np.ndarray = VALUES) -> float:
    return float(np.mean([function(t, p) for t, p in zip(true.T, predicted.T, strict=True)]))


CHOSEN, PREDICTED = PROBABILITIES.argmax(1), TAG_PROBABILITIES >= 0.5
EXACT = PROBABILITIES.astype(np.float64) / PROBABILITIES.astype(np.float64).sum(1, keepdims=True)
WANTED = {
    "classes": {
        "accuracy": reference.accuracy_score(LABELS, CHOSEN),
        "balanced_accuracy": reference.balanced_accuracy_score(LABELS, CHOSEN),
        "f1_macro": reference.f1_score(LABELS, CHOSEN, average="macro"),
        "f1_micro": reference.f1_score(LABELS, CHOSEN, average="micro"),
        "f1_weighted": reference.f1_score(LABELS, CHOSEN, average="weighted"),
        "matthews": reference.matthews_corrcoef(LABELS, CHOSEN),
        "kappa": reference.cohen_kappa_score(LABELS, CHOSEN),
        "auroc": reference.roc_auc_score(LABELS, EXACT, multi_class="ovr", average="macro"),
        "average_precision": reference.average_precision_score(np.eye(4)[LABELS], PROBABILITIES, average="macro"),
        "calibration_error": None,
        "brier": ((PROBABILITIES - np.eye(4)[LABELS]) ** 2).sum(1).mean(),
        "cross_entropy": reference.log_loss(LABELS, EXACT),
    },
    "tags": {
        "f1_micro": reference.f1_score(TAGS, PREDICTED, average="micro"),
        "f1_macro": reference.f1_score(TAGS, PREDICTED, average="macro"),
        "f1_weighted": reference.f1_score(TAGS, PREDICTED, average="weighted"),
        "average_precision": reference.average_precision_score(TAGS, TAG_PROBABILITIES, average="macro"),
        "auroc_macro": reference.roc_auc_score(TAGS, TAG_PROBABILITIES, average="macro"),
        "exact_match": reference.accuracy_score(TAGS, PREDICTED),
        "hamming": reference.hamming_loss(TAGS, PREDICTED),
        "brier": of_columns(reference.brier_score_loss, TAGS, TAG_PROBABILITIES),
        "cross_entropy": of_columns(reference.log_loss, TAGS, TAG_PROBABILITIES.astype(np.float64)),
    },
    "numbers": {
        "rmse": reference.root_mean_squared_error(TRUE, VALUES),
        "mae": reference.mean_absolute_error(TRUE, VALUES),
        "median_error": reference.median_absolute_error(TRUE, VALUES),
        "r2": reference.r2_score(TRUE, VALUES),
        "pearson": of_columns(lambda t, p: scipy.stats.pearsonr(t, p)[0]),
        "spearman": of_columns(lambda t, p: scipy.stats.spearmanr(t, p)[0]),
        "kendall": of_columns(lambda t, p: scipy.stats.kendalltau(t, p)[0]),
    },
}
ARRAYS: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "classes": (PROBABILITIES, LABELS),
    "tags": (TAG_PROBABILITIES, TAGS),
    "numbers": (VALUES, TRUE),
}


@pytest.mark.parametrize("kind", WANTED)
def test_every_metric_is_that_of_scikit_learn_or_scipy(kind: str) -> None:
    predicted, true = ARRAYS[kind]
    scores, undefined = all_scores(predicted, true, kind, NAMES)
    assert not undefined and scores.keys() >= WANTED[kind].keys()
    for name, wanted in WANTED[kind].items():
        if wanted is not None:
            assert scores[name] == pytest.approx(wanted, rel=1e-5), name
    for metric in metrics_by_kind()[kind].values():
        assert metric.summary.endswith(".") and metric.source, f"{metric.name} does not say what it is, or whose"


def test_two_classes_are_scored_by_the_second() -> None:
    labels, probabilities = LABELS % 2, np.stack([1 - TAG_PROBABILITIES[:, 0], TAG_PROBABILITIES[:, 0]], 1)
    second = probabilities[:, 1]
    assert measure.score(probabilities, labels, "auroc") == pytest.approx(reference.roc_auc_score(labels, second))
    wanted = reference.average_precision_score(labels, second)
    assert measure.score(probabilities, labels, "average_precision") == pytest.approx(wanted)
    assert measure.score(probabilities, labels, "brier") == pytest.approx(reference.brier_score_loss(labels, second))


def test_the_calibration_error_is_the_gap_of_confidence_and_accuracy_in_each_bin() -> None:
    # Two examples of confidence .9, one of them right, and two of .6 (another bin), both right: (2·.4 + 2·.4) / 4.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    assert measure.score(probabilities, [0, 1, 0, 1], "calibration_error") == pytest.approx(0.4)
    # A confidence of 1 is in the last bin, and right predictions of it are calibrated.
    assert measure.score(np.eye(2), [0, 1], "calibration_error") == 0.0


@pytest.mark.parametrize(
    ("kind", "predicted", "true", "name", "why"),
    [
        ("classes", PROBABILITIES, np.zeros(300, np.int64), "auroc", "all examples have the same label"),
        ("tags", TAG_PROBABILITIES, np.zeros((300, 4), bool), "auroc_macro", "each tag is in all examples or in none"),
        ("tags", TAG_PROBABILITIES, np.zeros((300, 4), bool), "average_precision", "no example has a tag"),
        ("numbers", VALUES, np.ones((300, 2)), "spearman", "a is the same in all examples"),
        ("numbers", np.ones((300, 2)), TRUE, "pearson", "the prediction of a is the same in all examples"),
        ("numbers", VALUES[:1], TRUE[:1], "kendall", "there is one example"),
        ("classes", PROBABILITIES[:0], LABELS[:0], "f1_macro", "there are no examples"),
        ("classes", np.full((300, 4), np.nan), LABELS, "f1_macro", "the predictions are not finite"),
    ],
)
def test_what_is_not_defined_is_nan_and_says_why(kind, predicted, true, name, why, recwarn) -> None:
    value, reason = metric_named(name, kind).explained(predicted, true, NAMES)
    assert math.isnan(value) and reason == why
    assert not recwarn.list, "a library's warning came through"


def test_a_reason_is_logged_once_however_often_it_occurs(caplog: pytest.LogCaptureFixture) -> None:
    say_undefined.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            say_undefined("auroc", "all examples have the same label")
    assert [record.getMessage() for record in caplog.records] == [
        "auroc is not defined here, NaN: all examples have the same label."
    ]


def test_score_takes_labels_by_name_and_infers_the_kind() -> None:
    by_name = [NAMES[label] for label in LABELS]
    assert measure.score(PROBABILITIES, by_name, "f1_macro", names=NAMES) == pytest.approx(
        WANTED["classes"]["f1_macro"]
    )
    assert measure.score(TAG_PROBABILITIES, TAGS, "f1_macro") == pytest.approx(WANTED["tags"]["f1_macro"])
    column = VALUES[:, 0], TRUE[:, 0]
    assert measure.score(*column, "spearman") == pytest.approx(scipy.stats.spearmanr(*column)[0])


@pytest.mark.parametrize(
    ("predicted", "true", "name", "message"),
    [
        (PROBABILITIES, LABELS, "f1_makro", "Unknown metric 'f1_makro' of classes. Did you mean 'f1_macro'?"),
        (PROBABILITIES, LABELS, "rmse", "'rmse' scores numbers, not classes."),
        (PROBABILITIES, LABELS[:9], "f1_macro", r"have the shape \(300, 4\) and truth \(9,\)"),
        (PROBABILITIES, LABELS + 1, "f1_macro", "truth has the class 4, and predictions have 4 columns"),
        (PROBABILITIES, ["x"] * 300, "f1_macro", "truth has the label 'x', which is none of the names. Pass names="),
        (VALUES, TRUE[:, 0], "mae", r"have the shape \(300, 2\) and truth \(300, 1\)"),
    ],
)
def test_what_does_not_fit_is_one_error(predicted, true, name, message) -> None:
    with pytest.raises(TransferlabError, match=message):
        measure.score(predicted, true, name)


ADDED = '''from transferlab.measure.named import metric


@metric("classes", "scikit-learn: zero_one_loss", larger=False)
def errors(probabilities, labels, names):
    """Fraction of examples whose most probable label is not the true one."""
    return (probabilities.argmax(-1) != labels).mean()
'''


def test_a_metric_is_one_file_and_no_other_edit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "errors.py").write_text(ADDED)
    monkeypatch.setattr(measure, "__path__", [*measure.__path__, str(tmp_path)])
    metrics_by_kind.cache_clear()
    try:
        assert measure.score(PROBABILITIES, LABELS, "errors") == pytest.approx(reference.zero_one_loss(LABELS, CHOSEN))
        task = tl.tasks.Classification(metric="errors")
        assert task.direction == -1 and len(ADDED.splitlines()) < 10
        (tmp_path / "others.py").write_text(ADDED)
        metrics_by_kind.cache_clear()
        with pytest.raises(TransferlabError, match="Two metrics of classes are called 'errors'"):
            tl.tasks.Classification(metric="errors")
    finally:
        for name in ("errors", "others"):
            sys.modules.pop(f"transferlab.measure.{name}", None)
        metrics_by_kind.cache_clear()


def test_the_table_of_metrics_says_what_they_are() -> None:
    table = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text("utf-8").partition("## Metrics")[2]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) >= sum(map(len, WANTED.values()))
    for name, kind, what, source in rows:
        one = metrics_by_kind()[kind][name.strip("`")]
        assert what == one.summary.rstrip(".") + ("" if one.larger else "; smaller is better") and source == one.source


def test_metrics_are_known_before_scikit_learn_and_scipy_stats_are_loaded() -> None:
    code = (
        "import sys, transferlab as tl; tl.tasks.Classification(metric='f1_macro'); tl.tasks.Regression(metric='kendall');"
        "assert 'sklearn' not in sys.modules and 'scipy.stats' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rows_are_those_of_scikit_learn() -> None:
    of_reference: Any = reference.precision_recall_fscore_support
    for kind, predicted in (("classes", CHOSEN), ("tags", PREDICTED)):
        rows = measure.score_rows(*ARRAYS[kind], kind=kind, names=NAMES)
        wanted = of_reference(ARRAYS[kind][1], predicted, zero_division=np.nan)
        for name, column in zip(("precision", "recall", "f1", "support"), wanted, strict=True):
            np.testing.assert_allclose([row[name] for row in rows], column)
    rows = measure.score_rows(VALUES, TRUE, "numbers", ("x", "y"))
    assert [row["name"] for row in rows] == ["x", "y"]
    assert rows[1]["spearman"] == pytest.approx(scipy.stats.spearmanr(VALUES[:, 1], TRUE[:, 1])[0])


def test_a_class_that_is_never_predicted_has_no_precision() -> None:
    probabilities, labels = np.eye(3)[[0, 0, 1]], np.array([0, 2, 1])
    rows = measure.score_rows(probabilities, labels, "classes", NAMES[:3])
    assert math.isnan(rows[2]["precision"]) and rows[2] | {"precision": 0} == {
        "name": "c", "precision": 0, "recall": 0.0, "f1": 0.0, "support": 1,
    }  # fmt: skip
    np.testing.assert_array_equal(measure.confusion_matrix(probabilities, labels), [[1, 0, 0], [0, 1, 0], [1, 0, 0]])

"""``metric=``: the score that chooses a run's best state, by any metric of the task's target."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.tasks import CausalLanguageModel, Classification, MultiLabel, Regression
from transferlab.train import Settings


@pytest.mark.parametrize(
    ("task", "metric", "message"),
    [
        (Classification, "f1_makro", r"Classification has no metric 'f1_makro'. Did you mean 'f1_macro'\?"),
        (Classification, "rmse", "Classification has no metric 'rmse', which tl.tasks.Regression has."),
        (Regression, "auroc_macro", "Regression has no metric 'auroc_macro', which tl.tasks.MultiLabel has."),
        (
            MultiLabel,
            "auroc",
            r"has no metric 'auroc', which tl.tasks.Classification has. Did you mean 'auroc_macro'\?",
        ),
        (Regression, "brier", "which tl.tasks.Classification and tl.tasks.MultiLabel have."),
    ],
)
def test_a_metric_that_a_task_lacks_is_named_with_whose_it_is(task, metric: str, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        task(metric=metric)


def test_a_metric_does_not_make_another_program() -> None:
    assert Classification(metric="f1_macro") == Classification() and hash(MultiLabel(metric="hamming")) == hash(
        MultiLabel()
    )


def test_where_smaller_is_better_the_smaller_is_chosen() -> None:
    task = Regression(metric="mae")
    assert task.selection({"mae": 1.0, "rmse": 2.0}, 10) > task.selection({"mae": 1.1, "rmse": 1.0}, 10)
    task = Classification(metric="calibration_error")
    better, worse, none = ({"calibration_error": x, "cross_entropy": 1.0} for x in (0.1, 0.2, math.nan))
    assert task.selection(better, 10) > task.selection(worse, 10) > task.selection(none, 10)
    # Among states for which it is not defined, each difference of the tie-break counts.
    assert task.selection({**none, "cross_entropy": 0.65}, 10) > task.selection({**none, "cross_entropy": 0.66}, 10)


def test_a_score_that_is_defined_is_better_than_none_whatever_the_tie_break() -> None:
    mae, accuracy, words = Regression(metric="mae"), Classification(), CausalLanguageModel()
    # Of numbers with large units, too, and of a tie-break that is not defined or without bound.
    for value, tie in ((1e12, 1.0), (1.0, math.nan), (1.0, math.inf)):
        assert mae.selection({"mae": value, "rmse": tie}, 10) > mae.selection({"mae": math.nan, "rmse": 0.0}, 10)
        assert accuracy.selection({"accuracy": 0.0, "cross_entropy": tie}, 10) > accuracy.selection(
            {"accuracy": math.nan, "cross_entropy": 0.0}, 10
        )
    known, unknown = ({"accuracy": 0.5, "cross_entropy": x} for x in (9.0, math.nan))
    assert accuracy.selection(known, 10) > accuracy.selection(unknown, 10)
    assert accuracy.selection({**unknown, "accuracy": 0.6}, 10) > accuracy.selection(known, 10)
    losses = [{"perplexity": math.exp(min(x, 700)), "cross_entropy": x} for x in (2.0, 3.0, 1e9)]
    order = [words.selection(scores, 10) for scores in losses]
    assert order == sorted(order, reverse=True)
    # What has neither is no candidate.
    for task, name in ((mae, "mae"), (accuracy, "accuracy"), (words, "perplexity")):
        assert task.selection({name: math.nan, task.tie_break: math.nan}, 10) == -math.inf < min(order)


def test_the_best_state_is_the_best_by_a_metric_by_name(source, films, tmp_path) -> None:
    data = films.subset(90, seed=0).hold_out(0.3, seed=0)
    settings = Settings(learning_rate=1e-2, steps=20, evaluations=10)
    run = tl.adapt(source, data, method=tl.methods.Probe(), settings=settings, task=Classification(metric="f1_macro"), directory=tmp_path / "run")  # fmt: skip
    result = run.fit()
    rows = [row for row in result.history if "validation_f1_macro" in row]
    assert len(rows) == 10 and "validation_auroc" not in rows[0]
    assert result.record["metric"] == "f1_macro" and 0 <= result.test["f1_macro"] <= 1
    from transferlab.train.checkpoints import Checkpoints

    chosen = Checkpoints(tmp_path / "run/checkpoints").chosen()
    assert max(row["validation_f1_macro"] for row in rows) == next(
        row["validation_f1_macro"] for row in rows if row["step"] == chosen
    )


def test_every_score_comes_from_the_files_of_a_run(source, films, tmp_path) -> None:
    data = films.subset(60, seed=0)
    result = tl.adapt(source, data, method=tl.methods.Probe(), settings=Settings(steps=4), directory=tmp_path).fit()
    found = tl.train.evaluate_run(tmp_path)
    assert found.scores == pytest.approx(found.scores | result.test) and found.names == data.label_names
    probabilities = result.predictions["probabilities"]
    assert found.scores["auroc"] == tl.measure.score(probabilities, data.labels[data.test], "auroc")
    assert sum(row["support"] for row in found.rows) == found.examples == 60
    assert found.confusion is not None and found.confusion.trace() / 60 == pytest.approx(result.test["accuracy"])


def test_a_run_of_an_early_version_is_scored_from_its_probabilities(tmp_path) -> None:
    probabilities, labels = np.random.default_rng(0).dirichlet(np.ones(3), 40), np.arange(40) % 3
    np.savez(tmp_path / "predictions.npz", id=np.arange(40).astype(str), label=labels, probabilities=probabilities)
    found = tl.train.evaluate_run(tmp_path)
    assert found.task == Classification() and found.names == ("0", "1", "2")
    assert found.scores["f1_macro"] == tl.measure.score(probabilities, labels, "f1_macro")
    (tmp_path / "run.json").write_text(json.dumps({"labels": ["x", "y", "z"]}))
    assert tl.train.evaluate_run(tmp_path).rows[2]["name"] == "z"


def test_a_run_that_diverged_has_no_scores(tmp_path) -> None:
    np.savez(tmp_path / "predictions.npz", label=np.arange(4) % 2, probabilities=np.full((4, 2), np.nan))
    found = tl.train.evaluate_run(tmp_path)
    assert all(math.isnan(value) for value in found.scores.values()) and not found.rows
    assert set(found.undefined.values()) == {"the predictions are not finite"}


def test_predictions_that_cannot_be_scored_are_one_error(tmp_path) -> None:
    with pytest.raises(TransferlabError, match=r"has no predictions.npz; a run has one once it is finished"):
        tl.train.evaluate_run(tmp_path)
    np.savez(tmp_path / "predictions.npz", probabilities=np.ones((4, 2)))
    with pytest.raises(TransferlabError, match=r"predictions.npz lacks 'label', which a classification has"):
        tl.train.evaluate_run(tmp_path)
    np.savez(tmp_path / "predictions.npz", label=np.zeros(3, int), probabilities=np.ones((4, 2)))
    with pytest.raises(TransferlabError, match=r"shape \(4, 2\), for 3 examples and 2 outputs"):
        tl.train.evaluate_run(tmp_path)


@pytest.mark.parametrize("name", ["contrastive", "masked_language_model", "sequence_to_sequence"])
def test_a_task_without_metrics_by_name_is_one_error_that_says_where_its_scores_are(tmp_path, name: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"task": {"name": name}, "labels": []}))
    np.savez(tmp_path / "predictions.npz", label_names=np.zeros(0, str))
    with pytest.raises(
        TransferlabError, match=rf"{name}, which has no metrics by name. Its scores are in .*result.json"
    ):
        tl.train.evaluate_run(tmp_path)


@pytest.mark.parametrize("task", [Regression(metric="kendall"), MultiLabel(metric="hamming")])
def test_numbers_and_tags_are_chosen_by_a_name_too(source, tmp_path, task) -> None:
    tags = isinstance(task, MultiLabel)
    rows = [
        {"text": f"film {i}", "label": ["good"] * (i % 2) + ["bad"] * (i % 3) if tags else i / 7} for i in range(60)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = tl.dataset(tmp_path / "a.jsonl", test_examples=20).hold_out(0.25, seed=0)
    result = tl.adapt(source, data, method=tl.methods.Probe(), settings=Settings(steps=4), task=task, directory=tmp_path / "run").fit()  # fmt: skip
    found = tl.train.evaluate_run(tmp_path / "run")
    assert found.scores == pytest.approx(found.scores | result.test, nan_ok=True) and task.metric in result.test
    assert [row["name"] for row in found.rows] == list(data.target.names)

"""What reports say of predictions: every metric, the rows of labels, confusion and calibration, of new and of old runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn import metrics
from support.studies import record

from transferlab.config import read_config
from transferlab.studies.breakdown import ROWS, best_of, other_scores, output_rows, predicted_by_arm
from transferlab.studies.prediction_figures import calibration_figure, confusion_figure, residual_figure
from transferlab.studies.study import Study
from transferlab.studies.table import summarize
from transferlab.tasks import Classification, Regression

LABELS = ("cat", "dog", "emu")


def write(directory: Path, arm: str, seed: int, names: tuple[str, ...] = LABELS, examples: int = 60) -> np.ndarray:
    """Predictions of a classifier that is right more often for later labels; returned as drawn."""
    rng = np.random.default_rng(seed)
    label = np.arange(examples) % len(names)
    logits = rng.normal(size=(examples, len(names)))
    logits[np.arange(examples), label] += label / 2
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    folder = directory / "runs" / arm / "64" / str(seed)
    folder.mkdir(parents=True)
    arrays: dict[str, Any] = {"label": label, "probabilities": probabilities, "label_names": np.array(names)}
    np.savez(folder / "predictions.npz", **arrays)
    return probabilities


def records() -> list[dict[str, Any]]:
    return [record(arm, 64, seed, 0.5) for arm in ("majority", "lora") for seed in (0, 1)]


def test_every_metric_is_the_mean_over_the_runs_of_an_arm_at_its_largest_budget(tmp_path: Path) -> None:
    drawn = [write(tmp_path, "lora", seed) for seed in (0, 1)]
    smaller = [record("lora", 16, 0, 0.4)]  # without predictions
    predicted = predicted_by_arm([*smaller, *records()], Classification(), tmp_path)
    assert list(predicted) == ["lora"] and predicted["lora"].budget == 64
    labels = np.arange(60) % 3
    table = dict(other_scores(predicted, Classification(), ("accuracy", "balanced_accuracy")))
    auroc = np.mean([metrics.roc_auc_score(labels, one, multi_class="ovr") for one in drawn])
    assert table["AUROC"] == [f"{auroc:.3f}".removeprefix("0")]
    loss = np.mean([metrics.log_loss(labels, one) for one in drawn])
    assert table["Cross entropy ↓"] == [f"{loss:.3f}" if loss >= 1 else f"{loss:.4f}"]
    assert not {"Accuracy", "Balanced accuracy"} & set(table)


def test_rows_confusion_and_calibration_are_of_the_best_arm(tmp_path: Path) -> None:
    drawn = [write(tmp_path, "lora", seed) for seed in (0, 1)]
    predicted = predicted_by_arm(records(), Classification(), tmp_path)
    best = best_of(predicted, summarize(records()))
    assert best is not None and best.arm == "lora"
    header, rows, rest = output_rows(best, Classification())
    assert header == ["precision", "recall", "F1", "support"] and rest == 0
    recall = np.mean([(one.argmax(-1) == np.arange(60) % 3)[2::3].mean() for one in drawn])
    assert [row[0] for row in rows] == list(LABELS)
    assert rows[2][2] == f"{recall:.3f}".removeprefix("0") and rows[2][4] == "20"
    texts = [e.text for e in ElementTree.fromstring(confusion_figure(best)).iter() if e.tag.endswith("text")]
    assert {"predicted", "true", *LABELS, f"{recall:.2f}".removeprefix("0")} <= set(texts)
    assert "<svg" in calibration_figure(predicted, {"lora": "#0072B2"}) and residual_figure(best) == ""


def test_of_many_labels_the_worst_are_shown_and_no_matrix(tmp_path: Path) -> None:
    names = tuple(f"label {i}" for i in range(ROWS + 10))
    for seed in (0, 1):
        write(tmp_path, "lora", seed, names, 5 * len(names))
    predicted = predicted_by_arm(records(), Classification(), tmp_path)["lora"]
    _, rows, rest = output_rows(predicted, Classification())
    assert len(rows) == ROWS and rest == 10
    assert {f"label {i}" for i in range(5)} <= {row[0] for row in rows}  # which are predicted worst
    assert confusion_figure(predicted) == ""


def test_numbers_are_drawn_against_their_predictions_with_a_row_for_each_column(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(30, 2)) * [1, 1000]
    for seed in (0, 1):
        folder = tmp_path / "runs" / "lora" / "64" / str(seed)
        folder.mkdir(parents=True)
        np.savez(folder / "predictions.npz", value=true * 0.9, target=true, label_names=np.array(["stars", "cost $"]))
    predicted = predicted_by_arm([{**r, "task": "regression"} for r in records()], Regression(), tmp_path)["lora"]
    texts = [e.text for e in ElementTree.fromstring(residual_figure(predicted)).iter() if e.tag.endswith("text")]
    assert {"stars, true", "cost $, predicted", "predicted − true"} <= set(texts)
    header, rows, _ = output_rows(predicted, Regression())
    assert "RMSE ↓" in header and [row[0] for row in rows] == ["stars", "cost $"]
    assert "median error ↓" in header and confusion_figure(predicted) == ""


def test_of_many_numbers_those_of_the_largest_error_are_shown(tmp_path: Path) -> None:
    names = np.array([f"column {i}" for i in range(ROWS + 10)])
    true = np.random.default_rng(0).normal(size=(30, len(names)))
    folder = tmp_path / "runs" / "lora" / "64" / "0"
    folder.mkdir(parents=True)
    np.savez(folder / "predictions.npz", value=true + np.arange(len(names)) / 10, target=true, label_names=names)
    predicted = predicted_by_arm([{**record("lora", 64, 0, 0.5), "task": "regression"}], Regression(), tmp_path)["lora"]
    _, rows, rest = output_rows(predicted, Regression())
    assert rest == 10 and {row[0] for row in rows} == set(names[10:].tolist())


@pytest.fixture(scope="module")
def study(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("studies") / "films"
    Study(small(config, place)).run()
    return place


def small(config: Path, place: Path):
    arms = "{'probe': {'train': {'steps': 20}}, 'scratch': {'train': {'steps': 2}}}"
    words = ("budgets=(12,)", "seeds=(0,1)", "baselines=('majority',)", f"methods={arms}", f"workdir={place}")
    return read_config(config, [f"--config.{word}" for word in words])


def test_a_report_shows_what_the_predictions_say_and_stays_one_page(study: Path) -> None:
    page = (study / "report.html").read_text()
    for words in (
        "Other metrics, each arm",
        "Matthews",
        "By label: probe at 12 labels",
        "Confusion matrix: probe",
        "Calibration of each arm",
    ):
        assert words in page, words
    assert page.index("Accuracy by labels") < page.index("Predictions") < page.index("What was transferred")
    assert not re.findall(r"(?:src|href)=\"(?!#)", page)


def test_a_study_from_before_there_were_tasks_reports_the_same(study: Path, config: Path, tmp_path: Path) -> None:
    old = tmp_path / "films"
    shutil.copytree(study, old)
    for path in [*old.glob("runs/*/*/*/record.json"), *old.glob("runs/*/*/*/run.json")]:
        kept = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("task", "metric", "direction")}
        path.write_text(json.dumps(kept))
    before = {
        name: (study / name).read_text() for name in ("table.md", "results.csv", "learning_curves.svg", "report.html")
    }
    for name in before:
        (old / name).unlink()
    Study(small(config, old)).report()
    after = {name: (old / name).read_text().replace(str(old), str(study)) for name in before}
    assert after == before

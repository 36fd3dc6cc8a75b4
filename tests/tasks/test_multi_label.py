"""Tags: how they are read, what is optimised, and that a run recovers them."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.measure.tags import tag_scores
from transferlab.models import ClassifierConfig
from transferlab.tasks import MultiLabel
from transferlab.tasks.base import StepBatch
from transferlab.train import Settings


def table(path: Path, spelled) -> Path:
    rows = [
        (f"{'good ' * (i % 2)}{'bad ' * (i // 2 % 2)}film {i}", ["good"] * (i % 2) + ["bad"] * (i // 2 % 2))
        for i in range(80)
    ]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"text": text, "label": tags}) for text, tags in rows))
    else:
        path.write_text("text,label\n" + "\n".join(f'{text},"{spelled(tags)}"' for text, tags in rows))
    return path


def test_lists_of_json_of_python_and_a_separator_are_the_same_tags(tmp_path: Path) -> None:
    wanted = tl.dataset(table(tmp_path / "a.jsonl", None), test_examples=20)
    written = tl.dataset(table(tmp_path / "b.csv", repr), test_examples=20)
    separated = tl.dataset(table(tmp_path / "c.csv", "|".join), test_examples=20, separator="|")
    for data in (written, separated):
        assert data.target == wanted.target and data.sha256 == wanted.sha256
        np.testing.assert_array_equal(data.target.values, wanted.target.values)
    assert wanted.target.names == ("bad", "good") and wanted.records[3]["tags"] == ["bad", "good"]
    assert "2 tags (bad, good), 1.0 an example" in wanted.summary


def test_a_row_that_is_no_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": ["x"]}\n{"text": "b", "label": "x"}\n')
    with pytest.raises(
        TransferlabError, match=r"row 2: the target is 'x', where a list of tags is expected.*separator='\|'"
    ):
        tl.dataset(tmp_path / "a.jsonl", label_kind="tags")


def test_the_loss_is_the_binary_cross_entropy_of_each_tag() -> None:
    logits, tags = np.array([[0.5, -2.0], [100.0, -100.0]]), np.array([[1.0, 1.0], [1.0, 0.0]])
    batch: StepBatch = {"inputs": {}, "targets": {"tags": jnp.asarray(tags)}, "weight": jnp.array([1.0, 1.0])}
    p = 1 / (1 + np.exp(-logits[0]))
    assert float(MultiLabel().loss({"logits": jnp.asarray(logits)}, batch)["loss"]) == pytest.approx(-np.log(p).mean())
    assert float(MultiLabel().metrics({"logits": jnp.asarray(logits)}, batch)["exact_match"][0]) == 1.0


def test_a_run_recovers_the_tags_and_is_opened_again(source, tmp_path: Path) -> None:
    data = tl.dataset(table(tmp_path / "a.jsonl", None), test_examples=20)
    settings = Settings(learning_rate=2e-2, steps=120, batch_size=16)
    result = tl.adapt(source, data, settings=settings, directory=tmp_path / "run").fit()
    assert result.test["f1_micro"] > 0.9 and result.probabilities.shape == (20, 2)
    predictor = tl.open_run(tmp_path / "run")
    assert predictor.labels == ("bad", "good")
    np.testing.assert_array_equal(predictor(["good film 900", "bad film 901"]) >= 0.5, [[False, True], [True, False]])


def test_a_single_tag_is_scored_as_one_of_several(tmp_path: Path) -> None:
    true, predicted = np.array([[True]] * 2 + [[False]] * 8), np.full((10, 1), 0.1)
    alone, twice = tag_scores(predicted, true), tag_scores(np.tile(predicted, 2), np.tile(true, 2))
    assert alone == pytest.approx(twice) and alone["f1_micro"] == alone["f1_macro"] == 0.0
    both = np.random.default_rng(0).random((40, 3)), np.random.default_rng(1).random((40, 3)) < 0.4
    scores = tag_scores(*both)
    for average in ("micro", "macro"):
        assert scores[f"f1_{average}"] == pytest.approx(metrics.f1_score(both[1], both[0] >= 0.5, average=average))


def test_of_states_with_equal_scores_the_one_with_the_smaller_loss_is_kept() -> None:
    scores = {"f1_micro": 0.5, "f1_macro": 0.5, "average_precision": 0.5, "exact_match": 0.1, "cross_entropy": 0.7}
    task = MultiLabel()
    assert task.selection({**scores, "cross_entropy": 0.6}, 10) > task.selection(scores, 10)
    assert task.selection({**scores, "f1_micro": 0.501, "cross_entropy": 9.0}, 10) > task.selection(scores, 10)


def test_an_adapter_for_peft_keeps_what_its_outputs_mean(source, tmp_path: Path) -> None:
    data = tl.dataset(table(tmp_path / "a.jsonl", None), test_examples=20)
    method = tl.methods.LoRA(rank=2, pooling="pooler")
    result = tl.adapt(source, data, method=method, settings=Settings(1e-2, steps=2)).fit()
    assert result.adapted is not None
    result.adapted.save_adapter(tmp_path / "adapter")
    again = tl.load_adapter(tmp_path / "adapter", source).merged()
    assert isinstance(again.head, ClassifierConfig)
    assert (again.head.problem, again.labels) == ("multi_label_classification", ("bad", "good"))


def test_a_tag_that_no_example_has_is_left_out_of_the_average_precision() -> None:
    true = np.array([[True, False], [False, False], [True, False]])
    scores = tag_scores(np.array([[0.9, 0.1], [0.2, 0.1], [0.8, 0.1]]), true)
    assert scores["average_precision"] == scores["f1_micro"] == scores["exact_match"] == 1.0
    assert np.isnan(tag_scores(np.full((3, 2), 0.1), np.zeros((3, 2), bool))["average_precision"])

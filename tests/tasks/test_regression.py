"""Regression: the loss in standard deviations, predictions in the units of the data, and runs from a table of numbers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn import metrics

import transferlab as tl
from transferlab.cli.main import cli
from transferlab.data.text import TextTransform
from transferlab.errors import TransferlabError
from transferlab.measure.regression import regression_scores
from transferlab.models import ClassifierConfig
from transferlab.tasks import Classification, Regression, task_for, task_from
from transferlab.tasks.base import StepBatch
from transferlab.train import Settings
from transferlab.train.run import _check_kinds

QUICK = Settings(learning_rate=1e-2, steps=80, batch_size=16, log_every=8)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts whose rating follows from their words, far from 0 and in large units."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("ratings") / "r.csv"
    words = np.array(["good", "bad", "film", "the", "a", "day"])
    rows = ["text,stars,length"]
    for i in range(160):
        chosen = words[rng.integers(0, 6, 5)].tolist()
        stars = 5000 + 300 * (chosen.count("good") - chosen.count("bad")) + rng.normal()
        rows.append(f"{' '.join(chosen)} {i},{stars:.3f},{i % 7}")
    path.write_text("\n".join(rows))
    return path


@pytest.mark.parametrize("error", ["squared", "absolute", "huber"])
def test_each_error_is_what_its_formula_says(error: str) -> None:
    task = Regression(error=error, delta=0.5)  # pyright: ignore[reportArgumentType]
    value, number = np.array([[0.0], [2.0], [1.0]]), np.array([[0.25], [0.0], [9.0]])
    batch: StepBatch = {"inputs": {}, "targets": {"target": jnp.asarray(number)}, "weight": jnp.array([1.0, 2.0, 0.0])}
    d = np.abs(value - number)[:2, 0]
    each = {"squared": d**2, "absolute": d, "huber": np.where(d <= 0.5, d**2 / 2, 0.5 * (d - 0.25))}[error]
    assert float(task.loss({"logits": jnp.asarray(value)}, batch)["loss"]) == pytest.approx(each @ [1, 2])


def test_numbers_are_a_regression_and_predictions_have_their_units(source, ratings: Path, tmp_path: Path) -> None:
    data = tl.dataset(ratings, target="stars", test_examples=60)
    assert "stars from" in data.summary and isinstance(task_for(data, source), Regression)
    result = tl.adapt(source, data, settings=QUICK, directory=tmp_path / "run").fit()
    values = result.predictions["value"]
    assert values.shape == (60, 1) and 4000 < values.mean() < 6000
    true = data.target.numbers().values[data.test]
    assert result.test["rmse"] == pytest.approx(metrics.root_mean_squared_error(true, values))
    assert result.test["rmse"] < 0.95 * true.std()  # better than the mean
    assert result.test["spearman"] > 0.5
    # A finished run is read again, and predicts the same.
    again = tl.adapt(source, data, settings=QUICK, directory=tmp_path / "run").fit()
    np.testing.assert_array_equal(again.predictions["value"], values)
    texts = [data.records[int(i)]["text"] for i in data.test]
    np.testing.assert_allclose(tl.open_run(tmp_path / "run")(texts), values, rtol=1e-5)


def test_two_columns_of_numbers_are_two_targets(source, ratings: Path) -> None:
    data = tl.dataset(ratings, target=("stars", "length"), test_examples=60)
    run = tl.adapt(source, data, settings=QUICK)
    assert run.outputs == ("stars", "length")
    means = run.fit().predictions["value"].mean(0)
    assert abs(means[0] - 5000) < 500 and abs(means[1] - 3) < 2


def test_the_standardisation_is_that_of_the_training_split(source, ratings: Path) -> None:
    data = tl.dataset(ratings, target="stars", test_examples=60).subset(20, 0)
    run, train = tl.adapt(source, data, settings=QUICK), data.target.numbers().values[data.train, 0]
    assert run.fitted == {"mean": [pytest.approx(train.mean())], "deviation": [pytest.approx(train.std())]}
    standard = run.targets(data.train)["target"]
    assert standard.mean() == pytest.approx(0, abs=1e-5) and standard.std() == pytest.approx(1)


def test_a_batch_in_parts_has_the_whole_batchs_gradient(source, ratings: Path) -> None:
    data = tl.dataset(ratings, target="stars", test_examples=60).subset(20, 0)
    whole, parts = (
        tl.adapt(
            source,
            data,
            method=tl.methods.Probe(),
            settings=Settings(learning_rate=1e-2, steps=5, batch_size=12, log_every=1, accumulate=n),
        ).fit()
        for n in (1, 4)
    )  # the last batch of an epoch has 8 examples and 4 of padding
    for one, other in zip(whole.history, parts.history, strict=True):
        assert one == pytest.approx(other, rel=2e-4)
    np.testing.assert_allclose(whole.predictions["value"], parts.predictions["value"], rtol=1e-5)


def test_scores_are_those_of_scikit_learn_and_a_constant_has_no_correlation() -> None:
    rng = np.random.default_rng(0)
    predicted, true = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    scores = regression_scores(predicted, true)
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(true, predicted))
    assert scores["r2"] == pytest.approx(metrics.r2_score(true, predicted))
    constant = regression_scores(np.zeros((50, 2)), true)
    assert np.isnan(constant["spearman"]) and np.isnan(constant["pearson"]) and constant["rmse"] > 0


def test_a_process_that_scores_nothing_does_not_wait_for_scikit_learn() -> None:
    code = "import sys, transferlab.train; print({'sklearn', 'scipy.stats'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_words_are_no_regression_and_the_error_names_them(films, source) -> None:
    with pytest.raises(TransferlabError, match=r"The target is classes \(.*\), not a number"):
        tl.adapt(source, films, task=Regression())


def test_fractions_are_no_classes_and_integers_are_where_the_task_says_so(source, ratings: Path) -> None:
    with pytest.raises(TransferlabError, match=r"The target is numbers \(stars\), not a class .*label_kind='classes'"):
        tl.adapt(source, tl.dataset(ratings, target="stars", test_examples=60), task=Classification())
    counts = tl.dataset(ratings, target="length", label_kind="numbers", test_examples=60)
    assert tl.adapt(source, counts, task=Classification()).outputs == tuple("0123456")


def test_a_target_that_is_the_same_everywhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("text,label\n" + "\n".join(f"film {i},2.5" for i in range(9)))
    with pytest.raises(TransferlabError, match=r"label is 2\.5 in every example"):
        tl.dataset(tmp_path / "c.csv", label_kind="numbers")


def test_a_number_is_predicted_on_the_command_line(source, ratings: Path, tmp_path: Path) -> None:
    data = tl.dataset(ratings, target="stars", test_examples=60).subset(20, 0)
    tl.adapt(source, data, method=tl.methods.Probe(), settings=QUICK, directory=tmp_path / "run").fit()
    line = CliRunner().invoke(cli, ["predict", str(tmp_path / "run"), "a good film", "--json"], catch_exceptions=False)
    assert 3000 < json.loads(line.output)["values"]["stars"] < 7000
    shown = CliRunner().invoke(cli, ["predict", str(tmp_path / "run"), "a good film"], catch_exceptions=False)
    assert re.match(r"stars \d+\.?\d*\ta good film\n", shown.output)


@pytest.mark.parametrize("method", [tl.methods.Probe(pooling="pooler"), tl.methods.LoRA(rank=2, pooling="pooler")])
def test_what_is_exported_is_in_the_units_of_the_data(source, ratings: Path, tmp_path: Path, method) -> None:
    data = tl.dataset(ratings, target="stars", test_examples=60)
    result = tl.adapt(source, data, method=method, settings=QUICK, directory=tmp_path / "run").fit()
    for saved in (result.source, tl.open_run(tmp_path / "run").adapted.merged()):
        assert saved is not None
        tl.save(saved, tmp_path / "model", overwrite=True)
        raw = json.loads((tmp_path / "model" / "config.json").read_text())
        assert raw["problem_type"] == "regression" and raw["id2label"] == {"0": "stars"}
        again = tl.load(tmp_path / "model")
        assert isinstance(again.head, ClassifierConfig) and again.head.problem == "regression"
        assert isinstance(again.transform, TextTransform)
        texts = again.transform.encode([data.records[int(i)]["text"] for i in data.test[:5]])
        logits = again(again.transform.pad(texts, 16, 5))["logits"]
        np.testing.assert_allclose(logits, result.predictions["value"][:5], rtol=1e-4)
    # Its rows are in the units of the data, and what trains is not: they are not taken over.
    again = tl.load(tmp_path / "model")
    plan = tl.adapt(again, data, method=tl.methods.Full(pooling="pooler")).plan
    assert {leaf.path: leaf.action for leaf in plan.leaves}["head/kernel"] == "initialised"


def test_a_metric_that_is_not_defined_yet_does_not_choose_the_state(source, ratings: Path) -> None:
    task = Regression(metric="spearman")
    scores = {"rmse": 2.0, "mae": 1.0, "r2": 0.0, "pearson": np.nan, "spearman": np.nan}
    assert task.selection({**scores, "spearman": -0.9}, 9) > task.selection({**scores, "rmse": 1.0}, 9)
    assert task.selection({**scores, "rmse": 1.0}, 9) > task.selection(scores, 9)
    data = tl.dataset(ratings, target="stars", test_examples=60).hold_out(0.3, 0)
    result = tl.adapt(source, data, method=tl.methods.Probe(), settings=QUICK, task=task).fit()
    rows = [row for row in result.history if "validation_spearman" in row]
    assert len(rows) > 1 and result.record["metric"] == "spearman"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Regression(metric="rsme"), "Regression has no metric 'rsme'. Did you mean 'rmse'"),
        (lambda: Regression(delta=-1.0), "delta is -1.0"),
        (lambda: Classification(label_smoothing=-3.0), "label_smoothing is -3.0"),
        (lambda: Regression(loss="huber"), "Regression takes no 'loss'"),  # pyright: ignore[reportCallIssue]
        (lambda: task_from({"name": "regresion"}), "Unknown task 'regresion'. Did you mean 'regression'"),
        (lambda: task_from({"name": "regression", "eror": "huber"}), "Did you mean 'error'"),
    ],
)
def test_a_task_that_cannot_be_is_one_error(make, said: str) -> None:
    with pytest.raises(TransferlabError, match=re.escape(said)):
        make()


def test_a_task_of_the_wrong_kind_or_with_settings_of_another_is_refused(source, ratings: Path, films) -> None:
    data = tl.dataset(ratings, target="stars", test_examples=60)
    for task in ("regression", Regression):
        with pytest.raises(TransferlabError, match=r"task is .*; pass one of tl\.tasks, as tl\.tasks\.Regression\(\)"):
            _check_kinds(source, None, None, 0, task)
    smooth = Settings(label_smoothing=0.1, steps=1)
    with pytest.raises(TransferlabError, match=r"settings\.label_smoothing is 0\.1, and the task is Regression"):
        tl.adapt(source, data, settings=smooth)
    with pytest.raises(TransferlabError, match="and the task is Classification"):
        tl.adapt(source, films, settings=smooth, task=Classification(label_smoothing=0.3))
    run = tl.adapt(source, films, settings=smooth)
    assert run.task == Classification(label_smoothing=0.1)


def test_large_numbers_keep_their_digits(source, tmp_path: Path) -> None:
    rows = [f"{'good ' * (i % 5)}{'bad ' * (i % 3)}film {i},{1_700_000_000 + 10 * (i % 5)}" for i in range(60)]
    (tmp_path / "t.csv").write_text("text,label\n" + "\n".join(rows))
    result = tl.adapt(source, tl.dataset(tmp_path / "t.csv", label_kind="numbers"), settings=QUICK).fit()
    assert 1 < result.test["rmse"] < 16 and result.test["pearson"] > 0
    assert len(np.unique(result.predictions["value"])) > 1

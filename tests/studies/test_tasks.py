"""Studies of numbers and tags: the score that chooses, its direction, its intervals, and what pages and figures say of it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

import transferlab as tl
from transferlab.cli.main import cli
from transferlab.config import parse_config, read_config
from transferlab.errors import TransferlabError
from transferlab.measure import data_multiplier, t_interval
from transferlab.studies.cells import _winner
from transferlab.studies.directory import recorded_config
from transferlab.studies.figures import learning_curves, palette_of
from transferlab.studies.report import answer, caveats, figure_lines
from transferlab.studies.resampling import resampled
from transferlab.studies.scores import Score
from transferlab.studies.status import oriented
from transferlab.studies.study import Study, run_study
from transferlab.studies.table import markdown_page, markdown_table, summarize, variance_note
from transferlab.tasks import Classification, MultiLabel, Regression
from transferlab.train.result import Result

RMSE = {"mean": 1.2, "scratch": 1.0, "probe": 0.8, "lora": 1.3}
RATE = {16: 1.0, 64: 0.9, 256: 0.8}


def record(name: str, budget: int, seed: int, rmse: float) -> dict[str, Any]:
    method = name != "mean"
    spearman = math.nan if name == "mean" else 1 - rmse / 2
    return {
        "name": name, "kind": "method" if method else "baseline", "method": name, "budget": budget, "seed": seed,
        "task": "regression", "metric": "rmse", "direction": -1, "status": "finished",
        "test": {"rmse": rmse, "mae": rmse / 2, "r2": 1 - rmse, "pearson": spearman, "spearman": spearman},
        "trainable_parameters": 0, "flops": 1.0, "seconds": 1.0, "steps": 1, "settings": {}, "tuning": None,
    }  # fmt: skip


def records(scale: float = 1.0, seeds=(0, 1, 2)) -> list[dict[str, Any]]:
    """Errors that fall with labels; those of the probe are smallest, and lora's are larger than scratch's."""
    return [
        record(name, budget, seed, scale * (rmse * (1 if name == "mean" else RATE[budget]) + 0.01 * (seed - 1)))
        for name, rmse in RMSE.items()
        for budget in RATE
        for seed in seeds
    ]


def row_of(rows: list[dict[str, Any]], name: str, budget: int) -> dict[str, Any]:
    return next(row for row in summarize(rows) if (row["name"], row["budget"]) == (name, budget))


def test_scratch_needs_more_labels_to_reach_a_smaller_error() -> None:
    probe, lora = row_of(records(), "probe", 16), row_of(records(), "lora", 256)
    # The probe's .8 at 16 is scratch's at 256; lora's 1.04 at 256 is worse than scratch's at 16.
    assert probe["multiplier"]["value"] == pytest.approx(16.0) and probe["multiplier"]["censored"] is None
    assert lora["multiplier"]["censored"] == "below"
    curve = {budget: [-(rate + 0.01 * (seed - 1)) for seed in (0, 1, 2)] for budget, rate in RATE.items()}
    values = [-(0.9 * 0.8 + 0.01 * (seed - 1)) for seed in (0, 1, 2)]
    assert row_of(records(), "probe", 64)["multiplier"]["value"] == data_multiplier(curve, values, 64).value
    assert probe["over_scratch"]["mean"] == pytest.approx(-0.2)


def test_the_best_arm_is_that_of_the_smallest_error_and_transfer_that_hurts_is_named() -> None:
    summary = summarize(records())
    said = answer(summary)
    assert said.startswith("With 256 labels, probe reaches a test RMSE of 0.640 [0.615, 0.665], compared with 0.800 [")
    assert "difference −0.160" in said and "no budget up to 256 labels reached that" in said
    lines = caveats(summary)
    assert any(re.match(r"lora at 256 labels was worse than scratch: difference \+0\.240", line) for line in lines)
    assert not any(line.startswith("probe at") for line in lines)
    assert any("biased downward" in line for line in lines)
    assert any(
        line == "No better than always predicting the mean of the training targets (within 1 %): lora at 16."
        for line in lines
    )


@pytest.mark.parametrize(
    ("scale", "shown"),
    [(1.0, "0.640 ±0.025"), (1e3, "640 ±25"), (1e-2, "0.00640 ±0.00025"), (1e9, "6.4e+08 ±2.484e+07")],
)
def test_numbers_have_as_many_digits_as_their_unit_needs(scale: float, shown: str) -> None:
    summary = summarize(records(scale))
    table = markdown_table(summary, Score.of_rows(summary))
    assert f"| {shown} |" in table and "| arm | 16 | 64 | 256 |" in table
    page = markdown_page(summary, "x", "spearman")
    assert "Test RMSE by labels, ↓ better" in page and "\nSpearman\n" in page
    assert "| mean | – | – | – |" in page  # a constant has no rank correlation


def test_a_correlation_below_zero_has_a_minus_sign_and_zero_has_none() -> None:
    score = Score("r2", bounds=(-math.inf, 1.0))
    assert [score.text(value) for value in (-0.332, -0.0004, 0.5, math.nan)] == ["−.332", ".000", ".500", "–"]


def test_the_axis_says_that_smaller_is_better_and_chance_is_a_line() -> None:
    summary = summarize(records())
    svg = learning_curves(summary, palette_of(summary))
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    assert "test RMSE, ↓ better" in texts and "mean" in texts and "mean" not in palette_of(summary)
    assert figure_lines(summary) == "Dotted: always predicting the mean of the training targets."


def test_an_error_without_a_largest_value_leaves_out_what_diverged_and_says_so() -> None:
    rows = [
        {**r, "test": dict.fromkeys(r["test"], math.nan), "status": "diverged at step 3"}
        if (r["name"], r["budget"], r["seed"]) == ("probe", 64, 2)
        else r
        for r in records()
    ]
    row, summary = row_of(rows, "probe", 64), summarize(rows)
    assert row["rmse"] == pytest.approx(np.mean([0.71, 0.72])) and row["diverged"] == 1
    assert (row["low"], row["high"]) == pytest.approx(t_interval([0.71, 0.72]))
    # A correlation has a worst value, -1, as which it counts.
    assert row["spearman"] == pytest.approx((0.645 + 0.64 - 1) / 3)
    assert row["over_scratch"]["pairs"] == 2
    assert any("They are in no mean and no interval, which overstates the arm" in line for line in caveats(summary))
    assert "†: without the runs that diverged" in variance_note(summary)


def test_a_score_that_is_not_defined_is_never_the_best() -> None:
    constant = {**record("lora", 16, 0, 1.0), "metric": "spearman", "direction": 1}
    constant["test"]["spearman"] = math.nan
    assert oriented(constant) == -math.inf
    assert oriented(record("lora", 16, 0, 1.0)) > oriented(record("lora", 16, 1, 1.1))


def test_a_tuning_trial_with_a_score_is_chosen_before_those_without() -> None:
    arm = parse_config({**config_of(Path("m"), Path("d"), Path("w")), "methods": {"probe": {"tune": ({"steps": 1}, {"steps": 2}, {"steps": 3})}}}).methods["probe"]  # fmt: skip
    task = Regression(metric="spearman")

    def chosen(*values: tuple[float, float]) -> Any:
        results = [
            Result({}, {}, [{f"validation_{name}": value for name, value in {**dict.fromkeys(task.scores, 0.0), "spearman": one, "rmse": other}.items()}], {"seconds": 1.0, "status": "finished"}, ())
            for one, other in values
        ]  # fmt: skip
        return _winner(arm, task, results, 10)[1]["chosen"]  # pyright: ignore[reportOptionalSubscript]

    nan = math.nan
    assert chosen((nan, nan), (-0.9, nan), (nan, 1e-9)) == {"steps": 2}
    assert chosen((nan, nan), (nan, 2.0), (nan, 1.0)) == {"steps": 3}
    assert chosen((nan, nan), (nan, nan), (nan, nan)) == {"steps": 1}


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts whose number and tags follow from their words."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("ratings") / "r.csv"
    rows = ["text,stars,tags,grade"]
    for i in range(120):
        words = rng.choice(["good", "bad", "film", "the", "a", "day"], 5).tolist()
        tags = json.dumps([tag for tag in ("good", "film") if tag in words]).replace('"', "'")
        stars = 5000 + 300 * (words.count("good") - words.count("bad")) + rng.normal()
        rows.append(f"""{" ".join(words)} {i},{stars:.3f},"{tags}",{int(stars > 5000)}""")
    path.write_text("\n".join(rows))
    return path


def config_of(source: Path, data: Path, workdir: Path, **more: Any) -> dict[str, Any]:
    return {
        "source": str(source), "data": {"source": str(data), "target": more.pop("target", "stars")}, "test_examples": 40, "budgets": (20,), "seeds": (0, 1), "workdir": str(workdir),
        "train": {"batch_size": 8, "steps": 30, "learning_rate": 1e-2, "warmup": 0.0},
        "methods": {"probe": {}, "scratch": {}}, "baselines": ("mean", "tfidf"), **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def study(bert_folder: Path, ratings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tuned study of numbers."""
    place = tmp_path_factory.mktemp("studies") / "stars"
    tune = ({"learning_rate": 1e-2}, {"learning_rate": 1e-7})
    raw = config_of(
        bert_folder, ratings, place, grid="full", methods={"probe": {"tune": tune}, "scratch": {}},
        task={"error": "huber", "delta": 2.0},
    )  # fmt: skip
    run_study(parse_config(raw))
    return place


def test_a_study_of_numbers_is_tuned_kept_and_reported_by_its_error(study: Path) -> None:
    result = json.loads((study / "result.json").read_text())
    arms = {(row["name"], row["seed"]): row for row in result["arms"]}
    assert {row["metric"] for row in result["arms"]} == {"rmse"}
    tuning = arms["probe", 0]["tuning"]
    first, second = (trial["rmse"] for trial in tuning["validation"])
    assert first < second and tuning["chosen"] == {"learning_rate": 1e-2}  # the smaller error
    best = min((0, 1), key=lambda seed: arms["probe", seed]["test"]["rmse"])
    assert [path.parent.name for path in study.glob("runs/probe/20/*/checkpoints")] == [str(best)]
    identity = json.loads((study / "runs" / "probe" / "20" / "0" / "run.json").read_text())
    assert identity["task"] == {"name": "regression", "error": "huber", "delta": 2.0, "metric": None}
    predictions = np.load(study / "runs" / "tfidf" / "20" / "1" / "predictions.npz")
    assert predictions["value"].shape == (40, 1) and 4000 < predictions["value"].mean() < 6000
    page = (study / "report.html").read_text()
    assert "<h2>RMSE by labels, ↓ better</h2>" in page and "In the units of stars." in page
    assert "validation RMSE of each trial" in page and "loss, standardized targets" in page
    assert "<h2>Spearman</h2>" in page and "nan" not in re.sub("<[^>]*>", "", page).lower().split()


def test_a_study_of_numbers_predicts_with_the_run_of_the_smallest_error(study: Path) -> None:
    done = CliRunner().invoke(cli, ["predict", str(study), "a good film"], catch_exceptions=False)
    records = [json.loads(path.read_text()) for path in study.glob("runs/*/20/*/record.json")]
    best = min(record["test"]["rmse"] for record in records if record["kind"] == "method")
    assert f"(test RMSE {best:.4g}, the best of 2 that kept their weights)" in done.output
    again = CliRunner().invoke(cli, ["report", str(study)], catch_exceptions=False)
    assert "Test RMSE by labels, ↓ better" in again.output and "labels saved" in again.output
    assert parse_config(recorded_config(study)).task == {"name": "auto", "error": "huber", "delta": 2.0}


def test_a_study_of_tags_has_a_baseline_for_each_tag_and_intervals_of_one_seed(
    bert_folder: Path, ratings: Path, tmp_path: Path
) -> None:
    raw = config_of(bert_folder, ratings, tmp_path / "s", target="tags", seeds=(0,), baselines=("prior", "tfidf"))
    raw["train"]["steps"] = 10
    result = run_study(parse_config(raw))
    rows = {row["name"]: row for row in result["summary"]}
    assert {row["metric"] for row in rows.values()} == {"f1_micro"}
    assert rows["probe"]["interval"] == "bootstrap over the test set"
    assert rows["probe"]["low"] <= rows["probe"]["f1_micro"] <= rows["probe"]["high"]
    assert "F1 micro by labels" in (tmp_path / "s" / "report.html").read_text()
    # Rescored once: the second report reads what the first has kept.
    kept = next((tmp_path / "s").glob("runs/probe/20/0/interval.json"))
    written = json.loads(kept.read_text())
    kept.write_text(json.dumps({**written, "low": 0.123}))
    again = Study(parse_config(raw)).report()["summary"]
    assert next(row for row in again if row["name"] == "probe")["low"] == 0.123
    kept.write_text(json.dumps({**written, "low": 0.123, "predictions": "of another run"}))
    assert Study(parse_config(raw)).report()["summary"] == result["summary"]


def test_a_study_of_words_is_compared_by_its_spans_with_the_most_frequent_tag_of_a_word(
    bert_folder: Path, tmp_path: Path
) -> None:
    words = [["good", "the", "film", str(i), *["great", "bad"][: i % 3]] for i in range(60)]
    rows = [
        {"words": one, "tags": ["B-x" if word in ("good", "great", "bad") else "O" for word in one]} for one in words
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    raw = config_of(
        bert_folder, tmp_path / "t.jsonl", tmp_path / "s", target="tags", baselines=("majority", "frequent_tag")
    )
    raw["data"]["words"], raw["train"]["steps"], raw["seeds"], raw["methods"] = "words", 2, (0,), {"probe": {}}
    result = run_study(parse_config(raw))
    rows = {row["name"]: row for row in result["summary"]}
    assert {row["metric"] for row in rows.values()} == {"span_f1"}
    assert rows["frequent_tag"]["span_f1"] == 1.0 and rows["majority"]["span_f1"] < 0.5
    assert rows["probe"]["interval"] == "bootstrap over the test set"
    page = (tmp_path / "s" / "report.html").read_text()
    assert "<h2>Span F1 by examples</h2>" in page and "With 20 examples" not in page  # there is no scratch arm


@pytest.mark.parametrize(
    "task", [Classification(), Regression(metric="mae"), Regression(), MultiLabel(metric="exact_match")]
)
def test_means_resampled_at_once_are_the_scores_of_resampled_examples(task, ratings: Path, tmp_path: Path) -> None:
    kind = {"classes": "grade", "numbers": "stars", "tags": "tags"}[task.target]
    data = tl.dataset(ratings, target=kind, test_examples=40)
    rng, name = np.random.default_rng(0), Score.of_task(task).name
    truth = task.column(data).values[data.test]
    shape = (40, len(task.outputs(data)))
    predictions = {
        task.predicted: truth + 50 * rng.normal(size=shape) if task.target == "numbers" else rng.dirichlet([1] * 2, 40)
    }
    parts = task.contributions(predictions, data, data.test)
    scores = task.score(predictions, data, data.test)
    for score, each in parts.items():
        assert each.mean() == pytest.approx(scores[score]), score
    arrays: dict[str, Any] = dict(predictions)
    np.savez(tmp_path / "predictions.npz", **arrays)
    low, high, how = resampled(tmp_path, task, data)
    assert low < scores[name] < high and how == "bootstrap over the test set"


# The section config.task ---------------------------------------------------------------------------------------------


def test_a_task_is_named_in_a_config_or_on_the_command_line(config: Path, ratings: Path) -> None:
    data = [f"--config.data.source={ratings}", "--config.data.target=grade", "--config.baselines=mean"]
    read = read_config(config, [*data, "--config.task.name=regression", "--config.task.error=absolute"])
    assert Study(read).task == Regression(error="absolute")
    assert Study(read_config(config, [*data[:2], "--config.baselines=()"])).task == Classification()
    chosen = read_config(config, [*data[:2], "--config.baselines=()", "--config.task.metric=balanced_accuracy"])
    assert Score.of_task(Study(chosen).task).name == "balanced_accuracy"
    assert Study(read_config(config, ["--config.task=classification"])).task == Classification()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--config.task.name=regresion", "config.task: unknown task 'regresion'. Did you mean 'regression'"),
        ("--config.task.eror=huber", "Unknown field config.task.eror. Did you mean 'error'"),
        ("--config.task={'name': 'regression', 'delta': -1.0}", "config.task.delta is -1.0"),
        ("--config.task={'name': 'regression', 'metric': 'rsme'}", "no metric 'rsme'. Did you mean 'rmse'"),
        ("--config.task.error=huber", "Unknown field config.task.error"),
        ("--config.task.name=multi_label", "not tags"),
        ("--config.task=3", "config.task is 3; expected a mapping"),
        ("--config.baselines=('mean',)", "which the task classification does not have; it has majority, tfidf, pixels"),
    ],
)
def test_a_task_that_is_none_or_not_that_of_the_data_is_refused(config: Path, override: str, said: str) -> None:
    with pytest.raises(TransferlabError, match=re.escape(said)):
        Study(read_config(config, [override]))


def test_the_tasks_are_listed_with_what_they_read_and_their_scores() -> None:
    listed = CliRunner().invoke(cli, ["tasks"], catch_exceptions=False).output
    for name in (
        "classification",
        "multi_label",
        "regression",
        "rmse ↓",
        "balanced_accuracy",
        "tags",
        "tfidf",
        "delta=1.0",
    ):
        assert name in listed, name

"""Runs without scores: they count, they are marked in every table, and they are named."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.studies import study
from test_report import write

from transferlab.cli.predict import best_run
from transferlab.config import parse_config
from transferlab.errors import TransferlabError
from transferlab.measure import data_multiplier, t_interval
from transferlab.studies.figures import learning_curves, palette_of
from transferlab.studies.observer import Cell, Observer
from transferlab.studies.report import answer, caveats
from transferlab.studies.scores import Score
from transferlab.studies.status import failure_lines
from transferlab.studies.study import Study, run_study
from transferlab.studies.table import markdown_page, results_csv, rich_table, shown, study_result, summarize

Records = list[dict[str, Any]]
ACCURACY, BALANCED = (Score(name, bounds=(0.0, 1.0)) for name in ("accuracy", "balanced_accuracy"))


def diverged(records: Records, *cells: tuple[str, int, int], status: str = "diverged at step 7") -> Records:
    """The same records, these of which have no scores."""
    none = dict.fromkeys(("accuracy", "balanced_accuracy", "cross_entropy"), float("nan"))
    return [
        {**r, "test": none, "status": status} if (r["name"], r["budget"], r["seed"]) in cells else r for r in records
    ]


def row_of(records: Records, name: str, budget: int) -> dict[str, Any]:
    return next(row for row in summarize(records, test_examples=100) if (row["name"], row["budget"]) == (name, budget))


def test_a_seed_that_diverged_counts_as_wrong_and_is_named() -> None:
    records = diverged(study(), ("lora", 64, 1))
    row = row_of(records, "lora", 64)
    # Seeds of .79, .80 and .81, without the one in the middle.
    assert (row["seeds"], row["diverged"]) == (3, 1)
    assert row["accuracy"] == pytest.approx((0.79 + 0 + 0.81) / 3)
    assert (row["low"], row["high"]) == pytest.approx(t_interval([0.79, 0.0, 0.81]))
    assert row["balanced_accuracy"] == pytest.approx((0.77 + 0 + 0.79) / 3)
    assert row["finished_score"] == pytest.approx(0.8)
    assert row["over_scratch"]["pairs"] == 3
    assert row["over_scratch"]["mean"] == pytest.approx((0.79 + 0 + 0.81) / 3 - 0.6)
    assert shown(row, ACCURACY).startswith(".533 † ±1.1")
    summary = summarize(records)
    line = (
        "lora at 64 labels: 1 of 3 runs have no scores: seed 1 diverged at step 7 (learning rate 0.003). In means and "
        "intervals they count as predicting everything wrong; the mean accuracy of the others is 0.800."
    )
    assert failure_lines(summary, "scratch") == [line]
    assert line in caveats(summary) and f"- {line}" in markdown_page(summary, "x")
    assert "these count as predicting everything wrong" in study_result(records, summary, {})["variance"]
    assert "†" not in study_result(study(), summarize(study()), {})["variance"]


def test_scratch_runs_that_diverged_do_not_overstate_the_gain_of_other_arms() -> None:
    records = diverged(study(), ("scratch", 256, 2))
    row, scratch = row_of(records, "lora", 256), row_of(records, "scratch", 256)
    # Of scratch .69 and .70 are left: .89 and .90 against them.
    assert row["over_scratch"]["pairs"] == 2 and row["over_scratch"]["mean"] == pytest.approx(0.2)
    assert scratch["accuracy"] == pytest.approx((0.69 + 0.70) / 3)
    curve = {16: [0.49, 0.5, 0.51], 64: [0.59, 0.6, 0.61], 256: [0.69, 0.70]}
    assert row_of(records, "lora", 16)["multiplier"]["value"] == data_multiplier(curve, [0.64, 0.65, 0.66], 16).value
    assert "compared with .695 (2 of 3 runs finished) for the same" in answer(summarize(records))
    assert any("Other arms are not compared with these runs" in line for line in caveats(summarize(records)))


def test_an_arm_whose_runs_all_diverged_has_no_score(tmp_path: Path) -> None:
    gone = [("full", budget, seed) for budget in (16, 64, 256) for seed in (0, 1, 2)]
    records = diverged(study(), *gone, ("lora", 64, 0), ("lora", 64, 1), ("lora", 64, 2))
    row = row_of(records, "full", 256)
    assert (row["diverged"], shown(row, ACCURACY), shown(row, BALANCED)) == (3, "diverged", "diverged")
    assert "multiplier" not in row and "over_scratch" not in row
    summary = summarize(records)
    svg = learning_curves(summary, palette_of(summary))
    assert ">lora<" in svg and ">full<" not in svg
    assert "| full | diverged | diverged | diverged |" in markdown_page(summary, "x")
    console = Console(file=io.StringIO(), width=120)
    console.print(rich_table(summary))
    _, page = write(tmp_path, records)
    assert "full at 256 labels: 3 of 3 runs have no scores: seed 0 diverged at step 7" in page.text
    assert answer(summary).startswith("With 256 labels, lora reaches")
    _, page = write(tmp_path, diverged(study(names=("full",)), *gone), curves={})
    assert "No method has finished yet." in page.text


def test_a_baseline_that_fails_is_shown_as_failed(tmp_path: Path) -> None:
    records = diverged(study(), ("tfidf", 16, 0), ("tfidf", 16, 1), ("tfidf", 16, 2), status="failed: ValueError: no")
    assert shown(row_of(records, "tfidf", 16), ACCURACY) == "failed"
    assert "seed 2 failed: ValueError: no." in write(tmp_path, records)[1].text


def test_every_file_has_the_status() -> None:
    records = diverged(study(), ("lora", 64, 1))
    rows = list(csv.DictReader(io.StringIO(results_csv(records))))
    assert {(r["name"], r["budget"], r["seed"]): (r["status"], r["accuracy"]) for r in rows}["lora", "64", "1"] == (
        "diverged at step 7", "",
    )  # fmt: skip
    assert sum(r["status"] == "finished" for r in rows) == len(records) - 1
    arms = json.loads(json.dumps(study_result(records, summarize(records), {}), allow_nan=False))["arms"]
    assert [one["status"] for one in arms].count("diverged at step 7") == 1 and all(one["status"] for one in arms)


# ---------------------------------------------------------------------------------------------------------------


class Counting(Observer):
    """Counts what starts and remembers what ended."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str]] = []
        self.ended: dict[Cell, dict[str, Any]] = {}
        self.steps = 0

    def cells(self, cells, what: str) -> None:
        self.started += [(cell.arm, what) for cell in cells]

    def step(self, done: int, total: int, metrics: Mapping[str, Any]) -> None:
        self.steps += 1

    def finished(self, cell: Cell, record: dict[str, Any]) -> None:
        self.ended[cell] = record


def config_of(bert_folder: Path, table: Path, workdir: Path, **methods) -> dict[str, Any]:
    return {
        "source": str(bert_folder), "data": str(table), "test_examples": 40, "budgets": (20,), "seeds": (0, 1),
        "grid": "full", "workdir": str(workdir), "baselines": ("majority", "tfidf"),
        "train": {"batch_size": 8, "steps": 6, "warmup": 0.0, "checkpoint_steps": 1}, "methods": methods,
    }  # fmt: skip


WILD, CALM = {"learning_rate": 1e38}, {"learning_rate": 1e-2}


def test_a_study_continues_past_runs_that_diverge_and_does_not_repeat_them(
    bert_folder: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **more: Any) -> Any:
        raise ValueError("this solver needs more")

    monkeypatch.setattr("sklearn.linear_model.LogisticRegression.fit", broken)
    config = parse_config(
        config_of(
            bert_folder,
            table,
            tmp_path / "s",
            probe={"tune": (WILD, CALM)},
            lost={"method": "probe", "weights": "random", "tune": (WILD, {**WILD, "weight_decay": 0.1})},
            scratch={"train": WILD},
            full={"train": CALM},
        )
    )
    watched = Counting()
    result = run_study(config, watched)
    status = {(cell.arm, cell.seed): record["status"] for cell, record in watched.ended.items()}
    for seed in (0, 1):
        assert status["probe", seed] == status["full", seed] == status["majority", seed] == "finished"
        assert status["lost", seed] == "diverged in all 2 tuning trials"
        assert status["scratch", seed].startswith("diverged at step ")
        assert status["tfidf", seed] == "failed: ValueError: this solver needs more"
    # A trial this short is validated after every step.
    probe = watched.ended[Cell("probe", 20, 0)]["tuning"]
    assert probe["chosen"] == CALM
    assert [trial["status"] for trial in probe["validation"]] == ["diverged at step 1", "finished"]
    assert watched.ended[Cell("lost", 20, 0)]["tuning"]["chosen"] is None
    assert not list((tmp_path / "s" / "runs" / "scratch").glob("**/checkpoints"))
    page = (tmp_path / "s" / "report.html").read_text()
    for words in (
        "scratch at 20 labels: 2 of 2 runs have no scores: seed 0 diverged at step",
        "lost at 20 labels: 2 of 2 runs have no scores: seed 0 diverged in all 2 tuning trials",
        "probe at 20 labels: tuning trials that diverged, and were not chosen: seed 0, learning_rate = 1e+38 (diverged at step 1)",
        "without a scratch arm at the same budget",
    ):
        assert words in page.replace("&#39;", "'")
    assert best_run(tmp_path / "s").parts[-3] in ("probe", "full")
    # Again, and the report alone: the same marks, and nothing is trained.
    again = Counting()
    assert run_study(config, again)["arms"] == result["arms"] and not again.started
    table_before = (tmp_path / "s" / "table.md").read_text()
    (tmp_path / "s" / "table.md").unlink()
    assert Study(config).report()["summary"] == result["summary"]
    assert (tmp_path / "s" / "table.md").read_text() == table_before and "| scratch | diverged |" in table_before
    # Without the records the runs' own files say the same: none of those that diverged takes a step.
    for path in (tmp_path / "s").glob("runs/*/*/*/record.json"):
        path.unlink()
    from_files = run_study(config, again)
    assert again.started and not again.steps
    assert [r["status"] for r in from_files["arms"]] == [r["status"] for r in result["arms"]]


def test_a_study_in_which_everything_diverged_has_nothing_to_predict_with(
    bert_folder: Path, table: Path, tmp_path: Path
) -> None:
    raw = config_of(bert_folder, table, tmp_path / "s", probe={"train": WILD})
    result = run_study(parse_config({**raw, "baselines": ()}), Counting())
    assert [row["diverged"] for row in result["summary"]] == [2]
    with pytest.raises(
        TransferlabError, match=r"no finished run that kept its weights\. runs/probe/20/0 diverged at step 2"
    ):
        best_run(tmp_path / "s")
    assert np.isnan(summarize(Study(parse_config({**raw, "baselines": ()})).records())[0]["low"])

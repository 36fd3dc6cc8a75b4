"""The table of runs: what is averaged, what is compared with scratch, and what each output shows."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from rich.console import Console
from support.studies import study

from transferlab.studies.report import _difference, caveats
from transferlab.studies.scores import Score
from transferlab.studies.table import (
    markdown_page,
    markdown_table,
    multiplier_at,
    reference_of,
    results_csv,
    rich_table,
    shown,
    study_result,
    summarize,
)

ACCURACY, BALANCED = (Score(name, bounds=(0.0, 1.0)) for name in ("accuracy", "balanced_accuracy"))


def _rows(records, **kwargs):
    return {(row["name"], row["budget"]): row for row in summarize(records, **kwargs)}


def result_of(records, manifest=None, test_examples=None):
    return study_result(records, summarize(records, test_examples=test_examples), manifest or {})


def test_one_row_per_arm_and_budget_with_the_mean_over_seeds():
    rows = _rows(study())
    assert len(rows) == 15
    row = rows["lora", 64]
    assert row["seeds"] == 3
    assert row["accuracy"] == pytest.approx(0.8)
    assert row["balanced_accuracy"] == pytest.approx(0.78)
    # t(.975, 2) = 4.302653, sd .01
    assert row["accuracy"] - row["low"] == pytest.approx(4.302653 * 0.01 / math.sqrt(3), abs=1e-6)
    assert row["interval"] == "t over seeds"
    assert (row["trainable_parameters"], row["flops"], row["seconds"]) == (148_226, 2.5e12, pytest.approx(4.25))


def test_difference_to_scratch_uses_the_seeds_that_both_have():
    records = [r for r in study() if not (r["name"] == "scratch" and r["seed"] == 2)]
    over = _rows(records)["full", 64]["over_scratch"]
    assert over["pairs"] == 2
    # full .76, .75 against scratch .59, .60
    assert over["mean"] == pytest.approx(0.16)


def test_multiplier_over_scratch_is_of_the_same_study():
    rows = _rows(study())
    # lora has .65 at 16: half-way between scratch at 64 (.6) and 256 (.7), so 128 labels.
    assert rows["lora", 16]["multiplier"]["value"] == pytest.approx(8.0)
    assert rows["lora", 64]["multiplier"]["censored"] == "above"
    assert rows["lora", 64]["multiplier"]["text"] == ">4.0×"
    assert "multiplier" not in rows["scratch", 64]


def test_one_seed_gets_wilsons_interval_over_the_test_set():
    rows = _rows(study(seeds=(1,)), test_examples=100)
    row = rows["lora", 64]
    assert row["interval"] == "Wilson over the test set"
    # 80 of 100
    assert (row["low"], row["high"]) == (pytest.approx(0.7112, abs=1e-4), pytest.approx(0.8666, abs=1e-4))


def test_one_seed_without_a_known_test_set_has_no_interval():
    row = _rows(study(seeds=(1,)))["lora", 64]
    assert math.isnan(row["low"]) and row["interval"] == "one seed"


def test_a_study_without_scratch_compares_nothing_with_it():
    rows = summarize(study(names=("lora", "majority")))
    assert all("multiplier" not in row and "over_scratch" not in row for row in rows)


def test_the_reference_is_the_arm_that_trains_from_scratch_whatever_its_name():
    renamed = [{**r, "name": {"scratch": "control", "lora": "scratch"}.get(r["name"], r["name"])} for r in study()]
    rows = _rows(renamed)
    assert rows["full", 256]["over_scratch"]["mean"] == pytest.approx(0.214)
    assert "over_scratch" not in rows["control", 256] and "over_scratch" in rows["scratch", 256]
    assert reference_of(renamed) == "control" and reference_of(study(names=("lora",))) is None


def test_a_run_that_diverged_is_a_row_like_any_other():
    records = study()
    records[-1]["test"]["cross_entropy"] = float("nan")
    records[-2]["test"]["cross_entropy"] = None  # as it comes back from a record
    summary = summarize(records)
    assert [row["diverged"] for row in summary][-1] == 2 and sum(row["diverged"] for row in summary) == 2
    assert any("2 of 3 runs have no scores: seed 1 diverged" in line for line in caveats(summary))


def test_a_wide_interval_loses_a_digit():
    column = {"mean": 0.81, "low": 0.81 - 10.165, "high": 0.81 + 10.165}
    row = {"scores": {"accuracy": column}, "interval": "t over seeds"}
    assert shown(row, ACCURACY) == ".810 ±10.165"
    over = {"mean": -0.5, "low": -10.665, "high": 9.665, "pairs": 2}
    assert _difference({"over_scratch": over}, ACCURACY) == "−.500 ±10.165"


def test_csv_has_a_line_per_run_and_reads_back():
    records = study()
    rows = list(csv.DictReader(io.StringIO(results_csv(records))))
    assert len(rows) == len(records)
    row = next(r for r in rows if (r["name"], r["budget"], r["seed"]) == ("lora", "64", "2"))
    assert float(row["accuracy"]) == pytest.approx(0.81)
    assert float(row["learning_rate"]) == pytest.approx(3e-3)


def test_result_is_json_that_every_parser_reads():
    result = result_of(study(seeds=(0,)), {"config": {"name": "x"}})
    text = json.dumps(result, allow_nan=False)
    assert json.loads(text)["summary"][0]["low"] is None
    assert result["config"] == {"name": "x"}
    assert len(result["arms"]) == 15
    assert result["variance"]


def test_markdown_holds_every_arm_and_its_half_width():
    lines = markdown_table(summarize(study()), ACCURACY).splitlines()
    assert lines[0] == "| arm | 16 | 64 | 256 |"
    assert "| lora | .650 ±.025 | .800 ±.025 | .900 ±.025 |" in lines
    assert ".780 ±.025" in markdown_table(summarize(study()), BALANCED)


@pytest.mark.parametrize("budgets", [(16,), (16, 64, 256)])
def test_terminal_table_fits_a_hundred_columns(budgets):
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(rich_table(summarize(study(budgets=budgets))))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    assert all(name in text for name in ("majority", "lora", "scratch"))


def test_terminal_table_never_cuts_a_number():
    console = Console(width=100, file=io.StringIO(), record=True)
    more = [{**r, "budget": 1024} for r in study(budgets=(256,))]
    console.print(rich_table(summarize(study() + more)))
    text = console.export_text()
    assert "…" not in text
    assert ".900 ±.025" in text


def test_an_arm_that_scratch_never_reaches_shows_its_highest_bound():
    records = study(names=("scratch", "lora"))
    for r in records:
        if r["name"] == "lora":
            r["test"]["accuracy"] += 0.2
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(rich_table(summarize(records)))
    assert ">16.0× at 16" in console.export_text()


def test_the_note_names_only_variances_that_are_shown():
    over_seeds = result_of(study())["variance"]
    assert "over seeds" in over_seeds and "Wilson" not in over_seeds
    alone = result_of(study(seeds=(1,)), test_examples=100)["variance"]
    assert "Wilson" in alone and "over seeds" not in alone
    assert "has no interval" in result_of(study(seeds=(1,)))["variance"]


def test_wilsons_interval_is_printed_for_one_seed():
    text = markdown_table(summarize(study(seeds=(1,)), test_examples=100), ACCURACY)
    assert ".800 [.71, .87]" in text


def test_the_markdown_page_has_every_table():
    page = markdown_page(summarize(study()), "tweets", "balanced_accuracy")
    assert page.startswith("# tweets\n")
    tables = page.split("\n\n")
    assert sum(part.startswith("|") for part in tables) == 4
    assert any(part.startswith("| arm | 16 | 64 | 256 |") and "| lora | " in part and "×" in part for part in tables)
    assert "| lora | 256 | 3 | 148,226 | 120 | 2.5 TFLOP | 4.2 | 12.0 MB |" in page
    alone = markdown_page(summarize(study(names=("majority", "lora"))), "tweets")
    assert "×" not in alone


def test_a_weak_bound_does_not_stand_for_a_strong_one():
    rows = {
        ("full", n): {"multiplier": {"censored": side, "value": value, "text": text}}
        for n, side, value, text in (
            (16, "below", 1.0, "<1.0×"),
            (64, "above", 4.0, ">4.0×"),
            (256, "above", 1.0, ">1.0×"),
        )
    }
    assert multiplier_at("full", [16, 64, 256], rows) == ">4.0× at 64"
    assert multiplier_at("full", [16], rows) == "<1.0× at 16"
    rows["full", 64]["multiplier"] = {"censored": None, "value": 2.0, "text": "2.0×"}
    assert multiplier_at("full", [16, 64, 256], rows) == "2.0× at 64"


def test_a_narrow_terminal_keeps_the_scores():
    console = Console(width=40, file=io.StringIO())
    console.print(rich_table(summarize(study()), narrow=True))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert ".900" in text and ".650" in text and "…" not in text and "labels saved" not in text


def test_the_name_of_an_arm_is_not_taken_for_markup():
    out = io.StringIO()
    records = [{**record, "name": record["name"].replace("lora", "lora[/b]")} for record in study()]
    Console(file=out, width=120).print(rich_table(summarize(records)))
    assert "lora[/b]" in out.getvalue()

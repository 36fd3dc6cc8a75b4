"""``report.html``: one self-contained page, in the order of a reader's questions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from transferlab.files import write_text
from transferlab.studies.breakdown import Predicted, best_of, other_scores, output_rows
from transferlab.studies.figures import palette_of, training_curves
from transferlab.studies.prediction_figures import calibration_figure, confusion_figure, residual_figure
from transferlab.studies.scores import Score
from transferlab.studies.status import failure_lines, none_finished
from transferlab.studies.table import (
    Record,
    Row,
    magnitude,
    memory,
    multiplier_at,
    pivot,
    reference_of,
    shown,
    variance_note,
)
from transferlab.tasks import Task


def write_report(
    path: Path,
    *,
    records: Sequence[Record],
    summary: Sequence[Row],
    curve: str,
    plan: Mapping[str, Mapping[str, Any]],
    curves: Mapping[str, Sequence[tuple[int, int, list[Row]]]],
    environment: Mapping[str, Any],
    hashes: Mapping[str, Any],
    config: Mapping[str, Any],
    title: str,
    task: Task,
    companion: str | None = None,
    explained: Mapping[str, str] | None = None,
    predicted: Mapping[str, Predicted] | None = None,
) -> None:
    """Write the report atomically.

    Args:
        path: of the page.
        records: one for each run.
        summary: one row per arm and budget, from :func:`transferlab.studies.table.summarize`.
        curve: the learning curves, as SVG.
        plan: arm → ``Plan.to_dict()``.
        curves: arm → (budget, seed, rows of metrics) of its runs.
        environment: versions and hardware.
        hashes: of weights and data.
        config: of the study.
        title: of the page.
        task: of all arms.
        companion: a second score that has a table.
        explained: a sentence on scores whose names do not say what they are.
        predicted: what each arm's runs predicted, from :func:`transferlab.studies.breakdown.predicted_by_arm`.
    """
    names, budgets, rows = pivot(summary)
    reference = reference_of(summary)
    palette = palette_of(summary)
    score, unit = Score.of_rows(summary), task.budget_unit
    second = None if companion is None else Score.of_rows(summary, companion)
    loader = Environment(
        loader=PackageLoader("transferlab.studies", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = loader.get_template("report.html.j2").render(
        title=title,
        answer=answer(summary),
        caveats=caveats(summary),
        curve=curve,
        **_predictions(predicted or {}, summary, task, (score.name, companion), palette),
        training=training_curves(curves, palette, task),
        score=score,
        second=second,
        unit=unit,
        kind=task.target,
        explained=explained or {},
        validated=task.validation_loss is not None,
        names=names,
        kinds={name: next(r["kind"] for r in summary if r["name"] == name) for name in names},
        budgets=budgets,
        scores={(n, b): shown(rows.get((n, b)), score) for n in names for b in budgets},
        others={} if second is None else {(n, b): shown(rows.get((n, b)), second) for n in names for b in budgets},
        lines=figure_lines(summary),
        multipliers=[(n, [_multiplier(rows.get((n, b))) for b in budgets]) for n in names if n != reference],
        summary_multiplier={n: multiplier_at(n, budgets, rows) for n in names},
        has_multipliers=any("multiplier" in row for row in summary),
        differences=[(n, [_difference(rows.get((n, b)), score) for b in budgets]) for n in names if n != reference],
        costs=[row for row in summary if row["kind"] == "method"],
        seeds={(r["name"], r["budget"]): r["seeds"] for r in summary},
        tuned=[r for r in records if r.get("tuning")],
        population_size=max((r.get("population_size", 1) for r in records), default=1),
        truncated=max((r.get("truncated", 0) for r in records), default=0),
        plans=plan,
        variance=variance_note(summary),
        environment=environment,
        hashes=json.dumps(hashes, indent=1, ensure_ascii=False),
        config=json.dumps(config, indent=1, ensure_ascii=False, default=str),
        magnitude=magnitude,
        memory=memory,
    )
    write_text(path, page)


def _predictions(
    predicted: Mapping[str, Predicted],
    summary: Sequence[Row],
    task: Task,
    shown_scores: tuple[str | None, ...],
    palette: Mapping[str, str],
) -> dict[str, Any]:
    """What the page shows of the predictions: every other metric, and the best arm's rows and figures."""
    best = best_of(predicted, summary)
    nothing = {
        "best": None,
        "metrics": [],
        "predicted": {},
        "rows": ([], [], 0),
        "confusion": "",
        "calibration": "",
        "residuals": "",
    }
    if not predicted or best is None:
        return nothing
    methods = {name: arm for name, arm in predicted.items() if name in palette}
    return {
        "best": best,
        "predicted": predicted,
        "metrics": other_scores(predicted, task, shown_scores),
        "rows": output_rows(best, task),
        "confusion": confusion_figure(best),
        "calibration": calibration_figure(methods, palette),
        "residuals": residual_figure(best),
    }


def figure_lines(summary: Sequence[Row]) -> str:
    """Return the legend of the lines that this study's learning curves have."""
    baselines = [row for row in summary if row["kind"] == "baseline"]
    constants = dict.fromkeys(row["constant"] for row in baselines if row["constant"] is not None)
    dashed = any(row["constant"] is None for row in baselines)
    return ("Dashed: baselines that use no pretrained weights. " if dashed else "") + (
        f"Dotted: {'; '.join(constants)}." if constants else ""
    )


def answer(summary: Sequence[Row]) -> str:
    """Return one sentence: what transfer gained at the largest budget where it can be compared with scratch."""
    reference = reference_of(summary)
    score, unit = Score.of_rows(summary), summary[0]["budget_unit"]
    methods = [
        row
        for row in summary
        if row["kind"] == "method" and row["name"] != reference and math.isfinite(row[score.name])
        if not none_finished(row)
    ]
    compared = [row for row in methods if "over_scratch" in row]
    if not compared:
        if not methods:
            return f"No {'other ' if reference else ''}method has finished yet."
        best = max(methods, key=lambda row: score.direction * row[score.name])
        return (
            f"The best {score.label} is {score.plain(best[score.name])} ({best['name']}, {best['budget']:,} {unit}); without a "
            f"scratch arm at the same budget, the gain from transfer is unknown."
        )
    budget = max(row["budget"] for row in compared)
    best = max((row for row in compared if row["budget"] == budget), key=lambda row: score.direction * row[score.name])
    scratch = next(row for row in summary if row["name"] == reference and row["budget"] == budget)
    gain = best["over_scratch"]
    interval = _between(gain["low"], gain["high"], score)
    ratio = best["multiplier"]
    largest = max(row["budget"] for row in summary if row["name"] == reference)
    if ratio["censored"] == "above":
        times = f"from scratch, no budget up to {largest:,} {unit} reached that"
    elif ratio["censored"] == "below":
        times = f"from scratch, fewer {unit} than the smallest budget here reach that"
    else:
        times = f"from scratch, it takes {ratio['text']} as many {unit}"
    return (
        f"With {budget:,} {unit}, {best['name']} reaches a test {score.label} of {_score(best, score)}, compared with "
        f"{_paired_score(scratch, score)} for the same network from scratch (difference {score.signed(gain['mean'])}{interval}); "
        f"{times}."
    )


def caveats(summary: Sequence[Row]) -> list[str]:
    """Return where transfer shows no gain (differences whose interval includes 0, arms at the level of chance), and failures."""
    out = []
    score, unit = Score.of_rows(summary), summary[0]["budget_unit"]
    for row in summary:
        over = row.get("over_scratch")
        if row["kind"] == "method" and over and math.isfinite(over["low"]):
            # In the direction of the score: how much better it may be at the least and at the most.
            least, most = sorted((score.direction * over["low"], score.direction * over["high"]))
            if least > 0:
                continue
            verdict = "was worse than" if most < 0 else "is not distinguishable from"
            out.append(
                f"{row['name']} at {row['budget']:,} {unit} {verdict} scratch: difference {score.signed(over['mean'])}"
                f"{_between(over['low'], over['high'], score)} over {over['pairs']} paired seeds."
            )
    out += failure_lines(summary, reference_of(summary))
    compared = [row for row in summary if row["kind"] == "method" and row.get("over_scratch")]
    if len({row["name"] for row in compared}) > 1:
        out.append(
            f"The arm named above was selected by its test {score.label}, which is therefore biased "
            f"{'upward' if score.direction > 0 else 'downward'}; the tables show every arm."
        )
    alone = sorted({row["name"] for row in compared if row["over_scratch"]["pairs"] < 2})
    if alone:
        out.append(f"Compared with scratch on a single seed, so the difference has no interval: {', '.join(alone)}.")
    out += _at_chance(summary, score)
    censored = {row["name"] for row in summary if (row.get("multiplier") or {}).get("censored") == "above"}
    if censored:
        out.append(
            f"Data multipliers with “>” are bounds: scratch did not reach that {score.label} at any of its budgets "
            f"({', '.join(sorted(censored))})."
        )
    return out


def _at_chance(summary: Sequence[Row], score: Score) -> list[str]:
    """A sentence for each constant that some runs are no better than: within .01 of a fraction, or 1 % of another number."""
    out = []
    for name in dict.fromkeys(row["name"] for row in summary if row["constant"] is not None):
        levels = {row["budget"]: row for row in summary if row["name"] == name and math.isfinite(row[score.name])}
        stuck = []
        for row in summary:
            if row["kind"] == "method" and row["budget"] in levels and not none_finished(row):
                level = levels[row["budget"]][score.name]
                near = 0.01 if score.is_fraction else 0.01 * abs(level)
                if score.direction * (row[score.name] - level) <= near:
                    stuck.append(f"{row['name']} at {row['budget']:,}")
        if stuck:
            about, within = next(iter(levels.values()))["constant"], ".01" if score.is_fraction else "1 %"
            out.append(f"No better than {about} (within {within}): {', '.join(stuck)}.")
    return out


def _between(low: float | int | None, high: float | int | None, score: Score) -> str:
    if low is None or high is None or not math.isfinite(low):
        return ""
    return f", 95 % interval {score.signed(low)} to {score.signed(high)}"


def _score(row: Row, score: Score) -> str:
    """``.914 [.902, .926]``, for use in a sentence."""
    text = score.text(row[score.name])
    if row["low"] is not None and math.isfinite(row["low"]):
        text += f" [{score.text(score.clipped(row['low']))}, {score.text(score.clipped(row['high']))}]"
    return text


def _paired_score(scratch: Row, score: Score) -> str:
    """The scratch arm's score that others are compared with: of the runs that finished."""
    if not scratch["diverged"]:
        return _score(scratch, score)
    kept = scratch["seeds"] - scratch["diverged"]
    return f"{score.text(scratch['finished_score'])} ({kept} of {scratch['seeds']} runs finished)"


def _multiplier(row: Row | None) -> str:
    return row["multiplier"]["text"] if row and "multiplier" in row else ""


def _difference(row: Row | None, score: Score) -> str:
    over = row.get("over_scratch") if row else None
    if not over:
        return ""
    return score.signed(over["mean"]) + score.half(over["mean"] - over["low"])

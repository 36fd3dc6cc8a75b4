"""``report.html``: one self-contained page, in the order of a reader's questions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from transferlab.files import write_text
from transferlab.studies.figures import palette_of, training_curves
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
    without_zero,
)


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
    classes: int | None = None,
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
        classes: how many classes the test split has.
    """
    names, budgets, rows = pivot(summary)
    reference = reference_of(summary)
    palette = palette_of(summary)
    loader = Environment(
        loader=PackageLoader("transferlab.studies", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = loader.get_template("report.html.j2").render(
        title=title,
        answer=answer(summary),
        caveats=caveats(summary),
        curve=curve,
        training=training_curves(curves, palette),
        names=names,
        kinds={name: next(r["kind"] for r in summary if r["name"] == name) for name in names},
        budgets=budgets,
        accuracy={(n, b): shown(rows.get((n, b))) for n in names for b in budgets},
        balanced={(n, b): shown(rows.get((n, b)), "balanced_accuracy", "balanced_low") for n in names for b in budgets},
        chance=balanced_chance(classes),
        lines=figure_lines(summary),
        multipliers=[(n, [_multiplier(rows.get((n, b))) for b in budgets]) for n in names if n != reference],
        summary_multiplier={n: multiplier_at(n, budgets, rows) for n in names},
        has_multipliers=any("multiplier" in row for row in summary),
        differences=[(n, [_difference(rows.get((n, b))) for b in budgets]) for n in names if n != reference],
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


def balanced_chance(classes: int | None) -> str:
    """Return a sentence on what balanced accuracy is, and its value for a constant prediction: 1 / classes."""
    count = "" if classes is None else f" {classes:,}"
    chance = "" if classes is None else f": {without_zero(f'{1 / classes:.3g}')} for a constant prediction"
    return f"Mean over the{count} classes of the test split of the fraction that is recognized{chance}."


def figure_lines(summary: Sequence[Row]) -> str:
    """Return the legend of the lines that this study's learning curves have."""
    baselines = {row["name"] for row in summary if row["kind"] == "baseline"}
    dashed = "Dashed: baselines that use no pretrained weights. " if baselines - {"majority"} else ""
    return dashed + ("Dotted: the fraction of the most frequent label." if "majority" in baselines else "")


def answer(summary: Sequence[Row]) -> str:
    """Return one sentence: what transfer gained at the largest budget where it can be compared with scratch."""
    reference = reference_of(summary)
    methods = [
        row for row in summary if row["kind"] == "method" and row["name"] != reference and not none_finished(row)
    ]
    compared = [row for row in methods if "over_scratch" in row]
    if not compared:
        if not methods:
            return f"No {'other ' if reference else ''}method has finished yet."
        best = max(methods, key=lambda row: row["accuracy"])
        return (
            f"The best accuracy is {best['accuracy']:.3f} ({best['name']}, {best['budget']:,} labels); without a "
            f"scratch arm at the same budget, the gain from transfer is unknown."
        )
    budget = max(row["budget"] for row in compared)
    best = max((row for row in compared if row["budget"] == budget), key=lambda row: row["accuracy"])
    scratch = next(row for row in summary if row["name"] == reference and row["budget"] == budget)
    gain = best["over_scratch"]
    interval = _between(gain["low"], gain["high"])
    ratio = best["multiplier"]
    largest = max(row["budget"] for row in summary if row["name"] == reference)
    if ratio["censored"] == "above":
        labels = f"from scratch, no budget up to {largest:,} labels reached that"
    elif ratio["censored"] == "below":
        labels = "from scratch, fewer labels than the smallest budget here reach that"
    else:
        labels = f"from scratch, it takes {ratio['text']} as many labels"
    return (
        f"With {budget:,} labels, {best['name']} reaches a test accuracy of {_score(best)}, compared with "
        f"{_paired_score(scratch)} for the same network from scratch (difference {_signed(gain['mean'])}{interval}); {labels}."
    )


def caveats(summary: Sequence[Row]) -> list[str]:
    """Return where transfer shows no gain (differences whose interval includes 0, arms at the majority rate), and failures."""
    out = []
    for row in summary:
        over = row.get("over_scratch")
        if row["kind"] == "method" and over and math.isfinite(over["low"]) and over["low"] <= 0:
            verdict = "was worse than" if over["high"] < 0 else "is not distinguishable from"
            out.append(
                f"{row['name']} at {row['budget']:,} labels {verdict} scratch: difference {_signed(over['mean'])}"
                f"{_between(over['low'], over['high'])} over {over['pairs']} paired seeds."
            )
    out += failure_lines(summary, reference_of(summary))
    compared = [row for row in summary if row["kind"] == "method" and row.get("over_scratch")]
    if len({row["name"] for row in compared}) > 1:
        out.append(
            "The arm named above was selected by its test accuracy, which is therefore biased upward; the tables show every arm."
        )
    alone = sorted({row["name"] for row in compared if row["over_scratch"]["pairs"] < 2})
    if alone:
        out.append(f"Compared with scratch on a single seed, so the difference has no interval: {', '.join(alone)}.")
    majority = {row["budget"]: row["accuracy"] for row in summary if row["name"] == "majority"}
    stuck = [
        f"{row['name']} at {row['budget']:,}"
        for row in summary
        if row["kind"] == "method"
        and row["budget"] in majority
        and not none_finished(row)
        and row["accuracy"] <= majority[row["budget"]] + 0.01
    ]
    if stuck:
        out.append(f"No better than always predicting the most frequent label (within .01): {', '.join(stuck)}.")
    censored = {row["name"] for row in summary if (row.get("multiplier") or {}).get("censored") == "above"}
    if censored:
        out.append(
            f"Data multipliers with “>” are bounds: scratch did not reach that accuracy at any of its budgets "
            f"({', '.join(sorted(censored))})."
        )
    return out


def _between(low: float | int | None, high: float | int | None) -> str:
    if low is None or high is None or not math.isfinite(low):
        return ""
    return f", 95 % interval {_signed(low)} to {_signed(high)}"


def _signed(value: float | int) -> str:
    """``+.013`` or ``−.207``, with a minus sign as wide as the plus."""
    return without_zero(f"{value:+.3f}".replace("-", "−"))


def _score(row: Row) -> str:
    """``.914 [.902, .926]``, for use in a sentence."""
    text = f"{row['accuracy']:.3f}"
    if row["low"] is not None and math.isfinite(row["low"]):
        # A Student's t interval is unbounded; an accuracy is not.
        text += f" [{max(row['low'], 0.0):.3f}, {min(row['high'], 1.0):.3f}]"
    return without_zero(text)


def _paired_score(scratch: Row) -> str:
    """The scratch arm's score that others are compared with: of the runs that finished."""
    if not scratch["diverged"]:
        return _score(scratch)
    kept = scratch["seeds"] - scratch["diverged"]
    return without_zero(f"{scratch['finished_accuracy']:.3f} ({kept} of {scratch['seeds']} runs finished)")


def _multiplier(row: Row | None) -> str:
    return row["multiplier"]["text"] if row and "multiplier" in row else ""


def _difference(row: Row | None) -> str:
    over = row.get("over_scratch") if row else None
    if not over:
        return ""
    half = over["mean"] - over["low"]
    return _signed(over["mean"]) + (f" ±{without_zero(f'{half:.3f}')}" if math.isfinite(half) else "")

"""The table of runs: records in, one row per arm and budget out, for the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from transferlab.errors import printable
from transferlab.measure import data_multiplier, paired_difference, t_interval, wilson_interval
from transferlab.studies.scores import Score, task_of
from transferlab.studies.status import (
    counted,
    counted_note,
    failure_lines,
    failures_of,
    finished,
    none_finished,
    status_of,
)
from transferlab.tasks import Task
from transferlab.transfer.show import human_bytes

Record = dict[str, Any]
Row = dict[str, Any]
Interval = tuple[float, float, str]
"""Low, high, and which variance they show: a key of ``_VARIANCE``."""

_VARIANCE = {
    "t over seeds": "±: 95 % t interval over seeds (subset, initialisation and order vary; test set fixed).",
    "Wilson over the test set": "[ ]: 95 % Wilson interval of a single seed: the variance of drawing the test set.",
    "bootstrap over the test set": "[ ]: 95 % bootstrap interval of a single seed: the variance of drawing the test set.",
    "one seed": "A number alone is from a single seed and has no interval.",
}


def variance_note(summary: Sequence[Row]) -> str:
    """Return which variance the intervals of these rows show; only kinds that occur are named."""
    kinds = {row["interval"] for row in summary}
    notes = [sentence for kind, sentence in _VARIANCE.items() if kind in kinds]
    if any(row["diverged"] and not none_finished(row) for row in summary):
        notes.append(counted_note(Score.of_rows(summary)))
    return " ".join(notes)


def reference_of(rows: Sequence[Record] | Sequence[Row]) -> str | None:
    """Return the name of the arm that trains from scratch: of several, the one named ``scratch``, else the first."""
    names = [row["name"] for row in rows if row["method"] == "scratch"]
    return "scratch" if "scratch" in names else next(iter(names), None)


def summarize(
    records: Sequence[Record],
    task: Task | None = None,
    *,
    test_examples: int | None = None,
    resample: Callable[[Record], Interval] | None = None,
) -> list[Row]:
    """Return one row per arm and budget, in the order in which they first appear in the records.

    Each row has means and intervals of the task's scores, and, by the one that chooses (``metric``): the paired difference
    to the scratch arm over the seeds that both have, the data multiplier over it, and mean cost. ``diverged`` counts the runs
    without scores: in means and intervals they have the worst score that there is, or, where it has no bound, are left out.
    Other arms are compared with finished runs of the scratch arm alone, and rows without a finished run are not compared.

    Args:
        records: of the runs.
        task: theirs; by default the one that they name.
        test_examples: size of the test split, for the interval of a single seed's proportion.
        resample: the interval of a single seed's score over the test set, where the score is no proportion.
    """
    task = task_of(records) if task is None else task
    score = Score.of_task(task)
    reference = reference_of(records)
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record["name"], record["budget"]), []).append(record)
    scratch: dict[int, dict[int, float]] = {}
    for record in records:
        if record["name"] == reference and finished(record):
            scratch.setdefault(record["budget"], {})[record["seed"]] = record["test"][score.name]
    return [
        {
            **_row(group, task, test_examples, resample),
            **({} if name == reference else _compared(group, score, scratch)),
        }
        for (name, _), group in groups.items()
    ]


def _row(
    group: Sequence[Record], task: Task, test_examples: int | None, resample: Callable[[Record], Interval] | None
) -> Row:
    """An arm's row at one budget, by itself."""
    first, score = group[0], Score.of_task(task)
    scores = {
        name: _mean(group, Score.of_task(task, name))
        for name in dict.fromkeys([*task.scores, score.name])
        if all(name in record["test"] for record in group)
    }
    column, kind = scores[score.name], "t over seeds"
    if not any(map(finished, group)):
        kind = "none"
    elif len(group) == 1:
        column["low"], column["high"], kind = math.nan, math.nan, "one seed"
        if score.proportion and test_examples:
            hits = round(column["mean"] * test_examples)
            column["low"], column["high"], kind = *wilson_interval(hits, test_examples), "Wilson over the test set"
        elif resample is not None:
            column["low"], column["high"], kind = resample(first)
    baseline = task.baselines.get(first["name"]) if first["kind"] == "baseline" else None
    return {
        "name": first["name"],
        "kind": first["kind"],
        "method": first["method"],
        "budget": first["budget"],
        "seeds": len(group),
        **failures_of(group, score),
        "metric": score.name,
        "low": column["low"],
        "high": column["high"],
        "interval": kind,
        **{name: one["mean"] for name, one in scores.items()},
        "scores": scores,
        "constant": baseline.about if baseline is not None and baseline.constant else None,
        "budget_unit": task.budget_unit,
        "trainable_parameters": int(np.mean([r["trainable_parameters"] for r in group])),
        "flops": float(np.mean([r["flops"] for r in group])),
        "seconds": float(np.mean([r["seconds"] for r in group])),
        "steps": float(np.mean([r["steps"] for r in group])),
        "memory": max(sum(r.get("memory", {}).values()) for r in group),
    }


def _mean(group: Sequence[Record], score: Score) -> dict[str, Any]:
    """A score's mean over runs, with its t interval over them, its direction and its bounds."""
    values = [value for record in group if (value := counted(record, score)) is not None]
    low, high = t_interval(values) if any(map(finished, group)) else (math.nan, math.nan)
    mean = float(np.mean(values)) if values else math.nan
    return {"mean": mean, "low": low, "high": high, "direction": score.direction, "bounds": list(score.bounds)}


def _compared(group: Sequence[Record], score: Score, scratch: Mapping[int, Mapping[int, float]]) -> Row:
    """An arm's data multiplier over scratch and its paired difference; empty where there is nothing to compare."""
    values = {r["seed"]: value for r in group if (value := counted(r, score)) is not None}
    curve = {budget: list(by_seed.values()) for budget, by_seed in scratch.items()}
    defined = all(map(math.isfinite, [*values.values(), *itertools.chain(*curve.values())]))
    if not curve or not any(map(finished, group)) or not defined:
        return {}
    # The multiplier looks for the budget at which scratch is as good, so that larger has to be better.
    sign, budget = score.direction, group[0]["budget"]
    rising = {n: [sign * value for value in one] for n, one in curve.items()}
    ratio = data_multiplier(rising, [sign * value for value in values.values()], budget)
    row: Row = {
        "multiplier": {
            "value": ratio.value, "low": ratio.low, "high": ratio.high, "censored": ratio.censored, "text": str(ratio),
        }
    }  # fmt: skip
    theirs = scratch.get(budget, {})
    both = [seed for seed in values if seed in theirs]
    if both:
        paired = paired_difference([values[seed] for seed in both], [theirs[seed] for seed in both])
        row["over_scratch"] = {
            "mean": paired.mean, "low": paired.low, "high": paired.high, "p_t": paired.p_t,
            "p_sign_flip": paired.p_sign_flip, "pairs": len(both),
        }  # fmt: skip
    return row


def results_csv(records: Sequence[Record]) -> str:
    """Return a CSV table with one line per run."""
    scores = dict.fromkeys(name for record in records for name in record["test"])
    columns = ("name", "kind", "method", "budget", "seed", *scores, "trainable_parameters", "flops", "seconds", "steps",
               "compilations", "truncated", "learning_rate", "epochs", "trials", "status")  # fmt: skip
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for record in records:
        flat = {**record, **record["test"], "trials": (record.get("tuning") or {}).get("trials", 0)}
        flat["status"] = status_of(record)
        if not finished(record):
            flat |= dict.fromkeys(record["test"], "")
        flat |= {name: record["settings"].get(name, "") for name in ("learning_rate", "epochs")}
        if record["settings"].get("steps") is not None:
            flat["epochs"] = ""  # the number of steps was given
        writer.writerow({name: flat.get(name, "") for name in columns})
    return out.getvalue()


def study_result(records: Sequence[Record], summary: Sequence[Row], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``result.json`` holds: ``arms`` (a record a run), ``summary``, and the manifest. NaN becomes null."""
    arms = [{**record, "status": status_of(record)} for record in records]
    return _no_nan({"arms": arms, "summary": list(summary), "variance": variance_note(summary), **manifest})


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _no_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_no_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# ---------------------------------------------------------------------------------------------------------------


def pivot(summary: Sequence[Row]) -> tuple[list[str], list[int], dict[tuple[str, int], Row]]:
    """Return (arm names in order, budgets ascending, row by (name, budget))."""
    names = list(dict.fromkeys(row["name"] for row in summary))
    budgets = sorted({row["budget"] for row in summary})
    return names, budgets, {(row["name"], row["budget"]): row for row in summary}


def shown(row: Row | None, score: Score) -> str:
    """``.847 ±.012`` over seeds, ``.847 [.81, .88]`` for one seed on a test set of known size, else the mean alone.

    ``†`` marks a mean of an arm with runs that diverged; if all did, ``diverged`` is shown (``failed`` for a baseline). A
    dash is a score that is not defined.
    """
    if row is None or score.name not in row["scores"]:
        return ""
    if none_finished(row):
        return "diverged" if row["kind"] == "method" else "failed"
    column = row["scores"][score.name]
    mean, low, high = column["mean"], column["low"], column["high"]
    text = score.text(mean) + (" †" if row.get("diverged") else "")
    if low is None or not math.isfinite(low):
        return text
    if row["interval"].endswith("over the test set"):
        return f"{text} [{score.text(low, 1)}, {score.text(high, 1)}]"
    half = score.half(mean - low)
    return text + (half if re.search("[1-9]", half) else "")


def multiplier_at(name: str, budgets: Sequence[int], rows: Mapping[tuple[str, int], Row]) -> str:
    """The data multiplier at the largest budget at which it is known, as ``8.2× at 64``.

    Where every budget gives only a bound, it is the highest lower bound (scratch was never as good), else the last.
    """
    ratios = [(budget, rows.get((name, budget), {}).get("multiplier")) for budget in sorted(budgets)]
    ratios = [(budget, ratio) for budget, ratio in ratios if ratio]
    if not ratios:
        return ""
    known = [pair for pair in ratios if pair[1]["censored"] is None]
    above = [pair for pair in ratios if pair[1]["censored"] == "above"]
    budget, ratio = known[-1] if known else max(above, key=lambda pair: pair[1]["value"]) if above else ratios[-1]
    return f"{ratio['text']} at {budget:,}"


def magnitude(value: float | int) -> str:
    """A large number with an SI prefix: ``1.3e12`` as ``1.3 T``."""
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"


def memory(row: Row) -> str:
    """A row's memory; empty where its runs did not report any."""
    return human_bytes(row["memory"]) if row["memory"] else ""


def rich_table(summary: Sequence[Row], narrow: bool = False) -> Table:
    """Return the table for the terminal; a narrow one has the scores alone."""
    names, budgets, rows = pivot(summary)
    score, unit = Score.of_rows(summary), summary[0]["budget_unit"]
    table = Table(
        title=f"Test {score.label} by {unit}{score.better}", caption=escape(variance_note(summary)), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        pad_edge=False,
    )  # fmt: skip
    table.title_justify = table.caption_justify = "left"  # type: ignore[assignment]
    table.add_column("arm", no_wrap=True)
    for budget in budgets:
        # Wraps at the space where the terminal is narrow: a number is never cut.
        table.add_column(f"{budget:,}", justify="right")
    for column in () if narrow else (f"{unit} saved", "trains", "s a run"):
        table.add_column(column, justify="right", no_wrap=True)
    kinds = {name: next(r["kind"] for r in summary if r["name"] == name) for name in names}
    for kind in ("baseline", "method"):
        for name in (n for n in names if kinds[n] == kind):
            cells = [rows.get((name, budget)) for budget in budgets]
            own = [row for row in cells if row is not None]
            parameters = magnitude(own[-1]["trainable_parameters"]) if kind == "method" else ""
            # The multiplier's interval is in the report: here there is no space for it.
            saved = re.sub(r" \[.*?\]", "", multiplier_at(name, budgets, rows))
            more = () if narrow else (saved, parameters, f"{own[-1]['seconds']:.1f}")
            table.add_row(*(escape(printable(cell)) for cell in (name, *(shown(row, score) for row in cells), *more)))
        if kind == "baseline" and "baseline" in kinds.values():
            table.add_section()
    return table


def markdown_table(summary: Sequence[Row], score: Score) -> str:
    """Return the table of one score in Markdown."""
    names, budgets, rows = pivot(summary)
    lines = [f"| arm | {' | '.join(f'{b:,}' for b in budgets)} |", f"|---|{'---:|' * len(budgets)}"]
    for name in names:
        lines.append(f"| {name} | {' | '.join(shown(rows.get((name, b)), score) for b in budgets)} |")
    return "\n".join(lines)


def markdown_page(summary: Sequence[Row], title: str, companion: str | None = None) -> str:
    """Return the study's tables as one Markdown page: scores, data multipliers, and costs.

    Args:
        summary: of the study.
        title: of the page.
        companion: a second score that has a table.
    """
    names, budgets, rows = pivot(summary)
    score, unit = Score.of_rows(summary), summary[0]["budget_unit"]
    second = None if companion is None else Score.of_rows(summary, companion)
    head = f"| arm | {' | '.join(f'{b:,}' for b in budgets)} |\n|---|{'---:|' * len(budgets)}"

    def worth(name: str) -> str:
        cells = [(rows.get((name, b)) or {}).get("multiplier") for b in budgets]
        return f"| {name} | {' | '.join(cell['text'] if cell else '' for cell in cells)} |"

    compared = [name for name in names if any("multiplier" in (rows.get((name, b)) or {}) for b in budgets)]
    costs = [
        f"| {row['name']} | {row['budget']:,} | {row['seeds']} | {row['trainable_parameters']:,} | {row['steps']:,.0f} "
        f"| {magnitude(row['flops'])}FLOP | {row['seconds']:.1f} | {memory(row)} |"
        for row in summary
        if row["kind"] == "method"
    ]
    parts = [f"# {title}", f"Test {score.label} by {unit}{score.better}", markdown_table(summary, score), variance_note(summary),
             "\n".join(f"- {line}" for line in failure_lines(summary, reference_of(summary)))]  # fmt: skip
    if second is not None:
        parts += [f"{second.title}{second.better}", markdown_table(summary, second)]
    if compared:
        parts += [
            f"Data multiplier: how many times more {unit} scratch needs for the same {score.label}",
            "\n".join([head, *map(worth, compared)]),
        ]
    parts += [
        "A run, mean over seeds",
        "\n".join(
            [f"| arm | {unit} | seeds | trainable parameters | steps | operations | seconds | memory |",
             "|---|---:|---:|---:|---:|---:|---:|---:|", *costs]
        ),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"

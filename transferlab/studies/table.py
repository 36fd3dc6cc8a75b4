"""The table of runs: records in, one row per arm and budget out, for the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from transferlab.errors import printable
from transferlab.measure import data_multiplier, paired_difference, t_interval, wilson_interval
from transferlab.studies.status import COUNTED, counted, failure_lines, failures_of, finished, none_finished, status_of
from transferlab.transfer.show import human_bytes

Record = dict[str, Any]
Row = dict[str, Any]

_VARIANCE = {
    "t over seeds": "±: 95 % t interval over seeds (subset, initialisation and order vary; test set fixed).",
    "Wilson over the test set": "[ ]: 95 % Wilson interval of a single seed: the variance of drawing the test set.",
    "one seed": "A number alone is from a single seed and has no interval.",
}


def variance_note(summary: Sequence[Row]) -> str:
    """Return which variance the intervals of these rows show; only kinds that occur are named."""
    kinds = {row["interval"] for row in summary}
    notes = [sentence for kind, sentence in _VARIANCE.items() if kind in kinds]
    return " ".join([*notes, COUNTED] if any(row["diverged"] and not none_finished(row) for row in summary) else notes)


def reference_of(rows: Sequence[Record] | Sequence[Row]) -> str | None:
    """Return the name of the arm that trains from scratch: of several, the one named ``scratch``, else the first."""
    names = [row["name"] for row in rows if row["method"] == "scratch"]
    return "scratch" if "scratch" in names else next(iter(names), None)


def summarize(records: Sequence[Record], *, test_examples: int | None = None) -> list[Row]:
    """Return one row per arm and budget, in the order in which they first appear in the records.

    Each row has means and intervals of accuracy and balanced accuracy, the paired difference to the scratch arm over the
    seeds that both have, the data multiplier over it, and mean cost. ``diverged`` counts the runs without scores: in means
    and intervals all their predictions count as wrong. Other arms are compared with finished runs of the scratch arm alone,
    and rows without a finished run are not compared.

    Args:
        records: of the runs.
        test_examples: size of the test split, for the interval of a single seed.
    """
    reference = reference_of(records)
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record["name"], record["budget"]), []).append(record)
    scratch: dict[int, dict[int, float]] = {}
    for record in records:
        if record["name"] == reference and finished(record):
            scratch.setdefault(record["budget"], {})[record["seed"]] = record["test"]["accuracy"]
    curve = {budget: list(by_seed.values()) for budget, by_seed in scratch.items()}
    rows = []
    for (name, budget), group in groups.items():
        accuracies = [counted(r, "accuracy") for r in group]
        balanced = [counted(r, "balanced_accuracy") for r in group]
        low, high, kind = _interval(accuracies, test_examples)
        balanced_low, balanced_high = t_interval(balanced)
        if not any(map(finished, group)):
            low, high, kind, balanced_low, balanced_high = math.nan, math.nan, "none", math.nan, math.nan
        row: Row = {
            "name": name,
            "kind": group[0]["kind"],
            "method": group[0]["method"],
            "budget": budget,
            "seeds": len(group),
            **failures_of(group),
            "accuracy": float(np.mean(accuracies)),
            "low": low,
            "high": high,
            "interval": kind,
            "balanced_accuracy": float(np.mean(balanced)),
            "balanced_low": balanced_low,
            "balanced_high": balanced_high,
            "trainable_parameters": int(np.mean([r["trainable_parameters"] for r in group])),
            "flops": float(np.mean([r["flops"] for r in group])),
            "seconds": float(np.mean([r["seconds"] for r in group])),
            "steps": float(np.mean([r["steps"] for r in group])),
            "memory": max(sum(r.get("memory", {}).values()) for r in group),
        }
        if curve and name != reference and any(map(finished, group)):
            ratio = data_multiplier(curve, accuracies, budget)
            row["multiplier"] = {
                "value": ratio.value, "low": ratio.low, "high": ratio.high, "censored": ratio.censored, "text": str(ratio),
            }  # fmt: skip
            both = [r for r in group if r["seed"] in scratch.get(budget, {})]
            if both:
                ours = [counted(r, "accuracy") for r in both]
                paired = paired_difference(ours, [scratch[budget][r["seed"]] for r in both])
                row["over_scratch"] = {
                    "mean": paired.mean, "low": paired.low, "high": paired.high, "p_t": paired.p_t,
                    "p_sign_flip": paired.p_sign_flip, "pairs": len(both),
                }  # fmt: skip
        rows.append(row)
    return rows


def _interval(values: Sequence[float], test_examples: int | None) -> tuple[float, float, str]:
    if len(values) > 1:
        return *t_interval(values), "t over seeds"
    if test_examples:
        return *wilson_interval(round(values[0] * test_examples), test_examples), "Wilson over the test set"
    return math.nan, math.nan, "one seed"


def results_csv(records: Sequence[Record]) -> str:
    """Return a CSV table with one line per run."""
    columns = ("name", "kind", "method", "budget", "seed", "accuracy", "balanced_accuracy", "cross_entropy",
               "trainable_parameters", "flops", "seconds", "steps", "compilations", "truncated", "learning_rate", "epochs",
               "trials", "status")  # fmt: skip
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


def shown(row: Row | None, name: str = "accuracy", low: str = "low") -> str:
    """``.847 ±.012`` over seeds, ``.847 [.81, .88]`` for one seed on a test set of known size, else the mean alone.

    ``†`` marks a mean that includes runs that diverged; if all did, ``diverged`` is shown (``failed`` for a baseline).
    """
    if row is None:
        return ""
    if none_finished(row):
        return "diverged" if row["kind"] == "method" else "failed"
    mean, edge = row[name], row[low]
    text = f"{mean:.3f}".removeprefix("0") + (" †" if row.get("diverged") else "")
    if edge is None or not math.isfinite(edge):
        return text
    if row["interval"] == "Wilson over the test set":
        return text + without_zero(f" [{edge:.2f}, {row['high']:.2f}]")
    half = mean - edge
    return text if half < 0.0005 else f"{text} ±{without_zero(f'{half:.3f}')}"


def without_zero(text: str) -> str:
    """Fractions as tables print them: ``.914`` for ``0.914``."""
    return re.sub(r"(?<!\d)0\.", ".", text)


def multiplier_at(name: str, budgets: Sequence[int], rows: Mapping[tuple[str, int], Row]) -> str:
    """The data multiplier at the largest budget at which it is known, as ``8.2× at 64``.

    Where every budget gives only a bound, it is the highest lower bound (scratch never reached the accuracy), else the last.
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
    table = Table(
        title="Test accuracy by labels", caption=escape(variance_note(summary)), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        pad_edge=False,
    )  # fmt: skip
    table.title_justify = table.caption_justify = "left"  # type: ignore[assignment]
    table.add_column("arm", no_wrap=True)
    for budget in budgets:
        # Wraps at the space where the terminal is narrow: a number is never cut.
        table.add_column(f"{budget:,}", justify="right")
    for column in () if narrow else ("labels saved", "trains", "s a run"):
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
            table.add_row(*(escape(printable(cell)) for cell in (name, *(shown(row) for row in cells), *more)))
        if kind == "baseline" and "baseline" in kinds.values():
            table.add_section()
    return table


def markdown_table(summary: Sequence[Row], score: str = "accuracy") -> str:
    """Return the table in Markdown; ``score`` is ``accuracy`` or ``balanced_accuracy``."""
    names, budgets, rows = pivot(summary)
    low = "low" if score == "accuracy" else "balanced_low"
    lines = [f"| arm | {' | '.join(f'{b:,}' for b in budgets)} |", f"|---|{'---:|' * len(budgets)}"]
    for name in names:
        lines.append(f"| {name} | {' | '.join(shown(rows.get((name, b)), score, low) for b in budgets)} |")
    return "\n".join(lines)


def markdown_page(summary: Sequence[Row], title: str) -> str:
    """Return the study's tables as one Markdown page: scores, data multipliers, and costs."""
    names, budgets, rows = pivot(summary)
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
    parts = [f"# {title}", "Test accuracy by labels", markdown_table(summary), variance_note(summary),
             "\n".join(f"- {line}" for line in failure_lines(summary, reference_of(summary))),
             "Balanced accuracy", markdown_table(summary, "balanced_accuracy")]  # fmt: skip
    if compared:
        parts += [
            "Data multiplier: how many times more labels scratch needs for the same accuracy",
            "\n".join([head, *map(worth, compared)]),
        ]
    parts += [
        "A run, mean over seeds",
        "\n".join(
            ["| arm | labels | seeds | trainable parameters | steps | operations | seconds | memory |",
             "|---|---:|---:|---:|---:|---:|---:|---:|", *costs]
        ),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"

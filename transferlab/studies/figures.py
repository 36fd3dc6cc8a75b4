"""The report's figures, as SVG in the page's text color."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transferlab.studies.scores import Score
from transferlab.studies.status import none_finished
from transferlab.tasks import Task

Row = dict[str, Any]

# Okabe & Ito's palette: distinguishable with any kind of color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
INK = "#010203"
"""A placeholder for the page's text color, replaced by ``currentColor`` in the finished SVG."""

STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "text.color": INK, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.linewidth": 0.7, "lines.linewidth": 1.8, "legend.frameon": False,
    "svg.hashsalt": "transferlab",
}  # fmt: skip


def colors(names: Sequence[str]) -> dict[str, str]:
    """A color per arm, the same in every figure."""
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}


def palette_of(summary: Sequence[Row]) -> dict[str, str]:
    """Colors of a study's arms; what a constant reaches is a line in the page's text color."""
    return colors(list(dict.fromkeys(row["name"] for row in summary if row["constant"] is None)))


def learning_curves(summary: Sequence[Row], palette: Mapping[str, str]) -> str:
    """The score over labels with 95 % intervals; baselines dashed, what a constant reaches a thin line.

    Where no run of an arm has scores, it has no point.
    """
    score, unit = Score.of_rows(summary), summary[0]["budget_unit"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.2))
        names = list(dict.fromkeys(row["name"] for row in summary))
        ends = []
        budgets = sorted({row["budget"] for row in summary})
        summary = [row for row in summary if not none_finished(row) and math.isfinite(row[score.name])]
        for number, name in enumerate(names):
            rows = sorted((r for r in summary if r["name"] == name), key=lambda r: r["budget"])
            if not rows:
                continue
            x = [r["budget"] * (1 + 0.015 * (number - len(names) / 2)) for r in rows]
            y = [r[score.name] for r in rows]
            if rows[0]["constant"] is not None:
                axes.axhline(y[-1], color=INK, linewidth=0.7, linestyle=":")
                ends.append((budgets[-1], y[-1], name, INK))
                continue
            down = [_gap(r[score.name], score.clipped(r["low"])) for r in rows]
            up = [_gap(score.clipped(r["high"]), r[score.name]) for r in rows]
            dashed = rows[0]["kind"] == "baseline"
            axes.errorbar(
                x, y, yerr=[down, up], color=palette[name], linestyle="--" if dashed else "-", marker="o",
                markersize=4 if not dashed else 3, capsize=2, elinewidth=1, linewidth=1.2 if dashed else 1.8,
            )  # fmt: skip
            ends.append((rows[-1]["budget"], y[-1], name, palette[name]))
        axes.set_xscale("log")
        axes.set_xticks(budgets, [f"{b:,}" for b in budgets])
        axes.minorticks_off()
        axes.set_xlabel(unit)
        axes.set_ylabel(f"test {score.label}{score.better}")
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        _label_ends(axes, ends, budgets)
        return svg_of(figure)


def training_curves(
    curves: Mapping[str, Sequence[tuple[int, int, list[Row]]]], palette: Mapping[str, str], task: Task
) -> str:
    """Training loss (thin) and that of the validation split (thick) by step at each arm's largest budget; a line per seed."""
    shown = {name: [run for run in runs if run[2]] for name, runs in curves.items()}
    shown = {name: runs for name, runs in shown.items() if runs}
    if not shown:
        return ""
    with plt.rc_context(STYLE):
        columns = min(3, len(shown))
        rows = math.ceil(len(shown) / columns)
        # One scale for all: whether a curve is flat can then be compared.
        figure, grid = plt.subplots(
            rows, columns, figsize=(2.5 * columns + 0.4, 2.2 * rows + 0.3), squeeze=False, sharey=True,
            layout="constrained",
        )  # fmt: skip
        for axes, (name, runs) in zip(grid.flat, shown.items(), strict=False):
            largest = max(budget for budget, _, _ in runs)
            for _, _, metrics in (run for run in runs if run[0] == largest):
                for field, width in (("loss", 1.0), (f"validation_{task.validation_loss}", 2.0)):
                    points = [(m["step"], m[field]) for m in metrics if field in m]
                    if points:
                        axes.plot(*zip(*points, strict=True), color=palette[name], linewidth=width, alpha=0.8)
            axes.set_title(literal(f"{name}, {largest:,} {task.budget_unit}"), fontsize=9, loc="left")
            axes.tick_params(labelsize=8)
        grid.flat[0].set_ylim(bottom=0)
        for axes in list(grid.flat)[len(shown) :]:
            axes.axis("off")
        figure.supxlabel("step", fontsize=9)
        figure.supylabel(task.loss_unit, fontsize=9)
        return svg_of(figure)


def step_by_stage(stages: Sequence[tuple[str, str, float]], seconds: float) -> str:
    """Milliseconds of a step by stage: forward, backward and update; ``stages`` are a profile's.

    Operations that run at the same time share the step's time in proportion to their own.
    """
    names = list(dict.fromkeys(stage for stage, _, _ in stages))
    table = {(stage, direction): fraction * seconds * 1e3 for stage, direction, fraction in stages}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 0.24 * len(names) + 0.9))
        left = [0.0] * len(names)
        for direction, color in zip(("forward", "backward", "update"), COLORS, strict=False):
            widths = [table.get((name, direction), 0.0) for name in names]
            if any(widths):
                axes.barh(names, widths, left=left, height=0.7, color=color, label=direction)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0, labelsize=9)
        axes.set_xlabel(f"ms of a step of {seconds * 1e3:.0f} ms")
        axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.6)
        # Above the bars: any of them may be the longest.
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, fontsize=9, borderaxespad=0.2)
        return svg_of(figure)


def literal(name: str) -> str:
    """A name in which matplotlib sees no formula."""
    return name.replace("$", r"\$")


def standalone(svg: str) -> str:
    """The figure as a separate file: its text in a gray that is readable on light and dark pages."""
    return svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" style="color:#76808c"', 1)


def _gap(high: float, low: float) -> float:
    gap = high - low
    return gap if math.isfinite(gap) else 0.0


def _label_ends(axes: Axes, ends: list[tuple[int, float, str, str]], budgets: Sequence[int]) -> None:
    """Name each curve at its end, spaced so that names do not overlap."""
    low, high = axes.get_ylim()
    step = (high - low) * 0.052
    last = low - step
    right = budgets[-1] * (budgets[-1] / budgets[0]) ** 0.04 if len(budgets) > 1 else budgets[-1] * 1.05
    for x, y, name, color in sorted(ends, key=lambda end: end[1]):
        last = max(y, last + step)
        axes.annotate(literal(name), (x, y), (right, last), color=color, va="center", fontsize=9, annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.4, "alpha": 0.6})  # fmt: skip


def svg_of(figure: Figure) -> str:
    """The figure as SVG for a page, without metadata; it is closed."""
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    plt.close(figure)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # No metadata block and no namespaces: the image is part of the page and refers to nothing outside it.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns:\w+="[^"]*"|\sxmlns="[^"]*"', "", svg).replace("xlink:href", "href")
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', svg, count=1)

"""Figures of predictions: a confusion matrix, calibration, and numbers against their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import LinearSegmentedColormap

from transferlab.studies.breakdown import Predicted
from transferlab.studies.figures import COLORS, INK, STYLE, literal, svg_of

LABELS, POINTS, BINS = 30, 500, 10
"""Most labels of a confusion matrix, most points of a scatter plot, and bins of a calibration curve."""


def confusion_figure(best: Predicted) -> str:
    """Of each true label (row), the fraction that is predicted as each (column), over all runs; empty beyond 30 labels."""
    matrices = [run.confusion for run in best.runs if run.confusion is not None]
    names = best.runs[0].names
    if not matrices or not 2 <= len(names) <= LABELS:
        return ""
    counts = np.sum(matrices, axis=0)
    fractions = counts / np.maximum(1, counts.sum(1, keepdims=True))
    size = min(7.2, 1.6 + 0.42 * len(names))
    # From transparent to the color of the first arm, on any page.
    colors = LinearSegmentedColormap.from_list("fraction", [(0, 0.45, 0.7, 0.03), (0, 0.45, 0.7, 0.85)])
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(size, size))
        axes.pcolormesh(fractions, cmap=colors, vmin=0, vmax=1, edgecolors=INK, linewidth=0.2)
        if len(names) <= 12:
            for (row, column), value in np.ndenumerate(fractions):
                axes.text(column + 0.5, row + 0.5, _fraction(value), ha="center", va="center", fontsize=8)
        shown = [literal(name if len(name) <= 20 else f"{name[:19]}…") for name in names]
        axes.set_xticks(np.arange(len(names)) + 0.5, shown, rotation=90 if len(names) > 4 else 0, fontsize=8)
        axes.set_yticks(np.arange(len(names)) + 0.5, shown, fontsize=8)
        axes.tick_params(length=0)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        return svg_of(figure)


def calibration_figure(arms: Mapping[str, Predicted], palette: Mapping[str, str]) -> str:
    """How often the most probable label is the true one, over its probability, in ten bins; all runs of an arm together."""
    curves = {}
    for name, arm in arms.items():
        runs = [run for run in arm.runs if run.confusion is not None]
        if runs and name in palette:
            confidence = np.concatenate([run.predicted.max(-1) for run in runs])
            right = np.concatenate([run.predicted.argmax(-1) == run.true for run in runs])
            curves[name] = _binned(confidence, right.astype(np.float64))
    if not curves:
        return ""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.6, 3.6))
        low = min(float(x.min()) for x, _ in curves.values())
        axes.plot([low, 1], [low, 1], color=INK, linewidth=0.7, linestyle=":")
        for name, (x, y) in curves.items():
            axes.plot(x, y, color=palette[name], marker="o", markersize=3, linewidth=1.2, label=literal(name))
        axes.set_xlabel("probability of the predicted label")
        axes.set_ylabel("fraction that is right")
        axes.grid(color=INK, alpha=0.12, linewidth=0.6)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
        return svg_of(figure)


def residual_figure(best: Predicted) -> str:
    """Of each column of numbers: the prediction over the true number, and the error over the prediction; of the first run."""
    run = best.runs[0]
    if run.task.target != "numbers":
        return ""
    chosen = np.random.default_rng(0).permutation(len(run.true))[:POINTS]
    columns = run.names[:3]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(columns), 2, figsize=(7.2, 3.2 * len(columns)), squeeze=False, layout="constrained"
        )
        for i, (name, (left, right)) in enumerate(zip(columns, grid, strict=True)):
            true, predicted = run.true[chosen, i], run.predicted[chosen, i]
            ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
            left.plot(ends, ends, color=INK, linewidth=0.7, linestyle=":")
            left.scatter(true, predicted, s=7, color=COLORS[0], alpha=0.45, linewidths=0)
            left.set_xlabel(literal(f"{name}, true"))
            left.set_ylabel(literal(f"{name}, predicted"))
            right.axhline(0, color=INK, linewidth=0.7, linestyle=":")
            right.scatter(predicted, predicted - true, s=7, color=COLORS[0], alpha=0.45, linewidths=0)
            right.set_xlabel(literal(f"{name}, predicted"))
            right.set_ylabel("predicted − true")
        return svg_of(figure)


def _binned(
    confidence: Float[np.ndarray, " n"], right: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """The means of both in bins of equally many examples."""
    order: Int[np.ndarray, " n"] = np.argsort(confidence, kind="stable")
    parts: Sequence[np.ndarray] = [part for part in np.array_split(order, BINS) if len(part)]
    return np.array([confidence[part].mean() for part in parts]), np.array([right[part].mean() for part in parts])


def _fraction(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value else ""

"""Runs of a study without scores: how they are recognized, how they count, and what a reader is told about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transferlab.train.divergence import FINISHED

COUNTED = "†: with runs that diverged; these count as predicting everything wrong."


def status_of(record: Mapping[str, Any]) -> str:
    """``finished``, or why a record has no scores: ``diverged at step 12``, ``failed: …``."""
    if "status" in record:
        return record["status"]
    # An earlier version recorded no status; a loss that is NaN is null in a file.
    loss = record["test"]["cross_entropy"]
    return FINISHED if loss is not None and math.isfinite(loss) else "diverged"


def finished(record: Mapping[str, Any]) -> bool:
    """Whether a record has scores."""
    return status_of(record) == FINISHED


def counted(record: Mapping[str, Any], score: str) -> float:
    """A record's accuracy or balanced accuracy in means and intervals: 0 where there are no predictions.

    Without such runs, the mean of an unstable arm would be biased upward.
    """
    return record["test"][score] if finished(record) else 0.0


def failures_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a summary's row on runs and tuning trials without scores, from the records of its arm and budget."""
    accuracies = [record["test"]["accuracy"] for record in records if finished(record)]
    return {
        "diverged": len(records) - len(accuracies),
        "finished_accuracy": sum(accuracies) / len(accuracies) if accuracies else math.nan,
        "failures": [
            {
                "seed": record["seed"],
                "status": status_of(record),
                "learning_rate": record["settings"].get("learning_rate"),
            }
            for record in records
            if not finished(record)
        ],
        "trials_diverged": [
            {"seed": record["seed"], "status": trial["status"], "settings": trial["settings"]}
            for record in records
            for trial in (record.get("tuning") or {}).get("validation", ())
            if trial.get("status", FINISHED) != FINISHED
        ],
    }


def none_finished(row: Mapping[str, Any]) -> bool:
    """Whether no run in a row of the summary has scores."""
    return row.get("diverged", 0) > 0 and row["diverged"] == row["seeds"]


def failure_lines(summary: Sequence[Mapping[str, Any]], reference: str | None) -> list[str]:
    """A sentence for each arm and budget that has runs or tuning trials without scores; each is named."""
    lines = []
    for row in summary:
        arm = f"{row['name']} at {row['budget']:,} labels"
        if row["diverged"]:
            runs = "; ".join(f"seed {one['seed']} {one['status']}{_rate(one)}" for one in row["failures"])
            text = f"{arm}: {row['diverged']} of {row['seeds']} runs have no scores: {runs}."
            if not none_finished(row):
                text += (
                    " In means and intervals they count as predicting everything wrong; the mean accuracy of the others is "
                    f"{row['finished_accuracy']:.3f}."
                )
            if row["name"] == reference:
                text += " Other arms are not compared with these runs, which would overstate the gain."
            lines.append(text)
        if row["trials_diverged"]:
            trials = "; ".join(
                f"seed {one['seed']}, {', '.join(f'{k} = {v}' for k, v in one['settings'].items())} ({one['status']})"
                for one in row["trials_diverged"]
            )
            lines.append(f"{arm}: tuning trials that diverged, and were not chosen: {trials}.")
    return lines


def _rate(failure: Mapping[str, Any]) -> str:
    rate = failure["learning_rate"]
    return "" if rate is None else f" (learning rate {rate:g})"

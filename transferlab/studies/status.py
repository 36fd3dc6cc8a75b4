"""Runs of a study without scores: how they are recognized, how they count, and what a reader is told about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transferlab.studies.scores import FORMER, Score
from transferlab.train.divergence import FINISHED


def oriented(record: Mapping[str, Any]) -> float:
    """A finished record's score, with its sign turned where smaller is better; one that is not defined is the worst."""
    value = record["test"][record.get("metric", FORMER["metric"])]
    return record.get("direction", 1) * value if value is not None and math.isfinite(value) else -math.inf


def counted_note(score: Score) -> str:
    """What ``†`` means in a table of this score."""
    if score.worst is None:
        return "†: without the runs that diverged, which have no score; the mean overstates the arm."
    return "†: with runs that diverged; these count as predicting everything wrong."


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


def counted(record: Mapping[str, Any], score: Score) -> float | None:
    """A record's score in means and intervals: the worst there is where there are no predictions, None if that has no bound.

    If such runs were left out wherever they can be counted, the mean of an unstable arm would be biased upward.
    """
    return record["test"][score.name] if finished(record) else score.worst


def failures_of(records: Sequence[Mapping[str, Any]], score: Score) -> dict[str, Any]:
    """The fields of a summary's row on runs and tuning trials without scores, from the records of its arm and budget."""
    values = [record["test"][score.name] for record in records if finished(record)]
    return {
        "diverged": len(records) - len(values),
        "finished_score": sum(values) / len(values) if values else math.nan,
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
        arm = f"{row['name']} at {row['budget']:,} {row['budget_unit']}"
        if row["diverged"]:
            runs = "; ".join(f"seed {one['seed']} {one['status']}{_rate(one)}" for one in row["failures"])
            text = f"{arm}: {row['diverged']} of {row['seeds']} runs have no scores: {runs}."
            if not none_finished(row):
                text += _others(row, Score.of_rows(summary))
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


def _others(row: Mapping[str, Any], score: Score) -> str:
    """How the runs without scores count, and what those with scores reached."""
    others = f"the mean {score.label} of the others is {score.plain(row['finished_score'])}."
    if score.worst is None:
        return f" They are in no mean and no interval, which overstates the arm; {others}"
    return f" In means and intervals they count as predicting everything wrong; {others}"


def _rate(failure: Mapping[str, Any]) -> str:
    rate = failure["learning_rate"]
    return "" if rate is None else f" (learning rate {rate:g})"

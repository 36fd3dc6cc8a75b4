"""``evaluate_run``: every score that can be computed from what a run predicted, long after it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from transferlab.data.ragged import Ragged
from transferlab.errors import TransferlabError, check_arguments
from transferlab.measure.named import all_scores, metrics_by_kind
from transferlab.measure.rows import Row, confusion_matrix, score_rows
from transferlab.pretrained.formats.npz import read_npz
from transferlab.reading import check_file, read_object, reading
from transferlab.tasks import Task
from transferlab.tasks.prediction import read_entries
from transferlab.train.own_code import recorded_task


@dataclass(frozen=True)
class Evaluation:
    """Scores of a run's predictions for its test split.

    Attributes:
        task: what it was trained for.
        names: of what it predicts: labels, tags or columns.
        examples: how many were tested.
        scores: every metric of the task's kind of target by name, NaN where it is not defined.
        undefined: why: a clause for each of those.
        rows: scores of each label, tag or column; see :func:`transferlab.measure.rows.score_rows`.
        confusion: of classes, how many examples of each true label (row) were predicted as each (column).
        predicted, true: what was predicted of each example, and what it is, as metrics take them.
    """

    task: Task
    names: tuple[str, ...]
    examples: int
    scores: dict[str, float]
    undefined: dict[str, str]
    rows: list[Row] = field(repr=False)
    predicted: Any = field(repr=False)
    true: Any = field(repr=False)
    confusion: Int[np.ndarray, "labels labels"] | None = field(repr=False, default=None)


@check_arguments
def evaluate_run(directory: str | Path, task: Task | None = None) -> Evaluation:
    """Return every score that the ``predictions.npz`` of a run, or of a study's baseline, allows.

    Runs of earlier versions have them too. Nothing is loaded but the arrays and ``run.json``.

    Example:
        >>> tl.train.evaluate_run("runs/lora").scores["f1_macro"]

    Args:
        directory: of the run.
        task: what it was trained for, where its directory does not say, as a baseline's: a classification otherwise.

    Raises:
        TransferlabError: there are no predictions, or they are damaged; or their task has no metrics by name, as language models.
    """
    folder = Path(directory)
    path = folder / "predictions.npz"
    if not path.exists():
        raise TransferlabError(
            f"{folder} has no predictions.npz; a run has one once it is finished: tl.adapt(…).fit()."
        )
    # Baselines of a study have predictions alone, and so have the earliest runs no task: they classify.
    identity = read_object(folder / "run.json") if (folder / "run.json").exists() else {}
    with reading(folder / "run.json", "'task'"):
        # The metric that chose may be one that this version lacks.
        if task is None:
            task = recorded_task(identity, folder, metric=None)
    if task.target not in metrics_by_kind():
        raise TransferlabError(
            f"{folder} is a run of the task {task.name}, which has no metrics by name. Its scores are in {folder / 'result.json'}: "
            "tl.adapt(…).fit().test, with the same directory, reads them."
        )
    with reading(path):
        arrays = read_npz(check_file(path))
        if lacking := [name for name in (task.predicted, task.true) if name not in arrays]:
            raise TransferlabError(
                f"{path} lacks '{lacking[0]}', which a {task.name} has; it holds {', '.join(arrays)}."
            )
        predicted, true = (read_entries(arrays, name) for name in (task.predicted, task.true))
        values = predicted.values if isinstance(predicted, Ragged) else predicted
        own = arrays["label_names"].read().tolist() if "label_names" in arrays else identity.get("labels")
        return _evaluated(task, predicted, true, tuple(map(str, own or range(values.shape[-1]))))


def _evaluated(task: Task, predicted: Any, true: Any, names: tuple[str, ...]) -> Evaluation:
    kind = task.target
    if isinstance(predicted, Ragged):
        if not np.isfinite(predicted.values).all():
            why = dict.fromkeys(metrics_by_kind()[kind], "the predictions are not finite")
            return Evaluation(task, names, len(true), dict.fromkeys(why, np.nan), why, [], predicted, true)
        scores, undefined = all_scores(predicted, true, kind, names)
        scores |= task.metrics_of_fields(predicted, true, names)
        return Evaluation(task, names, len(true), scores, undefined, [], predicted, true)
    if len(predicted) != len(true) or predicted.shape[-1] != len(names):
        raise TransferlabError(
            f"'{task.predicted}' has the shape {predicted.shape}, for {len(true)} examples and {len(names)} outputs."
        )
    true = true.astype({"classes": np.int64, "tags": bool}.get(kind, true.dtype))
    scores, undefined = all_scores(predicted, true, kind, names)
    if not np.isfinite(predicted).all():
        return Evaluation(task, names, len(true), scores, undefined, [], predicted, true)
    confusion = confusion_matrix(predicted, true) if kind == "classes" else None
    rows = score_rows(predicted, true, kind, names)
    return Evaluation(task, names, len(true), scores, undefined, rows, predicted, true, confusion)

"""Tasks: what is optimised, predicted and scored. Each is a file of its own in this folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transferlab.errors import TransferlabError, check_arguments, nearest
from transferlab.fields import read
from transferlab.plugins import Registry, check_class, face_with
from transferlab.tasks.base import Task
from transferlab.tasks.causal_language_model import CausalLanguageModel
from transferlab.tasks.classification import Classification
from transferlab.tasks.contrastive import Contrastive
from transferlab.tasks.distillation import Distillation
from transferlab.tasks.masked_language_model import MaskedLanguageModel
from transferlab.tasks.multi_label import MultiLabel
from transferlab.tasks.regression import Regression
from transferlab.tasks.sequence_to_sequence import SequenceToSequence
from transferlab.tasks.token_labels import TokenLabels

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset
    from transferlab.pretrained.source import Source


TASKS: Registry[type[Task]] = Registry(__name__, "task", Task, check=check_class)
"""Name → task: those of this folder's files, and those that installed packages add by entry points."""
for _task in TASKS.ours.values():
    check_arguments(_task)


def tasks() -> Registry[type[Task]]:
    """Return every task by its name (:data:`TASKS`)."""
    return TASKS


def task_named(name: str) -> type[Task]:
    """Return a task's class.

    Raises:
        TransferlabError: an unknown name; the nearest is named.
    """
    if name not in tasks():
        raise TransferlabError(f"Unknown task '{name}'.{nearest(name, tasks())}")
    return tasks()[name]


def task_for(data: Dataset, source: Source) -> Task:
    """Return the task that this data holds for this source.

    Raises:
        TransferlabError: none fits.
    """
    kind = TASKS.first(lambda kind: kind.fits(data, source))
    if kind is None:
        raise TransferlabError(
            f"No task fits '{data.name}' ({data.summary}) and {source.name}, which reads {_NOUNS.get(source.modality, source.modality)}. "
            + _possible(data, source)
        )
    return kind()


_NOUNS = {"text": "texts", "image": "images", "audio": "sounds", "array": "arrays"}


def _possible(data: Dataset, source: Source) -> str:
    """What to do where no task fits: those that this source can do on such data, or another source, or a target."""
    if data.modality != source.modality:
        return f"Load a source that reads {_NOUNS[data.modality]}."
    reading = [kind for kind in tasks().values() if data.content in kind.contents]
    possible, reasons = [], []
    for kind in [kind for kind in reading if kind.target in (data.target.kind, "none")]:
        try:
            kind().check(data, source)
            possible.append(f"tl.tasks.{kind.__name__}()")
        except TransferlabError as error:
            reasons.append(f"{kind.__name__}: {error}")
    if possible:
        return f"Pass task={' or task='.join(possible)}."
    targets = sorted({kind.target for kind in reading} - {"none"})
    return (
        " ".join(reasons)
        or f"Tasks on {data.content} need a target ({', '.join(targets)}): tl.dataset(…, target='label')."
    )


def task_from(fields: Mapping[str, Any], where: str = "task") -> Task:
    """Return the task that ``{"name": …, **fields}`` describes, as a run's directory records it or a config names it.

    Args:
        fields: name and fields.
        where: starts the error message.

    Raises:
        TransferlabError: an unknown name or field, or a value that a field cannot have.
    """
    arguments = dict(fields)
    return read(task_named(str(arguments.pop("name"))), arguments, where)


__all__ = [
    "TASKS",
    "CausalLanguageModel",
    "Classification",
    "Contrastive",
    "Distillation",
    "MaskedLanguageModel",
    "MultiLabel",
    "Regression",
    "SequenceToSequence",
    "Task",
    "TokenLabels",
    "task_for",
    "task_from",
    "task_named",
    "tasks",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face_with(TASKS, __name__, __all__)

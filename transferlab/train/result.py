"""What a run that has ended has to say, in memory and read back from its directory; the error where one diverged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from jaxtyping import Float

from transferlab import trees
from transferlab.data.dataset import Dataset
from transferlab.errors import TransferlabError
from transferlab.files import atomic_path
from transferlab.methods.adapted import Adapted
from transferlab.pretrained.formats.npz import read_npz
from transferlab.pretrained.source import Source
from transferlab.reading import check_file, read_object, reading
from transferlab.train.divergence import FINISHED, Divergence, recorded
from transferlab.train.writers import read_metrics

Report = Callable[[int, int, Mapping[str, float]], None]
"""What tells of progress: called with (finished steps, all steps, newest metrics)."""


@dataclass(frozen=True)
class Result:
    """What a run that has ended has to say; of one that diverged, ``test`` and ``probabilities`` are NaN.

    Attributes:
        test: accuracy, balanced accuracy and cross-entropy (nats) on the test split, measured once.
        probabilities: (test examples, labels), rows in the order of ``data.test``.
        history: rows of metrics by step.
        record: the flat record that studies tabulate.
    """

    test: dict[str, float]
    probabilities: Float[np.ndarray, "examples labels"] = field(repr=False)
    history: list[dict[str, Any]] = field(repr=False)
    record: dict[str, Any] = field(repr=False)
    _tree: Callable[[], trees.Tree] | None = field(repr=False, default=None)
    _adapted: Callable[[], Adapted] | None = field(repr=False, default=None)

    @property
    def status(self) -> str:
        """``finished``, or ``diverged at step 12``."""
        return self.record.get("status", FINISHED)

    @property
    def diverged(self) -> Divergence | None:
        """Where it diverged, if it did."""
        return recorded(self.record)

    @cached_property
    def params(self) -> trees.Tree | None:
        """The whole adapted tree; None for a run read from disk (``open_run`` brings its weights back) or that diverged."""
        return None if self._tree is None else self._tree()

    @cached_property
    def adapted(self) -> Adapted | None:
        """The base, what was trained as a whole, and the adapters apart; None where ``params`` is."""
        return None if self._adapted is None else self._adapted()

    @property
    def source(self) -> Source | None:
        """The adapted model as a source, adapters merged: ``tl.save(result.source, "folder")`` writes it for its origin."""
        return None if self.adapted is None else self.adapted.merged()


class Diverged(TransferlabError):
    """A loss, a gradient or what trains is not finite. The run has ended: started again, it says so again.

    Attributes:
        results: of all runs that were fitted together, in order; ``status`` tells those that finished from the others.
    """

    def __init__(self, message: str, results: Sequence[Result] = ()):
        super().__init__(message)
        self.results = list(results)


def raise_diverged(results: Sequence[Result], sentences: Mapping[int, str]) -> None:
    """Raise one error for all runs that diverged, where there is any; ``sentences`` has one for each, by its place.

    Raises:
        Diverged: with the results of all.
    """
    if not sentences:
        return
    if len(results) == 1:
        raise Diverged(sentences[0], results)
    lines = "".join(f"\n  run {place}: {text}" for place, text in sentences.items())
    rest = "; the others finished: this error's `results` has all, in order" if len(sentences) < len(results) else ""
    raise Diverged(f"{len(sentences)} of {len(results)} runs diverged{rest}:{lines}", results)


def write_predictions(directory: Path, data: Dataset, probabilities: Float[np.ndarray, "n labels"]) -> None:
    """Write ``predictions.npz``: ids, labels and probabilities of the test split, for paired tests."""
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_path(directory / "predictions.npz") as path, path.open("wb") as file:
        np.savez(
            file, id=np.array([data.ids[i] for i in data.test]), label=data.labels[data.test],
            probabilities=probabilities, label_names=np.array(data.label_names),
        )  # fmt: skip


def read_result(directory: Path) -> Result:
    """Read a finished run's result from its directory (without weights)."""
    record = read_record(directory / "result.json")
    path = directory / "predictions.npz"
    try:
        with reading(path, "'probabilities'"):
            probabilities = read_npz(check_file(path))["probabilities"].read()
        if probabilities.ndim != 2:
            raise TransferlabError(
                f"{path}: 'probabilities' {probabilities.shape} are no table of examples and labels."
            )
    except TransferlabError as error:
        raise TransferlabError(
            f"{error} Remove {directory / 'result.json'} and start the same command again: the run is tested once more."
        ) from None
    return Result(record["test"], probabilities, read_metrics(directory / "metrics.jsonl"), record)


_FORMER = {"together": "population_size", "squeezed": "memory_note"}
"""What earlier versions called fields of a record."""


def read_record(path: Path) -> dict[str, Any]:
    """Read what a finished run recorded, ``result.json`` or ``record.json``, with its scores on the test split.

    Raises:
        TransferlabError: it is damaged; deleting it lets the run be tested again.
    """
    record = {_FORMER.get(name, name): value for name, value in read_object(path).items()}
    test = record.get("test")
    # A run that diverged has no scores; its record says so.
    kinds = (int, float) if record.get("status", FINISHED) == FINISHED else (int, float, NoneType)
    if not isinstance(test, dict) or not isinstance(test.get("accuracy", ""), kinds):
        raise TransferlabError(f"{path}: it holds no scores ('test' with 'accuracy'); delete it and run again.")
    return record

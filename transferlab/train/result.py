"""The result of a run that has ended, in memory and read back from its directory; the error where it diverged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from jaxtyping import Float

from transferlab import notebook, trees
from transferlab.data.dataset import Dataset
from transferlab.data.ragged import Ragged
from transferlab.errors import TransferlabError, check_arguments
from transferlab.files import atomic_path
from transferlab.methods.adapted import Adapted
from transferlab.pretrained.formats.npz import read_npz
from transferlab.pretrained.source import Source
from transferlab.reading import check_file, read_object, reading
from transferlab.tasks.base import Predictions, Task
from transferlab.tasks.prediction import read_entries, take
from transferlab.train.divergence import FINISHED, NOT_KEPT, Divergence, recorded
from transferlab.train.predictor import Predictor, Presented, open_run
from transferlab.train.writers import read_metrics

Report = Callable[[int, int, Mapping[str, float]], None]
"""Reports progress: called with (finished steps, all steps, newest metrics)."""


@dataclass(frozen=True, repr=False)
class Result:
    """The result of a run that has ended; if it diverged, ``test`` and ``predictions`` are NaN.

    :meth:`transferlab.train.Run.fit` and :func:`transferlab.fit_together` return it.

    Example:
        >>> result = run.fit()
        >>> result.test["accuracy"], result.record["trainable_parameters"]
        >>> result.predict(["a fine film", "a dull one"])  # a row of probabilities for each, columns as result.labels
        >>> print(result.present(["a fine film"]))
        >>> tl.save(result.source, "adapted")

    Attributes:
        test: the task's scores on the test split, measured once: of a classifier accuracy, balanced accuracy and
            cross-entropy (nats).
        predictions: what the task predicts for each test example, by name, rows in the order of ``data.test``:
            ``probabilities`` (examples, labels) of a classifier.
        history: rows of metrics by step.
        record: the flat record that studies tabulate.
        labels: names of what the head puts out: the columns of ``probabilities``, or the targets of a regression.
    """

    test: dict[str, float]
    predictions: Predictions
    history: list[dict[str, Any]]
    record: dict[str, Any]
    labels: tuple[str, ...] = ()
    _open: Callable[[], Predictor] | None = None

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in self._scores.items())
        return f"Result({self.diverged or scores}; {self._about})"

    def _repr_html_(self) -> str:
        """The scores: what a notebook shows."""
        rows = [{"score": name, "test split": value} for name, value in self._scores.items()]
        return notebook.table(f"{self.diverged or self.status}; {self._about}", rows)

    @property
    def _scores(self) -> dict[str, float]:
        """The scores by the names that people read; none where the run diverged."""
        return {} if self.diverged else {name.replace("_", " "): value for name, value in self.test.items()}

    @property
    def _about(self) -> str:
        """What was trained and tested, in a clause."""
        tested, record = len(next(iter(self.predictions.values()), ())), self.record
        trained = f"{record['trainable_parameters']:,} parameters trained, " if "trainable_parameters" in record else ""
        steps = f"{record['steps']:,} steps in {record['seconds']:.3g} s, " if "steps" in record else ""
        return f"{record.get('method', 'a run')}: {trained}{steps}{tested:,} test examples"

    @property
    def probabilities(self) -> Float[np.ndarray, "examples labels"]:
        """Of a classifier: (test examples, labels).

        Raises:
            TransferlabError: another task, which predicts other things.
        """
        if "probabilities" not in self.predictions:
            raise TransferlabError(
                f"A run of the task '{self.record.get('task')}' predicts {', '.join(self.predictions)}: "
                f"result.predictions[{next(iter(self.predictions), '')!r}]."
            )
        return np.asarray(self.predictions["probabilities"])

    @property
    def status(self) -> str:
        """``finished``, or ``diverged at step 12``."""
        return self.record.get("status", FINISHED)

    @property
    def diverged(self) -> Divergence | None:
        """Where it diverged, if it did."""
        return recorded(self.record)

    @cached_property
    def predictor(self) -> Predictor:
        """The run, to be used on new examples, as :func:`transferlab.open_run` returns it; it needs no directory.

        Raises:
            TransferlabError: it diverged, or its weights were not kept.
        """
        if (divergence := self.diverged) is not None:
            lower = f"dataclasses.replace(settings, learning_rate={divergence.learning_rate / 10:.3g})"
            advice = f" Fit it again with a lower learning rate: {lower}." if divergence.updates else ""
            raise TransferlabError(f"The run {divergence}; it has no weights to predict with.{advice}")
        if self._open is None:
            raise TransferlabError(f"This run kept its predictions but not its weights. {NOT_KEPT}")
        return self._open()

    @check_arguments
    def predict(self, examples: Iterable[Any], rows: int = 32) -> Any:
        """What the task predicts of new examples, as a call of :class:`transferlab.train.Predictor` returns it.

        Of a classifier an array (examples, labels) of probabilities, with columns as in ``labels``. Nothing of the base is
        kept twice.

        Args:
            examples: as the run was trained on.
            rows: how many examples are computed together.

        Raises:
            TransferlabError: what is no list of examples; an example of another kind (its index is named); a run that
                diverged, or whose weights were not kept.
        """
        return self.predictor(examples, rows)

    @check_arguments
    def present(self, examples: Iterable[Any], rows: int = 32) -> Presented:
        """Like :meth:`predict`, for people: ``print`` shows a line for each example."""
        return self.predictor.present(examples, rows)

    @cached_property
    def params(self) -> trees.Tree | None:
        """The whole adapted tree, whose outputs are in the units of the data; None where there are no weights."""
        if self._open is None:
            return None
        return self.predictor.task.export(self.predictor.params, self.predictor.fitted)

    @property
    def adapted(self) -> Adapted | None:
        """The base with whatever was trained as a whole, and the adapters, separately; None where ``params`` is."""
        return None if self._open is None else self.predictor.adapted

    @property
    def source(self) -> Source | None:
        """The adapted model as a source, adapters merged, which :func:`transferlab.save` writes for transformers or timm."""
        return None if self.adapted is None else self.adapted.merged()


class Diverged(TransferlabError):
    """A loss, a gradient or a trained leaf is not finite. The run has ended: if it is started again, it raises this again.

    Example:
        >>> try:
        ...     results = tl.fit_together(runs)
        ... except tl.train.Diverged as error:
        ...     results = [result for result in error.results if result.status == "finished"]

    Attributes:
        results: of all runs that were fitted together, in order; ``status`` says which of them finished.
    """

    def __init__(self, message: str, results: Sequence[Result] = ()):
        super().__init__(message)
        self.results = list(results)


def raise_diverged(results: Sequence[Result], sentences: Mapping[int, str]) -> None:
    """Raise one error for all runs that diverged, if any did; ``sentences`` has one for each, by its index.

    Raises:
        Diverged: with the results of all.
    """
    if not sentences:
        return
    if len(results) == 1:
        raise Diverged(sentences[0], results)
    lines = "".join(f"\n  run {i}: {text}" for i, text in sentences.items())
    rest = "; the others finished: this error's `results` has all, in order" if len(sentences) < len(results) else ""
    raise Diverged(f"{len(sentences)} of {len(results)} runs diverged{rest}:{lines}", results)


def write_predictions(
    directory: Path, task: Task, data: Dataset, outputs: Sequence[str], predictions: Predictions
) -> None:
    """Write ``predictions.npz``: ids, targets and predictions of the test split, for paired tests; ``label_names`` of outputs.

    Of entries that differ in length, ``NAME`` has all end to end, and ``NAME_offsets`` where each begins.
    """
    directory.mkdir(parents=True, exist_ok=True)
    truth = {name: take(values, data.test) for name, values in task.truth(data).items()}
    with atomic_path(directory / "predictions.npz") as path, path.open("wb") as file:
        ids = np.array([data.ids[i] for i in data.test])
        arrays: dict[str, Any] = {"id": ids, "label_names": np.array(outputs)}
        for name, values in {**truth, **predictions}.items():
            if isinstance(values, Ragged):
                arrays |= {name: values.values, f"{name}_offsets": values.offsets}
            else:
                arrays[name] = values
        np.savez(file, **arrays)


def read_result(directory: Path, source: Source | None = None) -> Result:
    """Read a finished run's result from its directory; its weights are read when something is predicted.

    ``source`` is its base, where that cannot be found by what the run recorded.
    """
    record = read_record(directory / "result.json")
    path = directory / "predictions.npz"
    names = record.get("predictions", ["probabilities"])
    try:
        predictions, labels = read_predictions(path, names)
    except TransferlabError as error:
        raise TransferlabError(
            f"{error} Delete {directory / 'result.json'} and start the same command again: the run is then tested again."
        ) from None
    kept = record.get("status", FINISHED) == FINISHED and (directory / "checkpoints").is_dir()
    history = read_metrics(directory / "metrics.jsonl")
    return Result(
        record["test"],
        predictions,
        history,
        record,
        labels,
        partial(open_run, directory, source=source) if kept else None,
    )


def read_predictions(path: Path, names: Sequence[str]) -> tuple[Predictions, tuple[str, ...]]:
    """Read these predictions of a ``predictions.npz``, and the names of the outputs.

    Raises:
        TransferlabError: it is damaged, or lacks one of them.
    """
    with reading(path, ", ".join(map(repr, names))):
        arrays = read_npz(check_file(path))
        predictions: Predictions = {name: read_entries(arrays, name) for name in names}
        labels = tuple(map(str, arrays["label_names"].read())) if "label_names" in arrays else ()
    for name, values in predictions.items():
        if isinstance(values, np.ndarray) and values.ndim < (2 if name == "probabilities" else 1):
            raise TransferlabError(
                f"{path}: '{name}' has shape {values.shape}; expected an axis of examples and one more."
            )
    return predictions, labels


_FORMER = {"together": "population_size", "squeezed": "memory_note"}
"""Names of a record's fields in earlier versions."""


def read_record(path: Path) -> dict[str, Any]:
    """Read a finished run's record, ``result.json`` or ``record.json``, with its scores on the test split.

    Raises:
        TransferlabError: it is damaged; once it is deleted, the run is tested again.
    """
    record = {_FORMER.get(name, name): value for name, value in read_object(path).items()}
    test = record.get("test")
    # A run that diverged has no scores; its record says so.
    kinds = (int, float) if record.get("status", FINISHED) == FINISHED else (int, float, NoneType)
    metric = record.get("metric", "accuracy")
    if not isinstance(test, dict) or not isinstance(test.get(metric, ""), kinds):
        raise TransferlabError(f"{path}: it holds no scores ('test' with '{metric}'); delete it and run again.")
    return record

"""``open_run``: a finished run, to be used on new texts or images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Int

from transferlab import trees
from transferlab.compute.host import interruptible
from transferlab.data.arrays import ArrayTransform
from transferlab.data.audio import AudioTransform
from transferlab.data.batches import Batch
from transferlab.data.examples import Content, Modality, as_records
from transferlab.data.images import ImageTransform
from transferlab.data.inputs import Inputs, TextInputs, Transform
from transferlab.data.reads import read_by
from transferlab.data.text import TextTransform
from transferlab.errors import TransferlabError, check_arguments, shown
from transferlab.evaluate.sequences import write_texts
from transferlab.fields import read
from transferlab.methods.adapted import Adapted, adapted
from transferlab.models.foreign.headed import HeadedNetwork
from transferlab.models.network import Network
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.loading import load
from transferlab.pretrained.network_source import FAMILY, NetworkSource
from transferlab.pretrained.source import Source
from transferlab.reading import read_object, reading
from transferlab.tasks import Classification, Task
from transferlab.tasks.prediction import predict_rows
from transferlab.train.divergence import NOT_KEPT, recorded
from transferlab.train.identity import architecture, read_identity
from transferlab.train.own_code import add_code, check_family, recorded_method, recorded_task
from transferlab.train.setup import plan_for
from transferlab.transfer.plan import Plan


@dataclass(frozen=True, repr=False)
class Presented:
    """What a task predicts of some examples, for people: ``print`` shows a line for each.

    :meth:`Predictor.present` and :meth:`transferlab.train.Result.present` return one.

    Attributes:
        rows: each example's prediction as plain data: ``{"label": …, "probabilities": {label: …}}`` of a classifier.
        lines: the same, each in a line.
    """

    rows: tuple[dict[str, Any], ...]
    lines: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join(self.lines)


@check_arguments
@dataclass(frozen=True, repr=False)
class Predictor:
    """A finished run: ``predictor(["some text"])`` returns one row of probabilities per example.

    :func:`transferlab.open_run` returns one; so does ``Result.predictor``.

    Attributes:
        labels: label names, in the order of the columns.
        transform: the preprocessing it was trained with.
        network: the model, without arrays.
        params: all parameters, the head of a regression in standard deviations of the target (``fitted``): trained ones, and those of the base.
        state: batch statistics.
        adapted: its base with whatever was trained as a whole, and its adapters, separately; ``adapted.merged()`` is a
            :class:`transferlab.pretrained.source.Source`.
        text_column: of the table that it was trained on; two of pairs.
        task: what it was trained for.
        fitted: what the task learned of the training targets.
    """

    labels: tuple[str, ...]
    transform: Transform
    network: Network
    params: trees.Tree
    state: trees.Tree
    adapted: Adapted
    text_column: str | Sequence[str] = "text"
    task: Task = field(default_factory=Classification)
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        labels = ", ".join(self.labels[:5]) + (", …" if len(self.labels) > 5 else "")
        return (
            f"Predictor({type(self.task).__name__}{f' of {labels}' if labels else ''}, trained on {self.adapted.source.name!r}: reads "
            f"{read_by(self.transform)})"
        )

    if not TYPE_CHECKING:  # for type checkers a class with it has every name

        def __getattr__(self, name: str) -> Any:
            """Only of what there is none."""
            if hasattr(type(self), name):  # a property that failed: its own error
                return object.__getattribute__(self, name)
            called = "; call it: predictor(['a text'])" if name == "predict" else ""
            raise AttributeError(f"'Predictor' object has no attribute '{name}'{called}")

    @property
    def modality(self) -> Modality:
        """``text``, ``image``, ``audio`` or ``array``."""
        kinds: dict[type, Modality] = {TextTransform: "text", ImageTransform: "image", AudioTransform: "audio",
                                        ArrayTransform: "array"}  # fmt: skip
        return kinds[type(self.transform)]

    @check_arguments
    def __call__(self, examples: Iterable[Any], rows: int = 32) -> Any:
        """Return what the task predicts for each example: of a classifier, an array (examples, labels) of probabilities; where
        examples differ in length, a :class:`~transferlab.data.ragged.Ragged`; of a model that writes, a list of texts.

        Args:
            examples: texts; pairs of texts, as tuples; lists of words; images as paths or uint8 arrays (height, width, channels);
                or sounds as paths or (floats from -1 to 1, samples per second), channels on the second axis. As the run was
                trained on.
            rows: how many examples are computed together.

        Raises:
            TransferlabError: what is no list of examples, or an example of another kind; its index is named.
        """
        words = self._reads_words
        examples = _listed(examples, self.modality, words)
        if not isinstance(rows, Integral) or rows < 1:
            raise TransferlabError(f"rows is {rows!r}; it must be an integer of at least 1.")
        content, records = as_records(examples, self.modality, words)
        if records:
            self._check_content(content, examples[0])
        rows = min(rows, max(len(records), 1))
        feed = self.task.inputs(records, self.transform, content=content)
        if self.task.writes:
            return self.written(feed, np.arange(len(records)), rows)

        def call(batch: Batch) -> dict[str, np.ndarray]:
            targets = self.task.collate({}, feed, batch, rows) if self.task.reads_targets else {}
            return jax.device_get(
                self._predict(self.params, self.state, feed.inputs(batch.indices, batch.bucket, rows), targets)
            )

        indices = np.arange(len(records))
        predictions = self.task.restore(predict_rows(self.task, self.labels, feed, indices, rows, call), self.fitted)
        return predictions[self.task.predicted]

    @property
    def _reads_words(self) -> bool:
        """Whether an example is a list of words, and never a text."""
        return self.task.contents == ("words",)

    def _check_content(self, content: Content, first: Any) -> None:
        """Raise for examples that hold something else than those of training, which a model would read without complaint."""
        pairs = not isinstance(self.text_column, str)
        if pairs and content != "pair" and not self.task.texts_apart:
            raise TransferlabError(
                f"This run was trained on pairs of texts, and examples[0] is {first!r:.60}. Pass tuples of two texts: "
                "predictor([('a man sleeps', 'somebody rests')])."
            )
        if not pairs and content == "pair" and "text" in self.task.contents and not self.task.texts_apart:
            raise TransferlabError(
                f"This run was trained on single texts, and examples[0] is a pair: {first!r:.60}. Pass texts: predictor(['a text'])."
            )
        if content == "words" and "text" in self.task.contents and "words" not in self.task.contents:
            raise TransferlabError(
                f"This run was trained on texts, and examples[0] is a list of words: {first!r:.60}. Pass texts: "
                "predictor([' '.join(words)])."
            )

    def written(self, feed: Inputs, indices: Int[np.ndarray, " n"], rows: int) -> list[str]:
        """The text that the model writes for each of these examples, the likeliest token each time."""
        assert isinstance(feed, TextInputs)
        longest = min(self.task.writes, feed.transform.max_length)
        return write_texts(self.network, self.params, self.state, feed, indices, rows, longest)

    @check_arguments
    def present(self, examples: Iterable[Any], rows: int = 32) -> Presented:
        """What is predicted of these examples, for people; arguments and errors are those of a call.

        Example:
            >>> print(tl.open_run("runs/lora").present(["a fine film"]))
        """
        examples = _listed(examples, self.modality, self._reads_words)
        each = [
            self.task.present(row, self.labels, example)
            for row, example in zip(self(examples, rows), examples, strict=True)
        ]
        return Presented(tuple(fields for fields, _ in each), tuple(line for _, line in each))

    @cached_property
    def _predict(self) -> Any:
        def predict(params: trees.Tree, state: trees.Tree, inputs: dict[str, Any], targets: dict[str, Any]) -> Any:
            out, _ = self.network.run(params, state, self.task.evaluation(inputs, targets))
            return self.task.predict(out)

        return jax.jit(predict)


@check_arguments
@interruptible()
def open_run(directory: str | Path, code: Any = None, *, source: Source | None = None) -> Predictor:
    """Open a finished run: what ``fit`` trained, on the base that it was trained on. ``predictor.adapted`` exports it.

    Nothing that the directory names is imported: a task, method or family of somebody's own is imported already, or of an
    installed package that adds it by an entry point, or given as ``code``.

    Example:
        >>> predictor = tl.open_run("runs/lora")
        >>> predictor(["a fine film", "a dull one"])  # a row of probabilities for each, columns as predictor.labels

    Args:
        directory: of the run, as given to :func:`transferlab.adapt`.
        code: a Python file that defines the run's own method, task or family, which is executed; or what it defines:
            ``code="my_method.py"`` or ``code=[Mine]``.
        source: its base, where that is a network of your own (:func:`transferlab.from_tree`): a run keeps no code, and frozen
            weights are not its own. Any other is found by what the run recorded.

    Raises:
        TransferlabError: there is no finished run (or it diverged), its weights were not kept, its base is missing or
            has changed, or code is needed that was not given; it is named.
    """
    if code is not None:
        add_code(code)
    if not isinstance(directory, (str, Path)):
        raise TransferlabError(
            f"directory is {shown(directory)}; pass that of a finished run, as tl.open_run('runs/mine'). A result in memory predicts "
            "by itself: result.predict(['a text'])."
        )
    with reading(Path(directory)):
        return _open_run(Path(directory), source)


def _open_run(directory: Path, given: Source | None) -> Predictor:
    if not (directory / "result.json").exists() or not (directory / "run.json").exists():
        raise TransferlabError(
            f"{directory} holds no finished run (it lacks result.json or run.json); `fit` with this directory finishes one."
        )
    if (divergence := recorded(read_object(directory / "result.json"))) is not None:
        raise TransferlabError(f"The run in {directory} {divergence}; it has no weights to predict with.")
    identity = read_identity(directory)
    if not (directory / "checkpoints").is_dir():
        raise TransferlabError(
            f"{directory} kept its predictions but not its weights; a study keeps the weights of each arm's best run. "
            f"{NOT_KEPT}"
        )
    from transferlab.train.checkpoints import Checkpoints

    checkpoints = Checkpoints(directory / "checkpoints")
    step = checkpoints.chosen()
    if step is None:
        raise TransferlabError(f"{directory / 'checkpoints'} holds no finished checkpoint.")
    check_family(identity.get("code", {}), directory)
    base = checkpoints.meta(step)["base"]
    source = _with_transform(_find_base(base) if given is None else _checked_base(given, base), identity["transform"])
    now, then = architecture(source), identity.get("config", architecture(source))
    if changed := sorted(name for name in now.keys() | then if now.get(name) != then.get(name)):
        raise TransferlabError(
            f"The config of '{source.name}' is not what this run had: {', '.join(changed)}. Restore its config.json."
        )
    trained, stats = checkpoints.weights(step)
    checkpoints.close()
    task, method = recorded_task(identity, directory), recorded_method(identity, directory)
    outputs = tuple(identity["labels"])
    plan = plan_for(source, task.head(source, outputs, method), method)
    if changed := sorted(set(plan.trainable) ^ set(identity.get("trainable", plan.trainable))):
        raise TransferlabError(
            f"{directory}: this run trained other leaves than such a run does now: {', '.join(changed[:4])}. Open it with the "
            "version of transferlab that wrote it."
        )
    return predictor_of(
        source, plan, trained, stats, seed=identity["seeds"]["initialisation"], outputs=outputs, task=task,
        fitted=identity.get("fitted", {}), text_column=identity.get("text_column"),
    )  # fmt: skip


def predictor_of(
    source: Source,
    plan: Plan,
    trained: trees.Tree,
    stats: trees.Tree,
    *,
    seed: int,
    outputs: tuple[str, ...],
    task: Task,
    fitted: Mapping[str, Any],
    text_column: str | Sequence[str] | None,
) -> Predictor:
    """Return a run's predictor: what it trained, and the frozen leaves of its source, which its predictors share.

    Args:
        source: the base.
        plan: of the run.
        trained: the trained leaves that were tested.
        stats: batch statistics; empty where there are none.
        seed: of the initialisation.
        outputs: labels or targets, in the order of the head's columns.
        task: what it was trained for.
        fitted: what the task learned of the training targets.
        text_column: of the table that it was trained on, if there was one.
    """
    frozen = frozenset(leaf.path for leaf in plan.leaves if not leaf.trains)
    params, state = plan.place(seed, source.resident, frozen)
    whole = (
        None
        if isinstance(source, NetworkSource)
        else adapted(
            source,
            task.export(trained, fitted),
            plan.initialised(seed),
            stats,
            plan.head,
            getattr(plan.network, "module", None),
            plan.started(seed),
        )
    )
    everything = trees.join(trained, params)
    if isinstance(source, NetworkSource):
        exported = task.export(everything, fitted)
        assert isinstance(plan.network, HeadedNetwork)
        whole = Adapted(source.trained(plan.network, plan.head, exported, stats or state))
    assert source.transform is not None and whole is not None
    return Predictor(
        outputs, source.transform, plan.network, everything, stats or state, whole,
        text_column or "text", task, fitted,
    )  # fmt: skip


def _listed(examples: Any, modality: str, words: bool = False) -> list[Any]:
    """The examples as a list, or an error that says what to pass."""
    if isinstance(examples, (str, bytes)):
        shown = f"{str(examples)[:40]!r}{'.split()' if words else ''}"
        raise TransferlabError(f"examples is a single text; pass a list: predictor([{shown}]).")
    axes = getattr(examples, "ndim", 1)
    if modality == "image" and axes == 3:
        raise TransferlabError("examples is a single image; pass a list: predictor([image]).")
    if (
        isinstance(examples, (Mapping, Set))
        or hasattr(examples, "columns")
        or not isinstance(examples, Iterable)
        or not axes
    ):
        what, column = ("lists of words", "words") if words else (f"{modality}s", "text")
        raise TransferlabError(
            f"examples is of type {type(examples).__name__}; pass a list of {what}. Of a table that is one column: "
            f"predictor(list(table['{column}']))."
        )
    return list(examples)


def _checked_base(source: Source, base: dict[str, Any]) -> Source:
    """The base that the caller gives, if it has the weights of the recorded one."""
    if source.sha256 != base["sha256"]:
        raise TransferlabError(
            f"{source.name} has other weights (SHA-256 {source.sha256[:12]}…) than the base of this run ({base['sha256'][:12]}…)."
        )
    return source


def _find_base(base: dict[str, Any]) -> Source:
    """Load the base by its name or from its recorded path, whichever has the recorded hash."""
    provenance, problems = base["source"], []
    if provenance.get("family") == FAMILY:
        raise TransferlabError(
            f"This run was trained on a network of your own, '{provenance['name']}', whose code and frozen weights it does not keep. Pass "
            "it:\n  >>> tl.open_run(directory, source=tl.from_tree(network, params, state))"
        )
    for name in dict.fromkeys([provenance["name"], provenance.get("path", "")]):
        if not name:
            continue
        try:
            fields = provenance.get("config")
            config = None if fields is None else read(FAMILIES[fields["family"]].config, fields["fields"], "config")
            source = load(name, config=config, tower=provenance.get("tower"), entry=provenance.get("entry"))
            source = source.with_changes(provenance.get("changes", {}))
        except TransferlabError as error:
            problems.append(f"'{name}': {error}")
            continue
        if source.sha256 == base["sha256"]:
            return source
        problems.append(f"'{name}' has other weights (SHA-256 {source.sha256[:12]}…)")
    raise TransferlabError(
        f"The base of this run, '{provenance['name']}' with SHA-256 {base['sha256'][:12]}…, was not found. Tried:\n  "
        + "\n  ".join(problems)
    )


def _with_transform(source: Source, recorded: dict[str, Any]) -> Source:
    """The source with the run's preprocessing, or an error: with another one the weights would see other inputs."""
    if recorded["kind"] == "array" and isinstance(source, NetworkSource):
        source = source.for_shape(tuple(recorded["shape"]))
    if (
        recorded["kind"] == "image"
        and not isinstance(source, NetworkSource)
        and isinstance(source.transform, ImageTransform)
    ):
        source = source.resized(int(recorded["size"]))
    now = {} if source.transform is None else source.transform.describe()
    if changed := sorted(name for name in recorded if now.get(name) != recorded[name]):
        raise TransferlabError(
            f"The preprocessing of '{source.name}' is not what this run had: {', '.join(changed)}. Restore its files."
        )
    return source

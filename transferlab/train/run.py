"""``adapt``: a run, set up from source, data and method, and ``Run.fit``, which trains it."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transferlab.compute.host import interruptible
from transferlab.data.dataset import Dataset, dataset
from transferlab.errors import TransferlabError, check_arguments, shown
from transferlab.files import folder_named
from transferlab.methods import METHODS, Full, Method
from transferlab.pretrained.loading import load
from transferlab.pretrained.network_source import NetworkSource
from transferlab.pretrained.source import Source
from transferlab.tasks import TASKS, Classification, Task, task_for
from transferlab.train.fit import fit_together
from transferlab.train.memory import Memory, memory_of
from transferlab.train.own_code import check_recordable
from transferlab.train.result import Report, Result
from transferlab.train.settings import Settings
from transferlab.train.setup import Seeds, Setup


class Run(Setup):
    """One arm at one budget and one seed, as :func:`transferlab.adapt` returns it.

    ``print(run.plan)`` shows what will happen; ``fit`` does it.

    Example:
        >>> run = tl.adapt(source, data, method=tl.methods.LoRA(rank=8), directory="runs/lora")
        >>> print(run.plan, run.memory)
        >>> result = run.fit()

    Attributes:
        source, data, method, settings, seeds, directory, keep_weights, initialise: as given to ``adapt``.
        plan: what happens to every leaf, a :class:`transferlab.transfer.Plan`.
        memory: what a step will take on the device, a :class:`transferlab.train.memory.Memory`.
        steps: updates of the whole run.
        decision: whether the frozen prefix is cached, a :class:`transferlab.transfer.frontier.CacheDecision`.
        order: which examples each step takes.
        program: the compiled functions, a :class:`transferlab.train.program.Program`.
        execution, memory_note, cache, feed, task: those of :class:`transferlab.train.setup.Setup`.
    """

    def __repr__(self) -> str:
        """What is trained, on what and how, a line each; a terminal and a notebook show it."""
        settings, task = self.settings, self.task
        kept = "best validated" if len(self.data.validation) and settings.keep == "best" else "last"
        rate = f"learning rate {settings.learning_rate:g}, {settings.optimizer.name}"
        trained, every = self.transfer.trainable_parameters, self.transfer.parameters
        lines = {
            "source": self.source.summary,
            "data": f"{self.data.name!r}: {self.data.summary}",
            "task": f"{type(task).__name__}, scored by {task.chooses}; the {kept} state is tested",
            "method": str(self.method),
            "trains": f"{trained:,} of {every:,} parameters ({trained / every:.2%})",
            "steps": f"{self.steps:,}, each of {settings.batch_size} examples; {rate}",
            "writes": str(self.directory or "nothing; directory='runs/mine' keeps plan, metrics and weights"),
        }
        return "\n".join(["Run", *(f"  {name:<7} {text}" for name, text in lines.items())])

    @property
    def memory(self) -> Memory:
        """What a step will take on the device, from the compiled program; nothing is allocated."""
        return max((memory_of(phase) for phase in self.phases), key=lambda memory: memory.total)

    if not TYPE_CHECKING:  # for type checkers a class with it has every name

        def __getattr__(self, name: str) -> Any:
            """Only of what there is none: a result's are named."""
            if hasattr(type(self), name):  # a property that failed: its own error
                return object.__getattribute__(self, name)
            if not name.startswith("_") and (name in Result.__dataclass_fields__ or hasattr(Result, name)):
                raise AttributeError(
                    f"A run has no '{name}' before it is fitted; its result has: result = run.fit(); result.{name}"
                )
            raise AttributeError(f"'Run' object has no attribute '{name}'")

    @partial(check_arguments, elsewhere=lambda name: _elsewhere(name))
    def fit(self, report: Report | None = None, quiet: bool = False) -> Result:
        """Train, test once, and return the result; an interrupted run in ``directory`` is continued, a finished one read.

        A terminal or a notebook has a line meanwhile: what compiles, the step and epoch, loss, validation score, speed and
        time left. Nothing waits for it, and it is no part of the run.

        Args:
            report: called with (step, steps in all, newest metrics) as training proceeds, in place of the line.
            quiet: whether to show no line.

        Raises:
            Diverged: a loss, a gradient or a trained leaf is not finite. The directory records it, so that ``fit`` raises it
                again, and keeps the last checkpoint before. Other settings are another run, in another directory.
            TransferlabError: the directory holds another run (the fields that differ are named) or other files, or the
                disk is full.
            Interrupted: Ctrl-C or SIGTERM; a checkpoint was written first.
        """
        return fit_together([self], report, quiet)[0]


def _elsewhere(name: str) -> str:
    """Where an argument belongs that is none of ``adapt`` or ``fit``: to the settings, the method or the task."""
    names = {of.name for of in fields(Settings)}
    setting = {"lr": "learning_rate", "num_epochs": "epochs", "num_train_epochs": "epochs"}.get(name, name)
    if setting in names:
        return f" It is a setting: tl.adapt(source, data, settings=tl.train.Settings({setting}=…))."
    for kind, place, classes in (("method", "methods", METHODS.ours.values()), ("task", "tasks", TASKS.ours.values())):
        for each in classes:
            if name in {of.name for of in fields(each)}:
                return (
                    f" It is part of the {kind}: tl.adapt(source, data, {kind}=tl.{place}.{each.__name__}({name}=…))."
                )
    return ""


@partial(check_arguments, elsewhere=_elsewhere)
@interruptible()
def adapt(
    source: Source | str | Path,
    data: Any,
    *,
    method: Method | None = None,
    settings: Settings | None = None,
    seed: int | Seeds = 0,
    task: Task | None = None,
    directory: str | Path | None = None,
    initialise: str | None = None,
    keep_weights: bool = True,
) -> Run:
    """Set up a run; nothing is allocated or trained until ``fit``.

    Example:
        >>> import transferlab as tl
        >>> source, data = tl.load("minilm-l6"), tl.dataset("tweets", examples=64, seed=0)
        >>> result = tl.adapt(source, data, method=tl.methods.LoRA(rank=8)).fit()
        >>> result.test["accuracy"]
        >>> tl.adapt("minilm-l6", "reviews.csv").fit()  # both opened by their names

    See also :func:`transferlab.fit_together` for many runs, and :func:`transferlab.open_run` for a finished one.

    Args:
        source: from :func:`transferlab.load`; or what it opens, as a name or a directory.
        data: from :func:`transferlab.dataset`; or what it opens without further arguments, as a path or a DataFrame. Several runs
            share what they have in common where both are opened first.
        method: how to adapt; :class:`transferlab.methods.Full` by default.
        settings: how to train; the method's ``defaults`` otherwise.
        seed: of both initialisation and order, or :class:`transferlab.train.Seeds` for one of each.
        task: what is optimised and scored; by default the one of the data's target: :class:`transferlab.tasks.Classification`
            for classes, :class:`transferlab.tasks.Regression` for numbers, and so on (:func:`transferlab.tasks.task_for`).
        directory: where plan, metrics, checkpoints and predictions are written; None keeps everything in memory.
        initialise: selector of backbone leaves that may be initialised where the source lacks them.
        keep_weights: if False, checkpoints only serve to resume, and are deleted when the run is finished.

    Returns:
        A :class:`transferlab.train.Run`, whose ``plan`` can be printed and whose ``fit`` trains.

    Raises:
        TransferlabError: an argument of the wrong kind, or leaves and keys that the plan cannot account for.
    """
    _check_kinds(source, method, settings, seed, task)
    source = source if isinstance(source, Source) else load(source)
    data = data if isinstance(data, Dataset) else dataset(data)
    method = Full() if method is None else method
    settings = Settings(**method.defaults) if settings is None else settings
    seeds = seed if isinstance(seed, Seeds) else Seeds(int(seed), int(seed))
    if source.towers:
        raise TransferlabError(
            f"{source.name} has several towers, which cannot train together yet, as on images with their texts; adapt one: "
            f"tl.load('{source.name}', tower='{next(iter(source.towers))}')."
        )
    if isinstance(source, NetworkSource):
        source = _reading(source, data, task)
    if source.transform is None:
        raise TransferlabError(
            f"{source.name} came without a tokenizer or image preprocessing, so it cannot read data. Put the files that "
            "define it, as tokenizer.json, next to its weights."
        )
    task = _with_smoothing(task_for(data, source) if task is None else task, settings)
    folder = folder_named(directory, "directory") if directory is not None else None
    if folder is not None:
        check_recordable(method, task)
    run = Run(source, data, method, settings, seeds, folder, keep_weights, initialise, task)
    # Raises now, and not in `fit`, whatever the plan cannot account for, or the task cannot learn of the targets.
    _ = run.transfer, run.fitted
    return run


def _reading(source: NetworkSource, data: Dataset, task: Task | None) -> NetworkSource:
    """A network of somebody's own as it reads this data.

    Raises:
        TransferlabError: data that it has no preprocessing for, or a task that it cannot do.
    """
    kinds = [kind for kind in TASKS.values() if kind.head is Task.head]
    names = ", ".join(kind.__name__ for kind in kinds)
    if (task is None and data.target.kind not in {kind.target for kind in kinds}) or (
        task is not None and type(task).head is not Task.head
    ):
        what = f"'{data.name}' holds {data.summary}" if task is None else f"the task is {type(task).__name__}"
        raise TransferlabError(
            f"A network of your own ({source.name}) can be adapted to these tasks: {names}; and {what}."
        )
    numbers = data.target.kind == "numbers" if task is None else type(task).export is not Task.export
    if source.body.output == "logits" and numbers:
        raise TransferlabError(
            f"{source.name} has a head of its own, and numbers are learned in standard deviations, which are put back into a head of "
            "ours. Leave its head out of the module: tl.network(…, output='hidden')."
        )
    if source.transform is None and data.content != "array":
        raise TransferlabError(
            f"{source.name} came without preprocessing, and '{data.name}' holds {data.content}. Pass one, as that of a source:\n"
            "  >>> tl.from_tree(network, params, state, transform=tl.load('minilm-l6').transform)"
        )
    return source if data.content != "array" else source.for_shape(tuple(data.records[0]["array"].shape))


def _check_kinds(source: Any, method: Any, settings: Any, seed: Any, task: Any = None) -> None:
    """Raise an error that says what to pass where an argument is of the wrong kind, before anything is opened."""
    for name, value, kind, advice in (
        ("source", source, Source | str | Path, "pass a name or a directory, as 'minilm-l6', or what tl.load returns"),
        ("method", method, Method | None, "pass one of tl.methods, as tl.methods.LoRA(rank=8)"),
        ("settings", settings, Settings | None, "pass a Settings, as tl.train.Settings(epochs=3)"),
        ("task", task, Task | None, "pass one of tl.tasks, as tl.tasks.Regression()"),
        ("seed", seed, Integral | Seeds, "pass an integer, or tl.train.Seeds(initialisation=0, order=1)"),
    ):
        if not isinstance(value, kind):
            raise TransferlabError(f"{name} is {shown(value)}; {advice}.")


def _with_smoothing(task: Task, settings: Settings) -> Task:
    """The task with the label smoothing of the settings, where it is a classification that says nothing else."""
    smoothing = settings.label_smoothing
    if not smoothing:
        return task
    if not isinstance(task, Classification) or task.label_smoothing not in (0.0, smoothing):
        raise TransferlabError(
            f"settings.label_smoothing is {smoothing:g}, and the task is {task}. Leave it out of the settings, or pass "
            f"task=tl.tasks.Classification(label_smoothing={smoothing:g})."
        )
    return replace(task, label_smoothing=smoothing)

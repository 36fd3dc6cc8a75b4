"""``adapt``: a run, set up from source, data and method, with the button that starts it."""

from __future__ import annotations

from numbers import Integral
from pathlib import Path
from typing import Any

from transferlab.compute.host import interruptible
from transferlab.data.audio import AudioTransform
from transferlab.data.dataset import Dataset
from transferlab.errors import TransferlabError, check_arguments
from transferlab.files import folder_named
from transferlab.methods import Full, Method
from transferlab.pretrained.source import Source
from transferlab.train.fit import fit_together
from transferlab.train.memory import Memory, memory_of
from transferlab.train.result import Report, Result
from transferlab.train.settings import Settings
from transferlab.train.setup import Seeds, Setup, plan_for


class Run(Setup):
    """One arm at one budget and one seed. Made by :func:`adapt`; its attributes are those of
    :class:`transferlab.train.setup.Setup`.

    ``print(run.plan)`` says what will happen; ``fit`` does it.

    Example:
        >>> run = tl.adapt(source, data, method=tl.methods.LoRA(rank=8), directory="runs/lora")
        >>> print(run.plan, run.memory)
        >>> result = run.fit()

    Attributes:
        plan: what happens to every leaf, a :class:`transferlab.transfer.plan.Plan`.
        memory: what a step will hold, a :class:`transferlab.train.memory.Memory`.
        steps: updates of the whole run.
    """

    @property
    def memory(self) -> Memory:
        """What a step will hold, from the compiled program; nothing is allocated."""
        return memory_of(self)

    @check_arguments
    def fit(self, report: Report | None = None) -> Result:
        """Train, test once, and return the result; an interrupted run in ``directory`` is continued, a finished one read.

        Raises:
            Diverged: a loss, a gradient or what trains is not finite. The directory records it, so that ``fit`` says so
                again, and keeps the last checkpoint before. Other settings are another run, in another directory.
            TransferlabError: the directory holds another run (the fields that differ are named) or files of something
                else, or a full disk.
            Interrupted: Ctrl-C or SIGTERM; a checkpoint was written first.
        """
        return fit_together([self], report)[0]


@check_arguments
@interruptible()
def adapt(
    source: Source,
    data: Dataset,
    *,
    method: Method | None = None,
    settings: Settings | None = None,
    seed: int | Seeds = 0,
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

    See also :func:`transferlab.train.fit.fit_together`, for many runs, and
    :func:`transferlab.train.predictor.open_run`, for one that is finished.

    Args:
        source: from ``tl.load``.
        data: from ``tl.dataset``.
        method: how to adapt; full fine-tuning by default.
        settings: how to train; the method's own by default.
        seed: one for both, or :class:`Seeds`.
        directory: where plan, metrics, checkpoints and predictions go; None keeps everything in memory.
        initialise: selector of backbone leaves that may be drawn although the source lacks them.
        keep_weights: if False, checkpoints only bridge interruptions, and go when the run is finished.

    Raises:
        TransferlabError: whatever the plan cannot account for.
    """
    _check_kinds(source, data, method, settings, seed)
    method = Full() if method is None else method
    settings = Settings(**method.defaults) if settings is None else settings
    seeds = seed if isinstance(seed, Seeds) else Seeds(int(seed), int(seed))
    if source.towers:
        raise TransferlabError(
            f"{source.name} has several towers; adapt one: tl.load('{source.name}', tower='{next(iter(source.towers))}')."
        )
    if source.transform is None:
        raise TransferlabError(
            f"{source.name} came without a tokenizer or image preprocessing, so it cannot read data."
        )
    if isinstance(source.transform, AudioTransform):
        raise TransferlabError(
            f"{source.name} reads sounds, and there are no data sets of sounds yet; call it instead."
        )
    # Whatever the plan cannot account for is said now.
    plan_for(source, data.label_names, method, initialise)
    place = folder_named(directory, "directory") if directory is not None else None
    return Run(source, data, method, settings, seeds, place, keep_weights, initialise)


def _check_kinds(source: Any, data: Any, method: Any, settings: Any, seed: Any) -> None:
    """Say what was wanted where a name, or a mapping, was given in its place."""
    for name, value, kind, how in (
        ("source", source, Source, "open it first, as tl.load('minilm-l6')"),
        ("data", data, Dataset, "open it first, as tl.dataset('tweets')"),
        ("method", method, Method | None, "give one of tl.methods, as tl.methods.LoRA(rank=8)"),
        ("settings", settings, Settings | None, "give a Settings, as transferlab.train.Settings(epochs=3)"),
        ("seed", seed, Integral | Seeds, "give a whole number, or Seeds"),
    ):
        if not isinstance(value, kind):
            raise TransferlabError(f"{name} is {str(value)[:60]!r}; {how}.")

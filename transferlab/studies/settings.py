"""The config of a study: arms, budgets, seeds, and which of their combinations are run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from transferlab.data.labels import LabelKind
from transferlab.errors import check_arguments
from transferlab.methods import Method
from transferlab.tasks import Task
from transferlab.train.settings import Settings

AUTO = "auto"
"""The name of the task that follows from the data."""


@check_arguments
@dataclass(frozen=True)
class ArmConfig:
    """One arm of a study.

    Attributes:
        method: how to adapt, with the method's own fields.
        train: how to train.
        largest_budget: in the quick grid, larger budgets are omitted.
        first_seeds: in the quick grid, only this many of the seeds are used.
        tune: in the full grid, the training settings to choose from, validated on a fifth of each budget's labels.
        all_labels: in the full grid, whether to also run on all labels.
    """

    method: Method
    train: Settings
    largest_budget: int | None = None
    first_seeds: int | None = None
    tune: tuple[dict[str, Any], ...] = ()
    all_labels: bool = False


@check_arguments
@dataclass(frozen=True)
class StudyConfig:
    """A study: a table of runs, arm × budget × seed. :func:`transferlab.config.read_config` reads one from a file, and
    :func:`transferlab.run_study` runs it.

    Example:
        >>> arm = ArmConfig(tl.methods.Probe(), tl.train.Settings(steps=100))
        >>> config = StudyConfig("minilm-l6", "tweets", {"probe": arm}, budgets=(16, 64), seeds=(0, 1))

    Attributes:
        source: registry name, path or ``hf:owner/name`` of the pretrained model.
        data: registry name or path of the target data.
        methods: arm name → arm.
        budgets: labels in all; subsets are nested and shared by all arms.
        seeds: each draws its own subset, initialisation and order.
        task: what all arms learn and are compared by: a task, or its ``name`` and fields; ``auto`` is the one of the data.
        baselines: those of the task (:attr:`transferlab.tasks.Task.baselines`), as ``majority``, ``tfidf`` (texts), ``pixels``
            (images).
        grid: ``quick`` (one setting per arm) or ``full`` (tuned, every arm at every budget and seed).
        test_examples: size of the test split, which is the same for all runs.
        image_size: in pixels; None for the source's own.
        text_column, label_column: of a user's own table.
        label_kind: ``classes``, ``numbers`` or ``tags`` where the rule for that table's labels is not meant.
        white: the value that is white, in a user's own folder of images of more than 8 bits.
        keep_weights: whether to keep the weights of the best run of each arm.
        workdir: the study's directory; empty for one derived from the config's name and hash.
        name: of the study.
        raw: the config as plain data, which is recorded.
    """

    source: str
    data: str
    methods: dict[str, ArmConfig]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    task: Mapping[str, Any] | Task = field(default_factory=lambda: {"name": AUTO})
    baselines: tuple[str, ...] = ()
    grid: Literal["quick", "full"] = "quick"
    test_examples: int = 1000
    image_size: int | None = None
    text_column: str = "text"
    label_column: str = "label"
    label_kind: LabelKind = "auto"
    white: float | None = None
    keep_weights: bool = True
    workdir: str = ""
    name: str = "study"
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def arms_at(self, arm: ArmConfig, available: int) -> list[tuple[int, int]]:
        """Return the (budget, seed) cells of an arm; ``available`` is how many labels the data has."""
        budgets, seeds = list(self.budgets), list(self.seeds)
        if self.grid == "quick":
            budgets = [b for b in budgets if arm.largest_budget is None or b <= arm.largest_budget]
            seeds = seeds[: arm.first_seeds]
        elif arm.all_labels and available not in budgets:
            budgets.append(available)
        return [(budget, seed) for budget in budgets for seed in seeds]

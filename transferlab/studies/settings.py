"""The config of a study: arms, budgets, seeds, and which of their combinations are run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from transferlab.data.dataset import Dataset, dataset
from transferlab.data.labels import LabelKind
from transferlab.data.missing import Missing
from transferlab.data.readers.base import Documents
from transferlab.errors import check_arguments
from transferlab.methods import Method
from transferlab.tasks import Task
from transferlab.train.settings import Settings

AUTO = "auto"
"""The name of the task that follows from the data."""
CODE = "code"
"""Of a recorded config: where methods, the task and the family are from that are not ours."""


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
class DataConfig:
    """The data of a study: what :func:`transferlab.dataset` takes.

    Attributes:
        source: registry name or path, or one for each of ``train``, ``validation`` and ``test``.
        text, target, words, image, audio, groups, splits, label_kind, separator, missing, documents, white, split_seed: as there.

    Example:
        >>> DataConfig("reviews.csv", text="sentence", target="verdict")
    """

    source: str | dict[str, str]
    text: str | tuple[str, ...] | None = None
    target: str | tuple[str, ...] | None = "auto"
    words: str | None = None
    image: str | None = None
    audio: str | None = None
    groups: str | None = None
    splits: str | None = None
    label_kind: LabelKind = "auto"
    separator: str | None = None
    missing: Missing = "error"
    documents: Documents | None = None
    white: float | None = None
    split_seed: int = 0

    def __str__(self) -> str:
        return self.source if isinstance(self.source, str) else ", ".join(self.source.values())

    def open(self, test_examples: int | None = None) -> Dataset:
        """Return the data; ``test_examples`` is the size of the test split."""
        options = {of.name: getattr(self, of.name) for of in fields(self) if of.name != "source"}
        return dataset(self.source, test_examples=test_examples, **options)


FLAT = {"text_column": "text", "label_column": "target", "label_kind": "label_kind", "white": "white"}
"""Fields of the data that an earlier version recorded as the study's, and what they are called now."""


def current_data(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded config with the fields of its data where they are now."""
    moved = {FLAT[name]: value for name, value in raw.items() if name in FLAT and value is not None}
    out = {"test_examples": 1000, **{name: value for name, value in raw.items() if name not in FLAT}}
    if moved and isinstance(out.get("data"), str):
        out["data"] = {"source": out["data"], **moved}
    return out


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
        data: the target data; a registry name or path alone is its source.
        methods: arm name → arm.
        budgets: labels in all; subsets are nested and shared by all arms.
        seeds: each draws its own subset, initialisation and order.
        task: what all arms learn and are compared by: a task, or its ``name`` and fields; ``auto`` is the one of the data.
        baselines: those of the task (:attr:`transferlab.tasks.Task.baselines`), as ``majority``, ``tfidf`` (texts), ``pixels``
            (images).
        grid: ``quick`` (one setting per arm) or ``full`` (tuned, every arm at every budget and seed).
        test_examples: size of the test split, which is the same for all runs; None as for :func:`transferlab.dataset`.
        image_size: in pixels; None for the source's own.
        keep_weights: whether to keep the weights of the best run of each arm.
        workdir: the study's directory; empty for one derived from the config's name and hash.
        name: of the study.
        raw: the config as plain data, which is recorded.
    """

    source: str
    data: DataConfig
    methods: dict[str, ArmConfig]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    task: Mapping[str, Any] | Task = field(default_factory=lambda: {"name": AUTO})
    baselines: tuple[str, ...] = ()
    grid: Literal["quick", "full"] = "quick"
    test_examples: int | None = None
    image_size: int | None = None
    keep_weights: bool = True
    workdir: str = ""
    name: str = "study"
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.data, str):
            object.__setattr__(self, "data", DataConfig(self.data))

    def arms_at(self, arm: ArmConfig, available: int) -> list[tuple[int, int]]:
        """Return the (budget, seed) cells of an arm; ``available`` is how many labels the data has."""
        budgets, seeds = list(self.budgets), list(self.seeds)
        if self.grid == "quick":
            budgets = [b for b in budgets if arm.largest_budget is None or b <= arm.largest_budget]
            seeds = seeds[: arm.first_seeds]
        elif arm.all_labels and available not in budgets:
            budgets.append(available)
        return [(budget, seed) for budget in budgets for seed in seeds]

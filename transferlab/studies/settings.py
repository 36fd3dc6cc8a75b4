"""What a study consists of: arms, budgets, seeds, and which of their combinations are run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from transferlab.data.labels import LabelKind
from transferlab.errors import check_arguments
from transferlab.methods import Method
from transferlab.train.settings import Settings

BASELINES = ("majority", "tfidf", "pixels")
"""What a table can hold next to the arms, without training."""


@check_arguments
@dataclass(frozen=True)
class ArmConfig:
    """One arm of a study.

    Attributes:
        method: how to adapt, with the method's own fields.
        train: how to train.
        largest_budget: in the quick grid, budgets above it are left out.
        first_seeds: in the quick grid, only so many of the seeds.
        tune: in the full grid, the training settings to choose from, by a fifth of each budget's labels.
        all_labels: in the full grid, also a run on every label there is.
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
    """A study: a table of runs, arm × budget × seed.

    Attributes:
        source: registry name, path or ``hf:owner/name`` of the pretrained model.
        data: registry name or path of the target data.
        methods: arm name → arm.
        budgets: labels in all; subsets are nested and shared by all arms.
        seeds: each draws its own subset, initialisation and order.
        baselines: ``majority``, ``tfidf`` (texts), ``pixels`` (images).
        grid: ``quick`` (one setting per arm) or ``full`` (tuned, every arm at every budget and seed).
        test_examples: size of the test split, which is the same for all runs.
        image_size: pixels, where the source's own is not wanted.
        text_column, label_column: for a user's own table.
        label_kind: ``classes`` takes each value of that table's labels as a class, however many there are.
        white: for a user's own folder of images of more than 8 bits: the value that is white.
        keep_weights: of the best run of each arm.
        workdir: the study's directory; empty for one derived from the config's name and hash.
        name: of the study.
    """

    source: str
    data: str
    methods: dict[str, ArmConfig]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
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
        """Return the (budget, seed) cells of an arm, given how many labels the data has."""
        budgets, seeds = list(self.budgets), list(self.seeds)
        if self.grid == "quick":
            budgets = [b for b in budgets if arm.largest_budget is None or b <= arm.largest_budget]
            seeds = seeds[: arm.first_seeds]
        elif arm.all_labels and available not in budgets:
            budgets.append(available)
        return [(budget, seed) for budget in budgets for seed in seeds]

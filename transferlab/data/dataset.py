"""``dataset``: examples with ids and label names, deduplicated, split once, cut to nested subsets of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Int

from transferlab import notebook
from transferlab.compute.host import interruptible
from transferlab.data.columns import Target
from transferlab.data.examples import Examples, Modality, read_folder, read_registered, read_table
from transferlab.data.labels import LabelKind
from transferlab.data.levels import check_white
from transferlab.data.splits import deduplicated, set_apart, stratified_order
from transferlab.errors import TransferlabError, check_arguments, nearest
from transferlab.reading import reading


@dataclass(frozen=True, repr=False)
class Dataset:
    """A target task's data, as :func:`dataset` opens it.

    Attributes:
        name: by which it was opened.
        modality: ``text`` or ``image``.
        target: what examples are compared with: classes, numbers or tags; see :mod:`transferlab.data.columns`.
        records: random access; ``records[i]`` is ``{"id", "text" or "image" (uint8, height × width × 3)}`` and
            ``"label"``, ``"target"`` or ``"tags"``.
        ids: of all examples.
        train, validation, test: indices into ``records``; they never overlap.
        sha256: of ids, labels and contents, after duplicates were removed.
        duplicates_removed: number of exact duplicates dropped before splitting.
        conflicting: how many of those had another label than the example that was kept.
        about: license and citation; for a folder, which files were ``passed_over``.
        text_column: of the table that it was read from.
        notes: clauses on oddities, such as empty texts; they are part of the summary.

    Example:
        >>> data = tl.dataset("digits", test_examples=300)
        >>> data.subset(50, seed=0)
        Dataset('digits': 1,797 images of 10 labels (0, 1, 2, 3, 4, …): 50 to train, 300 to test, ...
    """

    name: str
    modality: Modality
    target: Target
    records: Sequence[dict[str, Any]] = field(compare=False)
    ids: tuple[str, ...] = field(compare=False)
    train: Int[np.ndarray, " train"] = field(compare=False)
    validation: Int[np.ndarray, " validation"] = field(compare=False)
    test: Int[np.ndarray, " test"] = field(compare=False)
    sha256: str
    duplicates_removed: int = 0
    conflicting: int = 0
    about: dict[str, str] = field(default_factory=dict, compare=False)
    text_column: str | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}: {self.summary})"

    def _repr_html_(self) -> str:
        """The summary, and the first training examples: what a notebook shows."""
        rows = [dict(self.records[int(i)]) for i in self.train[:5]]
        if self.target.kind == "classes":
            rows = [{**row, "label": self.label_names[row["label"]]} for row in rows]
        return notebook.table(f"{self.name}: {self.summary}", rows)

    @property
    def labels(self) -> Int[np.ndarray, " examples"]:
        """Of all examples: the index of its class.

        Raises:
            TransferlabError: the target is no class of each example.
        """
        return self.target.classes().values

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes.

        Raises:
            TransferlabError: the target is no class of each example.
        """
        return self.target.classes().names

    @property
    def summary(self) -> str:
        """How the data was read, in one line: ``400 images of 2 labels (cat, dog): 320 to train, 80 to test, stratified``."""
        parts = [(len(self.train), "train"), (len(self.validation), "validate"), (len(self.test), "test")]
        split = ", ".join(f"{n:,} to {what}" for n, what in parts if n or what != "validate")
        used = sum(n for n, _ in parts)
        rest = f"; {len(self.ids) - used:,} are not used" if used < len(self.ids) else ""
        half = (
            "; half of the data is tested, test_examples sets how many"
            if 2 * len(self.test) >= len(self.ids) - 1
            else ""
        )
        other = f" ({self.conflicting:,} with another label than the one kept)" if self.conflicting else ""
        several = "duplicates" if self.duplicates_removed > 1 else "duplicate"
        copies = f", {self.duplicates_removed:,} {several} left out{other}" if self.duplicates_removed else ""
        notes = "".join(f"; {note}" for note in self.notes)
        return (
            f"{len(self.ids):,} {self.modality}s of {self.target.summary}{copies}: {split}, "
            f"stratified{half}{rest}{notes}"
        )

    @check_arguments
    def subset(self, examples: int, seed: int) -> Dataset:
        """Return the same data with ``examples`` labels for training, validation included.

        Subsets of one seed are nested, and each is as close to the class proportions as whole examples allow. To take
        validation examples out of a subset, see :meth:`hold_out`.

        Raises:
            TransferlabError: more labels than there are, or a subset of a single class.

        Example:
            >>> small = tl.dataset("digits").subset(50, seed=0)
        """
        if not isinstance(examples, Integral):
            raise TransferlabError(f"examples is {examples!r}; it must be an integer number of labels.")
        if examples > len(self.train):
            raise TransferlabError(f"examples is {examples}; '{self.name}' has {len(self.train)} labels for training.")
        if examples < 1:
            raise TransferlabError(f"examples is {examples}; it must be at least 1.")
        chosen = self.train[stratified_order(self.target.strata()[self.train], seed, examples)[:examples]]
        self.target.take(chosen).check(f"{examples} labels of '{self.name}'")
        return replace(self, train=chosen)

    @check_arguments
    def hold_out(self, fraction: float, seed: int) -> Dataset:
        """Return the same data with a stratified part of the training labels, at least one, set aside for validation.

        Raises:
            TransferlabError: a fraction outside (0, 1), or too few labels.

        Example:
            >>> data = tl.dataset("digits").subset(50, seed=0).hold_out(0.2, seed=0)
            >>> len(data.train), len(data.validation)
            (40, 10)
        """
        if not 0 < fraction < 1:
            raise TransferlabError(f"fraction is {fraction}; it must be between 0 and 1, both excluded.")
        size = max(1, round(fraction * len(self.train)))
        if size >= len(self.train):
            raise TransferlabError(
                f"'{self.name}' has too few labels, {len(self.train)}, to hold some out for validation."
            )
        order = set_apart(self.target.strata()[self.train], seed + 1_000_003, size)
        return replace(self, validation=np.sort(self.train[order[:size]]), train=self.train[np.sort(order[size:])])

    def describe(self) -> dict[str, Any]:
        """Return counts, and how the data was read in one line (``summary``), as plain data."""
        return {
            "summary": self.summary,
            "examples": len(self.ids),
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
            "duplicates_removed": self.duplicates_removed,
            "duplicates_with_another_label": self.conflicting,
            **self.target.describe(),
            **self.about,
        }


@check_arguments
@interruptible()
def dataset(
    name: str | Path,
    *,
    examples: int | None = None,
    seed: int = 0,
    test_examples: int = 1000,
    split_seed: int = 0,
    text_column: str = "text",
    label_column: str | Sequence[str] = "label",
    label_kind: str = "auto",
    separator: str | None = None,
    white: float | int | None = None,
) -> Dataset:
    """Open a data set.

    Exact duplicates (of texts: after unescaping HTML, folding case and white space) are removed before the split; the
    first stays. The test split is stratified, drawn by ``split_seed``, and the same for every budget;
    ``print(data)`` shows its size.

    Args:
        name: a registered name (``tweets``), a table (``.csv``, ``.tsv``, ``.jsonl``) with a text and a label column in
            its header, or a folder with one sub-folder of images per label.
        examples: how many labels to train with, in all; None keeps every one.
        seed: of the subset.
        test_examples: size of the test split, which is at most half of the data.
        split_seed: of the split.
        text_column: of a table.
        label_column: of a table, or several columns of numbers. Integers of at most 20 values, each in at least two rows, are
            classes; other numbers are a regression; lists are tags.
        label_kind: ``classes``, ``numbers`` or ``tags`` where that rule is not meant.
        separator: between the tags in a cell.
        white: of a folder: the value of white in images of more than 8 bits, such as 4095 for 12 bits; see
            :func:`~transferlab.data.images.read_image`.

    Raises:
        TransferlabError: an unknown name, an unreadable row or file (named), a missing label (its row is named), a
            column of free text, a single class, too few examples, or an argument that
            does not apply to this kind of data.

    Example:
        >>> data = tl.dataset("digits", examples=50, seed=0)
        >>> data.modality, len(data.train), len(data.test)
        ('image', 50, 898)
    """
    from transferlab.data.builders import DATASETS

    for field_name, value, least in (
        ("test_examples", test_examples, 1),
        ("seed", seed, 0),
        ("split_seed", split_seed, 0),
    ):
        if not isinstance(value, Integral) or value < least:
            raise TransferlabError(f"{field_name} is {value!r}; it must be an integer of at least {least}.")
    if label_kind not in get_args(LabelKind):
        raise TransferlabError(f"label_kind is {label_kind!r}.{nearest(str(label_kind), get_args(LabelKind))}")
    columns = (label_column,) if isinstance(label_column, str) else tuple(label_column)
    if not columns or len(set(columns)) < len(columns):
        raise TransferlabError(
            f"label_column is {label_column!r}; it must be a column's name, or several different ones."
        )
    if separator is not None and (not separator or label_kind not in ("auto", "tags")):
        raise TransferlabError(
            f"separator is {separator!r} and label_kind is {label_kind!r}; a separator is a text between the tags in a cell."
        )
    text = str(name)
    path = Path(text).expanduser()
    kind = "named" if text in DATASETS else "folder" if path.is_dir() else "table"
    if white is not None:
        check_white(white)
        if kind != "folder":
            raise TransferlabError(
                f"white is {white!r}, but '{text}' is not a folder of images, to which it applies. Leave it out:\n"
                f"  >>> tl.dataset({text!r})"
            )
    for field_name, value, usual in (
        ("text_column", text_column, "text"),
        ("label_column", label_column, "label"),
        ("label_kind", label_kind, "auto"),
        ("separator", separator, None),
    ):
        if kind != "table" and value != usual:
            raise TransferlabError(
                f"{field_name} is {value!r}, but '{text}' is a {'folder of images' if kind == 'folder' else 'named data set'} "
                f"and not a table. Leave it out:\n  >>> tl.dataset({text!r})"
            )
    if kind == "named":
        whole = read_registered(text)
    elif kind == "folder":
        with reading(path):
            whole = read_folder(path, white)
    elif path.exists():
        with reading(path):
            whole = read_table(path, text_column, columns, label_kind, separator)
    elif path.suffix or "/" in text:
        raise TransferlabError(f"There is no file or folder '{text}'.")
    else:
        raise TransferlabError(f"Unknown data set '{text}'.{nearest(text, DATASETS)} Or give a table or a folder.")
    data = _split(whole, test_examples, split_seed)
    return data if examples is None else data.subset(examples, seed)


def _split(whole: Examples, test_examples: int, split_seed: int) -> Dataset:
    unique = deduplicated(whole)
    n_test = min(test_examples, len(unique.kept) // 2)
    order = set_apart(unique.target.strata(), split_seed + 2_000_003, n_test)
    return Dataset(
        whole.name, whole.modality, unique.target, _View(whole.records, unique.kept), unique.ids,
        train=np.sort(order[n_test:]), validation=np.zeros(0, np.int64), test=np.sort(order[:n_test]),
        sha256=unique.sha256, duplicates_removed=unique.duplicates, conflicting=unique.conflicting, about=whole.about,
        text_column=whole.text_column, notes=unique.notes,
    )  # fmt: skip


class _View(Sequence[dict[str, Any]]):
    """Part of a sequence, chosen by index."""

    def __init__(self, records: Sequence[dict[str, Any]], kept: Sequence[int]):
        self._records, self._kept = records, list(kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: Any) -> Any:
        return self._records[self._kept[int(index)]]

"""``dataset``: examples with ids and targets, deduplicated, split once, cut to nested subsets of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, get_args

import numpy as np
from jaxtyping import Int

from transferlab import notebook
from transferlab.compute.host import interruptible
from transferlab.data.columns import Target
from transferlab.data.contents import examples_of
from transferlab.data.examples import Content, Examples, Modality
from transferlab.data.labels import LabelKind
from transferlab.data.levels import check_white
from transferlab.data.missing import Missing, complete
from transferlab.data.readers.base import Documents, Options, Table
from transferlab.data.roles import AUTO, Asked, roles_of
from transferlab.data.sources import read_source
from transferlab.data.splits import deduplicated, held_out, parts_of, stratified_order, tags_not_trained
from transferlab.errors import TransferlabError, check_arguments, nearest

NOUNS: dict[Content, str] = {
    "text": "text",
    "pair": "pair",
    "words": "sentence",
    "image": "image",
    "audio": "sound",
    "array": "array",
}
"""What an example of each content is called."""


@dataclass(frozen=True, repr=False)
class Dataset:
    """A target task's data, as :func:`dataset` opens it.

    Attributes:
        name: by which it was opened.
        content: what an example holds: ``text``, ``pair`` (two texts), ``words``, ``image`` or ``audio``.
        target: what examples are compared with: classes, numbers or tags; see :mod:`transferlab.data.columns`.
        records: random access; ``records[i]`` is ``{"id"}`` with its content (:data:`transferlab.data.examples.Content`) and its
            target: ``"label"``, ``"target"``, ``"tags"``, ``"word_tags"``, ``"target_text"`` or nothing.
        ids: of all examples.
        train, validation, test: indices into ``records``; they never overlap.
        sha256: of ids, labels and contents, after duplicates were removed.
        duplicates_removed: number of exact duplicates dropped before splitting.
        conflicting: how many of those had another label than the example that was kept.
        about: license and citation; for a folder, which files were ``passed_over``.
        columns: of the table that it was read from: role (``content``, ``target``) → names.
        notes: clauses on what was guessed and on oddities, such as empty texts; they are part of the summary.
        groups: of each example, what names its group, if examples were grouped.
        how: the splits were made.

    Example:
        >>> data = tl.dataset("digits", test_examples=300)
        >>> data.subset(50, seed=0)
        Dataset('digits': 1,797 images of 10 labels (0: 178, 1: 182, 2: 177, 3: 183, 4: 181, …): 50 to train, 300 to test, ...
    """

    name: str
    content: Content
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
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    groups: np.ndarray | None = field(default=None, compare=False)
    how: str = field(default="stratified", compare=False)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}: {self.summary})"

    def _repr_html_(self) -> str:
        """The summary, and the first training examples: what a notebook shows."""
        rows = [dict(self.records[int(i)]) for i in self.train[:5]]
        if self.target.kind == "classes":
            rows = [{**row, "label": self.label_names[row["label"]]} for row in rows]
        return notebook.table(f"{self.name}: {self.summary}", rows)

    @property
    def modality(self) -> Modality:
        """What a model reads of it: ``text``, ``image``, ``audio`` or ``array``."""
        return self.content if self.content in ("image", "audio", "array") else "text"

    @property
    def text_column(self) -> str | None:
        """The column of the text, or of a pair's first; None where it is no table of texts."""
        return next(iter(self.columns.get("content", ())), None) if self.modality == "text" else None

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
        """How the data was read, in one line: ``400 images of 2 labels (cat: 200, dog: 200): 320 to train, 80 to test, stratified``."""
        parts = [(len(self.train), "train"), (len(self.validation), "validate"), (len(self.test), "test")]
        split = ", ".join(f"{n:,} to {what}" for n, what in parts if n or what != "validate")
        used = sum(n for n, _ in parts)
        rest = f"; {len(self.ids) - used:,} are not used" if used < len(self.ids) else ""
        said = self.how == "as given" or "half" in self.how
        halved = not said and 2 * len(self.test) >= len(self.ids) - 1 > 0
        half = "; half of the data is tested, test_examples sets how many" if halved else ""
        other = f" ({self.conflicting:,} with another label than the one kept)" if self.conflicting else ""
        several = "duplicates" if self.duplicates_removed > 1 else "duplicate"
        copies = f", {self.duplicates_removed:,} {several} left out{other}" if self.duplicates_removed else ""
        notes = "".join(f"; {note}" for note in self.notes)
        joint = ", " if self.target.kind in ("texts", "none") else " of "
        return (
            f"{len(self.ids):,} {NOUNS[self.content]}{'s' if len(self.ids) != 1 else ''}{joint}{self.target.summary}{copies}: {split}, "
            f"{self.how}{half}{rest}{notes}"
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
        groups = None if self.groups is None else self.groups[self.train]
        held, rest = held_out(self.target.strata()[self.train], seed + 1_000_003, size, groups)
        return replace(self, validation=np.sort(self.train[held]), train=self.train[rest])

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
    source: Any,
    *,
    text: str | int | Sequence[str | int] | None = None,
    target: str | int | Sequence[str | int] | None = AUTO,
    words: str | int | None = None,
    image: str | int | None = None,
    audio: str | int | None = None,
    array: str | int | None = None,
    groups: str | int | None = None,
    splits: str | int | None = None,
    examples: int | None = None,
    seed: int = 0,
    test_examples: int | None = None,
    split_seed: int = 0,
    label_kind: str = "auto",
    separator: str | None = None,
    missing: str = "error",
    documents: str | None = None,
    white: float | int | None = None,
) -> Dataset:
    """Open a data set.

    Exact duplicates (of texts: after unescaping HTML, folding case and white space) are removed before the split; the
    first stays. The test split is stratified, drawn by ``split_seed``, and the same for every budget. Splits that are
    given are kept, and training examples that are also in another split are removed. ``print(data)`` says all of it.

    Args:
        source: a registered name (``tweets``), a table (``.csv``, ``.tsv``, ``.jsonl``, ``.json``), a folder with one
            sub-folder of images per label, a DataFrame, a dict of columns, a list of dicts; or one of these for each of
            ``train``, ``validation`` and ``test``, in a dict.
        text: the column of texts, or two columns whose texts are a pair. Without it, ``words``, ``image``, ``audio``
            and ``array``, the column ``text``, or the only one that holds texts, or arrays of floats.
        target: the column to predict, or several of numbers or, with ``label_kind="tags"``, of 0 and 1, a tag each; None for none. Without it, the column ``label``, or the only
            one that is left. Integers of at most 20 values, each in at least two rows, are classes; other numbers are a
            regression; lists are tags, and lists next to ``words`` a tag for each word.
        words: the column of words, as lists or with white space between them.
        image: the column of images: paths relative to the table's folder, or what an image's file holds.
        audio: the column of sounds, likewise; they keep their rate, and channels are averaged.
        array: the column of arrays of numbers, all of one shape, as features of your own: ``{"x": floats (rows, …), "label": …}``.
        groups: the column whose values stay on one side of every split, such as a user.
        splits: the column that says ``train``, ``validation`` or ``test``.
        examples: how many labels to train with, in all; None keeps every one.
        seed: of the subset.
        test_examples: size of the test split, which is at most half of the data. By default a fifth, at most 1000 and at
            least one for each class; of a registered set, 1000.
        split_seed: of the split.
        label_kind: ``classes``, ``numbers``, ``tags`` or ``text`` where that rule is not meant.
        separator: between the tags in a cell.
        missing: ``drop`` leaves out rows without a content, a target or a group, and counts them; they are an ``error``
            otherwise.
        documents: of a plain text: whether an example is a ``paragraph``, a ``line`` or the ``file``.
        white: of images: the value of white in those of more than 8 bits, such as 4095 for 12 bits; see
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
    for field_name, value, least in (
        ("test_examples", test_examples, 1),
        ("seed", seed, 0),
        ("split_seed", split_seed, 0),
    ):
        if value is not None and (not isinstance(value, Integral) or value < least):
            raise TransferlabError(f"{field_name} is {value!r}; it must be an integer of at least {least}.")
    for field_name, value, choices in (
        ("label_kind", label_kind, LabelKind),
        ("documents", documents, Documents),
        ("missing", missing, Missing),
    ):
        if value is not None and value not in get_args(choices):
            raise TransferlabError(f"{field_name} is {value!r}.{nearest(str(value), get_args(choices))}")
    if separator is not None and (not separator or label_kind not in ("auto", "tags")):
        raise TransferlabError(
            f"separator is {separator!r} and label_kind is {label_kind!r}; a separator is a text between the tags in a cell."
        )
    if white is not None:
        check_white(white)
    single = {"words": words, "image": image, "audio": audio, "array": array, "groups": groups, "splits": splits}
    columns = {argument: _name(argument, name) for argument, name in single.items()}
    asked = Asked(text=_names("text", text), target=_names("target", target), **columns)
    whole = read_source(source, Options(asked.columns, asked.label, documents, white))
    if isinstance(whole, Table):
        roles = roles_of(whole, asked)
        whole = examples_of(complete(whole, roles, missing), roles, label_kind, separator, white)
    else:
        usual = {"label_kind": "auto", "separator": None, "missing": "error"}
        given = {"label_kind": label_kind, "separator": separator, "missing": missing}
        _refuse(whole.name, asked.given | {name: value for name, value in given.items() if value != usual[name]})
    data = split(whole, test_examples, split_seed)
    return data if examples is None else data.subset(examples, seed)


def _refuse(name: str, given: Mapping[str, Any]) -> None:
    """Raise for arguments that are for tables, of a data set that has a name."""
    for argument, value in given.items():
        raise TransferlabError(
            f"{argument} is {value!r}, but '{name}' is a named data set and not a table. Leave it out:\n"
            f"  >>> tl.dataset({name!r})"
        )


def _names(argument: str, value: Any) -> Any:
    """One column's name, or several different ones as a tuple. A table without names, as a DataFrame may be, numbers its columns."""
    if value is None or isinstance(value, str):
        return value
    names: tuple[Any, ...] = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    names = tuple(str(name) if isinstance(name, Integral) and not isinstance(name, bool) else name for name in names)
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise TransferlabError(f"{argument} is {value!r}; it must be a column's name, or several different ones.")
    return names if len(names) > 1 else "".join(names)


def _name(argument: str, value: Any) -> str | None:
    """One column's name."""
    name = _names(argument, value)
    if isinstance(name, tuple):
        raise TransferlabError(f"{argument} is {value!r}; it must be the name of one column.")
    return name


def split(whole: Examples, test_examples: int | None = None, split_seed: int = 0) -> Dataset:
    """Return examples as a data set: without duplicates, and with the splits that are given, or a test split that is drawn.

    Raises:
        TransferlabError: no examples, a single target, no training examples, or given splits that do not go together.
    """
    unique = deduplicated(whole)
    parts, how = parts_of(unique, test_examples, split_seed, registered=not whole.columns)
    return Dataset(
        whole.name, whole.content, unique.target, _View(whole.records, unique.kept), unique.ids,
        train=parts["train"], validation=parts["validation"], test=parts["test"],
        sha256=unique.sha256, duplicates_removed=unique.duplicates, conflicting=unique.conflicting, about=whole.about,
        columns=whole.columns, notes=(*whole.notes, *unique.notes, *tags_not_trained(unique.target, parts)), groups=unique.groups, how=how,
    )  # fmt: skip


class _View(Sequence[dict[str, Any]]):
    """Part of a sequence, chosen by index."""

    def __init__(self, records: Sequence[dict[str, Any]], kept: Sequence[int]):
        self._records, self._kept = records, list(kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: Any) -> Any:
        return self._records[self._kept[int(index)]]

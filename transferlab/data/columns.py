"""Targets: what the examples of a data set are compared with, each kind as one array over all examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from transferlab.errors import TransferlabError

BINS = 10
"""Numbers are split in as many ranges, with equally many examples each, where a split keeps their proportions."""


@dataclass(frozen=True)
class Target:
    """Base of all kinds: names, and an array whose leading axis is the examples'.

    Attributes:
        names: classes, tags, or columns of numbers.
        values: of all examples.
    """

    names: tuple[str, ...]
    values: np.ndarray = field(compare=False, repr=False)

    kind: ClassVar[str] = ""

    def __len__(self) -> int:
        return len(self.values)

    def take(self, indices: Sequence[int] | np.ndarray) -> Target:
        """Return the same target of these examples."""
        return replace(self, values=self.values[np.asarray(indices, np.int64)])

    def key(self, index: int) -> str:
        """One example's target as text: part of what identifies a data set."""
        raise NotImplementedError

    def record(self, index: int) -> dict[str, Any]:
        """One example's target, as a field of its record."""
        raise NotImplementedError

    @property
    def header(self) -> list[Any]:
        """What identifies the column, as plain data."""
        return [self.kind, self.names]

    def strata(self) -> Int[np.ndarray, " examples"]:
        """A number for each example; splits hold each number in its proportion. By default all have the same."""
        return np.zeros(len(self), np.int64)

    def describe(self) -> dict[str, Any]:
        """Counts or ranges, as plain data; nothing of texts, or where there is no target."""
        return {}

    def check(self, where: str) -> None:
        """Raise a TransferlabError where nothing can be learned of it: a single class, or one number everywhere."""

    @property
    def summary(self) -> str:
        """As in ``400 images of 2 labels (cat: 200, dog: 200)``."""
        raise NotImplementedError

    def classes(self) -> Classes:
        """The same target as classes.

        Raises:
            TransferlabError: it cannot be read so.
        """
        raise TransferlabError(
            f"The target is {self.kind} ({_few(self.names)}), not a class of each example. If each value is one, open the data "
            "with label_kind='classes'."
        )

    def numbers(self) -> Numbers:
        """The same target as numbers.

        Raises:
            TransferlabError: it cannot be read so.
        """
        raise TransferlabError(f"The target is {self.kind} ({_few(self.names)}), not a number.")

    def tags(self) -> TagSets:
        """The same target as tags.

        Raises:
            TransferlabError: it cannot be read so.
        """
        raise TransferlabError(
            f"The target is {self.kind} ({_few(self.names)}), not tags. Tags are lists, or pass separator='|' to tl.dataset."
        )

    def word_tags(self) -> WordTags:
        """The same target as a tag for each word.

        Raises:
            TransferlabError: it cannot be read so.
        """
        raise TransferlabError(
            f"The target is {self.kind} ({_few(self.names)}), not a tag for each word: lists of words, and of as many tags."
        )

    def texts(self) -> Texts:
        """The same target as a text.

        Raises:
            TransferlabError: it cannot be read so.
        """
        raise TransferlabError(f"The target is {self.kind} ({_few(self.names)}), not a text.")

    def none(self) -> NoTarget:
        """No target: what is predicted is part of the example itself."""
        return NoTarget((), np.zeros((len(self), 0), np.int32))


@dataclass(frozen=True)
class Classes(Target):
    """One class an example; ``values`` are indices into ``names``, (examples,)."""

    values: Int[np.ndarray, " examples"] = field(compare=False, repr=False)
    kind: ClassVar[str] = "classes"

    @property
    def header(self) -> list[Any]:
        return [self.names]

    def key(self, index: int) -> str:
        return str(int(self.values[index]))

    def record(self, index: int) -> dict[str, Any]:
        return {"label": int(self.values[index])}

    def check(self, where: str) -> None:
        present = np.unique(self.values)
        if len(present) == 1:
            # One value does not say whether it is a class or a number.
            raise TransferlabError(
                f"{where}: the target is '{self.names[present[0]]}' in every example, so there is nothing to learn."
            )

    def strata(self) -> Int[np.ndarray, " examples"]:
        return self.values

    def describe(self) -> dict[str, Any]:
        counts = np.bincount(self.values, minlength=len(self.names))
        return {"labels": dict(zip(self.names, counts.tolist(), strict=True))}

    @property
    def summary(self) -> str:
        counts = np.bincount(self.values, minlength=len(self.names)).tolist()
        return f"{len(self.names):,} labels ({_few([f'{n}: {count:,}' for n, count in zip(self.names, counts, strict=True)])})"

    def classes(self) -> Classes:
        return self

    def numbers(self) -> Numbers:
        try:
            table = np.array([float(name) for name in self.names])
        except ValueError:
            return super().numbers()
        return Numbers(("label",), table[self.values][:, None])


@dataclass(frozen=True)
class Numbers(Target):
    """One number an example or several; ``values`` are float64 (examples, columns), ``names`` the columns."""

    values: Float[np.ndarray, "examples columns"] = field(compare=False, repr=False)
    kind: ClassVar[str] = "numbers"

    def key(self, index: int) -> str:
        return " ".join(float(value).hex() for value in self.values[index])

    def record(self, index: int) -> dict[str, Any]:
        return {"target": self.values[index].tolist()}

    def strata(self) -> Int[np.ndarray, " examples"]:
        # By the first column's rank: equal numbers stay together.
        first = self.values[:, 0]
        cuts = np.quantile(first, np.arange(1, BINS) / BINS, method="nearest") if len(first) else []
        return np.searchsorted(cuts, first, side="right").astype(np.int64)

    def describe(self) -> dict[str, Any]:
        statistics = (("smallest", np.min), ("mean", np.mean), ("largest", np.max))
        return {
            "targets": {
                name: {what: float(of(column)) for what, of in statistics}
                for name, column in zip(self.names, self.values.T, strict=True)
            }
        }

    def check(self, where: str) -> None:
        for column, values in zip(self.names, self.values.T, strict=True):
            if len(values) and (values == values[0]).all():
                raise TransferlabError(
                    f"{where}: {column} is {values[0]:g} in every example, so there is nothing to learn."
                )

    @property
    def summary(self) -> str:
        ranges = [f"{n} from {v.min():.4g} to {v.max():.4g}" for n, v in zip(self.names, self.values.T, strict=True)]
        return _few(ranges)

    def classes(self) -> Classes:
        # Fractions would be as many classes as rows, of which a test split has others than training saw.
        if len(self.names) > 1 or (self.values % 1).any():
            return super().classes()
        numbers, values = np.unique(self.values[:, 0], return_inverse=True)
        return Classes(tuple(f"{number:.12g}" for number in numbers), values.astype(np.int32))

    def numbers(self) -> Numbers:
        return self


@dataclass(frozen=True)
class TagSets(Target):
    """Any number of tags an example; ``values`` are bool (examples, tags)."""

    values: Bool[np.ndarray, "examples tags"] = field(compare=False, repr=False)
    kind: ClassVar[str] = "tags"

    def key(self, index: int) -> str:
        return json.dumps(np.flatnonzero(self.values[index]).tolist())

    def record(self, index: int) -> dict[str, Any]:
        return {"tags": [self.names[tag] for tag in np.flatnonzero(self.values[index])]}

    def strata(self) -> Int[np.ndarray, " examples"]:
        # By the rarest tag that an example has, so that rare ones come to all splits; -1 has none.
        counts = self.values.sum(0)
        order = np.argsort(counts, kind="stable")
        rarest = np.where(self.values.any(1), order[self.values[:, order].argmax(1)], -1)
        return rarest.astype(np.int64)

    def describe(self) -> dict[str, Any]:
        return {"tags": dict(zip(self.names, self.values.sum(0).tolist(), strict=True))}

    def check(self, where: str) -> None:
        if not len(self.names):
            raise TransferlabError(f"{where}: no example has a tag.")
        if len(self) > 1 and (self.values == self.values[0]).all():
            same = _few([self.names[tag] for tag in np.flatnonzero(self.values[0])]) or "none"
            raise TransferlabError(f"{where}: every example has the same tags ({same}), so there is nothing to learn.")

    def tags(self) -> TagSets:
        return self

    @property
    def summary(self) -> str:
        per = self.values.sum() / max(1, len(self.values))
        return (
            f"{len(self.names):,} tag{'' if len(self.names) == 1 else 's'} ({_few(self.names)}), {per:.1f} an example"
        )


@dataclass(frozen=True)
class WordTags(Target):
    """A tag for each word; ``values`` is an object array (examples,) of int32 arrays (words,), indices into ``names``, or -1 for
    a word that is neither trained on nor scored.
    """

    values: np.ndarray = field(compare=False, repr=False)
    kind: ClassVar[str] = "word_tags"

    def key(self, index: int) -> str:
        return json.dumps(self.values[index].tolist())

    def record(self, index: int) -> dict[str, Any]:
        return {"word_tags": [self.names[tag] if tag >= 0 else None for tag in self.values[index].tolist()]}

    def strata(self) -> Int[np.ndarray, " examples"]:
        # By the rarest tag of an example, as for tag sets.
        sets = np.zeros((len(self), len(self.names)), bool)
        for row, tags in zip(sets, self.values, strict=True):
            row[tags[tags >= 0]] = True
        return TagSets(self.names, sets).strata()

    def describe(self) -> dict[str, Any]:
        tags = np.concatenate([np.zeros(0, np.int32), *self.values])
        counts = np.bincount(tags[tags >= 0], minlength=len(self.names))
        return {"word_tags": dict(zip(self.names, counts.tolist(), strict=True))}

    def check(self, where: str) -> None:
        present = sum(count > 0 for count in self.describe()["word_tags"].values())
        if present < 2:
            raise TransferlabError(
                f"{where}: every word has the same tag ({_few(self.names)}); at least two are needed."
            )

    def word_tags(self) -> WordTags:
        return self

    @property
    def summary(self) -> str:
        words = sum(map(len, self.values))
        return f"{words:,} words with {len(self.names):,} tags ({_few(self.names)})"


@dataclass(frozen=True)
class Texts(Target):
    """A text for each example; ``values`` is an object array (examples,) of strings, ``names`` the column."""

    values: np.ndarray = field(compare=False, repr=False)
    kind: ClassVar[str] = "texts"

    def key(self, index: int) -> str:
        return json.dumps(self.values[index])

    def record(self, index: int) -> dict[str, Any]:
        return {"target_text": self.values[index]}

    def check(self, where: str) -> None:
        if len(self) > 1 and (self.values == self.values[0]).all():
            raise TransferlabError(
                f"{where}: {''.join(self.names)} is {self.values[0][:60]!r} in every example, so there is nothing to learn."
            )

    def texts(self) -> Texts:
        return self

    @property
    def summary(self) -> str:
        return f"the text '{''.join(self.names)}' to write"


@dataclass(frozen=True)
class NoTarget(Target):
    """Examples alone, from which a language model or a sentence encoder learns; ``values`` are empty (examples, 0)."""

    values: np.ndarray = field(compare=False, repr=False)
    kind: ClassVar[str] = "none"

    def key(self, index: int) -> str:
        return ""

    def record(self, index: int) -> dict[str, Any]:
        return {}

    def none(self) -> NoTarget:
        return self

    @property
    def summary(self) -> str:
        return "no target"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")

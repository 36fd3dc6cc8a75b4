"""Splits of examples: duplicates are removed, and orders have the class proportions in every prefix."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from transferlab.data.columns import Classes, Numbers, TagSets, Target, WordTags
from transferlab.data.examples import Examples, Split
from transferlab.errors import TransferlabError


def stratified_order(labels: Int[np.ndarray, " n"], seed: int, first: int | None = None) -> Int[np.ndarray, " n"]:
    """Return an order in which every prefix has each class in its proportion, as nearly as whole examples allow.

    The next example is of the class that is furthest below its proportion. Ties go to the class whose next example comes
    first when each class, shuffled, is spread evenly with half a stride before it.

    Args:
        labels: of all examples.
        seed: of the shuffles.
        first: the length up to which prefixes are needed; the rest follows in the even spread.
    """
    rng = np.random.default_rng([seed, 7])
    n, place = len(labels), np.zeros(len(labels))
    _, column, counts = np.unique(labels, return_inverse=True, return_counts=True)
    # The rows of each class are contiguous, from its start on.
    starts = np.cumsum(counts) - counts
    shuffled = np.concatenate([rng.permutation(count) for count in counts.tolist()]) if n else np.zeros(0, np.int64)
    within = np.arange(n) - np.repeat(starts, counts)
    rows = np.argsort(column, kind="stable")
    place[rows[np.repeat(starts, counts) + shuffled]] = (within + 0.5) / np.repeat(counts, counts)
    even = np.lexsort((rng.random(n), place))
    # The examples of each class, by their position in the even spread.
    waiting, ends = np.argsort(column[even], kind="stable"), (starts + counts).tolist()
    # Among classes of the same size, the next is the one that had fewest, then the one whose next example comes first. There
    # is a heap for each size, so that a step looks at as many classes as there are sizes.
    sizes = np.unique(counts)
    heaps: list[list[tuple[int, int, int]]] = [[] for _ in sizes]
    for label, (size, start) in enumerate(zip(np.searchsorted(sizes, counts).tolist(), starts.tolist(), strict=True)):
        heaps[size].append((0, int(waiting[start]), label))
    for heap in heaps:
        heapq.heapify(heap)
    taken, ahead = np.zeros(len(sizes), np.int64), np.array([heap[0][1] for heap in heaps], np.int64)
    chosen: list[int] = []
    never = np.iinfo(np.int64).min
    for k in range(1, (n if first is None else min(first, n)) + 1):
        lacks = np.where(ahead < n, k * sizes - taken * n, never)
        most = np.flatnonzero(lacks == lacks.max())
        size = most[ahead[most].argmin()]
        done, position, label = heapq.heappop(heaps[size])
        chosen.append(position)
        following = ends[label] - int(counts[label]) + done + 1
        if following < ends[label]:
            heapq.heappush(heaps[size], (done + 1, int(waiting[following]), label))
        taken[size], ahead[size] = heaps[size][0][:2] if heaps[size] else (0, n)
    rest = np.ones(n, bool)
    rest[chosen] = False
    return np.concatenate([even[chosen], even[rest]]) if chosen else even


def set_apart(labels: Int[np.ndarray, " n"], seed: int, size: int) -> Int[np.ndarray, " n"]:
    """Return an order whose first ``size`` examples are set aside; the only example of a class comes last, for training."""
    _, column, counts = np.unique(labels, return_inverse=True, return_counts=True)
    several = counts[column] > 1
    order = np.flatnonzero(several)[stratified_order(labels[several], seed, size)]
    return np.concatenate([order, np.flatnonzero(~several)])


def held_out(
    labels: Int[np.ndarray, " n"], seed: int, size: int, groups: np.ndarray | None = None
) -> tuple[Int[np.ndarray, " held"], Int[np.ndarray, " rest"]]:
    """Return the positions of ``size`` examples that are held out, and of the rest, each in order.

    With groups, whole groups are held out: as many as fit, in proportions as near to the classes' as one pass over them finds.

    Args:
        labels: of all examples.
        seed: of the draw.
        size: how many are held out, or at most, with groups.
        groups: of all examples, what names the group of each.

    Raises:
        TransferlabError: a single group.
    """
    if groups is None:
        order = set_apart(labels, seed, size)
        return np.sort(order[:size]), np.sort(order[size:])
    members: dict[Any, list[int]] = {}
    for place, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(place)
    if len(members) < 2:
        raise TransferlabError(
            f"Every example is of the group {next(iter(members), None)!r}: it cannot be on both sides of a split."
        )
    rng = np.random.default_rng([seed, 11])
    several = list(members.values())
    # Large groups first: small ones fill what they leave.
    order = sorted(rng.permutation(len(several)).tolist(), key=lambda group: -len(several[group]))
    _, column, counts = np.unique(labels, return_inverse=True, return_counts=True)
    wanted, taken = counts * (size / max(1, len(labels))), np.zeros(len(counts), np.int64)
    chosen: list[int] = []
    for strict in (True, False):
        done = set(chosen)
        for group in (group for group in order if group not in done):
            classes, more = np.unique(column[several[group]], return_counts=True)
            after = taken[classes] + more
            nearer = ((after - wanted[classes]) ** 2).sum() <= ((taken[classes] - wanted[classes]) ** 2).sum()
            if taken.sum() + more.sum() <= size and (after < counts[classes]).all() and (nearer or not strict):
                chosen.append(group)
                taken[classes] = after
    chosen = chosen or [order[-1]]
    held = np.sort(np.concatenate([several[group] for group in chosen]))
    return held, np.setdiff1d(np.arange(len(labels)), held)


@dataclass(frozen=True)
class Unique:
    """The examples left once duplicates are removed; the first of several stays.

    Given splits keep what they test and validate; training examples that are also there are duplicates.

    Attributes:
        kept: index of each example.
        ids, target, groups, splits: of those.
        sha256: of ids, targets and what a model reads, with the kind of content and the names of the target.
        duplicates, conflicting: how many were removed, and how many of these had another target than the one that stays.
        notes: clauses on oddities: empty texts, labels that have no examples left or differ only in case, duplicates across
            splits.
    """

    kept: list[int]
    ids: tuple[str, ...]
    target: Target
    groups: np.ndarray | None
    splits: np.ndarray | None
    sha256: str
    duplicates: int
    conflicting: int
    notes: tuple[str, ...]


def deduplicated(examples: Examples) -> Unique:
    """Remove exact duplicates.

    Raises:
        TransferlabError: no examples, or all of them with the same target.
    """
    target, splits = examples.target, examples.splits
    digest = hashlib.sha256(json.dumps([examples.content, *target.header]).encode())
    held = {} if splits is None else _held(examples, splits)
    if splits is not None:
        digest.update(json.dumps(splits.tolist()).encode())
    # An example that is both tested and validated has the target that it is tested with.
    seen: dict[bytes, str] = {content: key for found in held.values() for content, key in found.items()}
    across = dict.fromkeys(SHARED, 0)
    kept, ids = [], []
    duplicates = conflicting = empty = 0
    for i in range(len(examples.records)):
        name, content, read = examples.identify(i)
        key = target.key(i)
        empty += not content
        own = "train" if splits is None else splits[i]
        for one, other in SHARED:
            across[one, other] += one == own and content in held.get(other, ())
        if own == "train":
            if content in seen:
                duplicates += 1
                conflicting += seen[content] != key
                continue
            seen[content] = key
        kept.append(i)
        ids.append(name)
        # Not what duplicates have in common: a cased model distinguishes texts that differ only in case.
        digest.update(f"\0{name}\0{key}\0{len(read)}\0".encode() + read)
    if not kept:
        raise TransferlabError(f"'{examples.name}' has no examples.")
    rest = target.take(kept)
    gone = _without_examples(target, rest)
    try:
        rest.check(f"'{examples.name}'")
    except TransferlabError as error:
        raise TransferlabError(f"{error} ({'; '.join(gone)})" if gone else str(error)) from None
    if empty:
        gone.insert(0, f"{empty:,} texts are empty, of which one is kept" if empty > 1 else "1 text is empty")
    alike = _alike_but_for_case(target.names) if isinstance(target, Classes) else _may_be_classes(rest)
    groups = None if examples.groups is None else examples.groups[kept]
    return Unique(
        kept, tuple(ids), rest, groups, None if splits is None else splits[kept], digest.hexdigest(), duplicates, conflicting,
        (*_shared(across), *gone, *alike),
    )  # fmt: skip


SHARED: tuple[tuple[Split, Split], ...] = (("train", "test"), ("train", "validation"), ("validation", "test"))
"""Given splits that may share examples: those of the first that are also in the second are counted."""


def _held(examples: Examples, splits: np.ndarray) -> dict[str, dict[bytes, str]]:
    """By split: what is validated and what is tested, with its target."""
    held: dict[str, dict[bytes, str]] = {"validation": {}, "test": {}}
    for split, found in held.items():
        for i in np.flatnonzero(splits == split).tolist():
            found.setdefault(examples.identify(i)[1], examples.target.key(i))
    return held


def _shared(across: Mapping[tuple[str, str], int]) -> list[str]:
    """A clause for each pair of given splits that have examples in common; those that train are left out."""
    out = []
    for (one, other), count in across.items():
        noun = "training" if one == "train" else one
        verbs = ("was", "were") if one == "train" else ("is", "are")
        if count:
            out.append(
                f"{count:,} {noun} example{'s' if count > 1 else ''} {verbs[count > 1]} also in the {other} split"
            )
    return out


MOST_TESTED = 1000
"""Examples of a test split, unless the caller asks for more."""


def parts_of(
    unique: Unique, test_examples: int | None, seed: int, *, registered: bool = False
) -> tuple[dict[Split, Int[np.ndarray, " part"]], str]:
    """Return the indices of each split, and how they were made.

    Given splits are kept; a test split that is not given is drawn from the training examples.

    Args:
        unique: examples without duplicates.
        test_examples: size of a test split that is drawn, at most half. None is a fifth, at most 1000 and at least one for
            each class.
        seed: of the draw.
        registered: whether the default is 1000 examples, at most half, as it is for data sets with a name.

    Raises:
        TransferlabError: given splits without training examples, with a label in another split that training lacks, or with
            a group on both sides; a size or a seed of a draw where a test split is given.
    """
    everything = np.arange(len(unique.ids))
    given = unique.splits
    parts: dict[Split, Any] = {
        name: everything if given is None and name == "train" else np.flatnonzero(given == name) if given is not None else everything[:0]
        for name in ("train", "validation", "test")
    }  # fmt: skip
    if given is not None:
        _check_given(unique, parts)
    if len(parts["test"]):
        for name, value in (("test_examples", test_examples), ("split_seed", seed or None)):
            if value is not None:
                raise TransferlabError(
                    f"{name} is {value}, but the test split is given ({len(parts['test']):,} examples), and none is drawn. Leave out "
                    f"{name}, or leave out the splits."
                )
        return parts, "as given"
    train, strata = parts["train"], unique.target.strata()
    n, half = len(train), len(train) // 2
    classes = len(np.unique(strata)) if isinstance(unique.target, Classes) else 1
    size = min(half, MOST_TESTED if registered else min(MOST_TESTED, max(round(n / 5), classes)))
    size = size if test_examples is None else min(half, test_examples)
    groups = None if unique.groups is None else unique.groups[train]
    held, rest = held_out(strata[train], seed + 2_000_003, size, groups)
    parts |= {"test": train[held], "train": train[rest]}
    if groups is not None:
        _check_labels(unique, parts, "Groups and labels coincide: draw the split without groups=, or from more groups.")
    how = "stratified" if len(np.unique(strata)) > 1 else "at random"
    how = f"{how}, by group" if groups is not None else how
    how = how if given is None else f"{how} from the training split given"
    capped = test_examples is not None and test_examples > half
    return parts, f"{how}, at most half (test_examples is {test_examples:,})" if capped else how


def _check_given(unique: Unique, parts: dict[Split, Any]) -> None:
    if not len(parts["train"]):
        gone = f" ({unique.duplicates:,} were duplicates of others)" if unique.duplicates else ""
        raise TransferlabError(
            f"No example is left in the training split{gone}. Give one named 'train', with examples that no other has."
        )
    _check_labels(unique, parts, "Remove them, or split anew: leave out the splits.")
    unique.target.take(parts["train"]).check("The training split as given")
    if (groups := unique.groups) is None:
        return
    for one, other in SHARED:
        both = sorted(set(groups[parts[one]]) & set(groups[parts[other]]))
        if both:
            noun = "training" if one == "train" else one
            raise TransferlabError(
                f"{len(both):,} groups, such as {both[0]!r}, are in the {noun} and the {other} split as given. Leave out "
                "groups=, or leave out the splits so that they are drawn by group."
            )


def _check_labels(unique: Unique, parts: dict[Split, Any], mending: str) -> None:
    """Check that every class that is tested or validated is trained."""
    target = unique.target
    if not isinstance(target, Classes):
        return
    for name in ("validation", "test"):
        lacking = np.setdiff1d(target.values[parts[name]], target.values[parts["train"]])
        if len(lacking):
            count = int(np.isin(target.values[parts[name]], lacking).sum())
            raise TransferlabError(
                f"The {name} split has the label '{target.names[lacking[0]]}', which no training example has "
                f"({count:,} such examples, of {len(lacking)} labels). {mending}"
            )


def tags_not_trained(target: Target, parts: Mapping[Split, Int[np.ndarray, " part"]]) -> list[str]:
    """A clause on tags that no training example has: they are scored, and never predicted."""
    if not isinstance(target, (TagSets, WordTags)):
        return []
    kind = "tags" if isinstance(target, TagSets) else "word_tags"
    counts = {name: target.take(part).describe()[kind] for name, part in parts.items()}
    lacking = [tag for tag in target.names if not counts["train"][tag] and sum(part[tag] for part in counts.values())]
    if not lacking:
        return []
    shown = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
    return [f"no training example has the tag{'s' if len(lacking) > 1 else ''} {shown}"]


def _without_examples(before: Target, after: Target) -> list[str]:
    """A clause on each label whose examples were all duplicates of others."""
    if not isinstance(before, Classes):
        return []
    labels, counts = np.unique(before.values, return_counts=True)
    left = set(after.values.tolist())
    gone = [
        f"label '{before.names[label]}': all {count} were duplicates of other examples"
        for label, count in zip(labels.tolist(), counts.tolist(), strict=True)
        if label not in left
    ]
    return gone if len(gone) <= 5 else [*gone[:4], f"and {len(gone) - 4:,} more labels"]


def _may_be_classes(target: Target) -> list[str]:
    """A clause on numbers that are 0 or 1 and the integers after it, most of them in several rows: classes have such numbers too."""
    if not isinstance(target, Numbers) or len(target.names) > 1:
        return []
    found: Any = np.unique(target.values)
    if (
        found[0] not in (0, 1)
        or found[-1] - found[0] + 1 != len(found)
        or (found % 1).any()
        or 2 * len(found) > len(target)
    ):
        return []
    return [
        f"{''.join(target.names)}: {len(found):,} integers from {found[0]:.0f} to {found[-1]:.0f} are taken as numbers; if they are "
        "classes, pass label_kind='classes'"
    ]


def _alike_but_for_case(names: tuple[str, ...]) -> list[str]:
    """A clause on labels that may be the same; in some data, ``a`` and ``A`` are two classes, so they are not refused."""
    seen: dict[str, str] = {}
    pairs = [(other, name) for name in names if (other := seen.setdefault(name.casefold(), name)) != name]
    more = f" ({len(pairs):,} such pairs)" if len(pairs) > 1 else ""
    return [f"labels '{pairs[0][0]}' and '{pairs[0][1]}' differ only in case{more}"] if pairs else []

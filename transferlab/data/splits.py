"""Splits of examples: duplicates are removed, and orders have the class proportions in every prefix."""

from __future__ import annotations

import hashlib
import heapq
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from transferlab.data.columns import Classes, Numbers, Target
from transferlab.data.examples import Examples
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


@dataclass(frozen=True)
class Unique:
    """The examples left once duplicates are removed; the first of several stays.

    Attributes:
        kept: index of each example.
        ids, target: of those.
        sha256: of ids, targets and what a model reads, with the kind of content and the names of the target.
        duplicates, conflicting: how many were removed, and how many of these had another target than the one that stays.
        notes: clauses on oddities: empty texts, labels that have no examples left or differ only in case.
    """

    kept: list[int]
    ids: tuple[str, ...]
    target: Target
    sha256: str
    duplicates: int
    conflicting: int
    notes: tuple[str, ...]


def deduplicated(examples: Examples) -> Unique:
    """Remove exact duplicates.

    Raises:
        TransferlabError: no examples, or all of them with the same target.
    """
    target = examples.target
    digest = hashlib.sha256(json.dumps([examples.content, *target.header]).encode())
    seen: dict[bytes, str] = {}
    kept, ids = [], []
    duplicates = conflicting = empty = 0
    for i in range(len(examples.records)):
        name, content, read = examples.identify(i)
        key = target.key(i)
        empty += not content
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
    return Unique(kept, tuple(ids), rest, digest.hexdigest(), duplicates, conflicting, (*gone, *alike))


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

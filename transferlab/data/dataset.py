"""``dataset``: examples with ids and label names, deduplicated, split once, cut to nested subsets of labels."""

from __future__ import annotations

import hashlib
import heapq
import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int

from transferlab.compute.host import interruptible
from transferlab.data.labels import LabelKind, check_alike, ordered, read_labels
from transferlab.data.tables import checked_text, read_rows
from transferlab.errors import TransferlabError, check_arguments, nearest

Modality = Literal["text", "image"]


@dataclass(frozen=True, repr=False)
class Dataset:
    """A target task's data.

    Attributes:
        name: as it was asked for.
        modality: ``text`` or ``image``.
        label_names: the label of an example is an index into them.
        records: random access; ``records[i]`` is ``{"id", "text" or "image" (uint8, height × width × 3), "label"}``.
        ids: of all examples.
        labels: of all examples.
        train, validation, test: indices into ``records``; they never overlap.
        sha256: of ids, labels and contents, after duplicates were removed.
        duplicates_removed: exact duplicates dropped before splitting.
        conflicting: how many of those had another label than the one that was kept.
        about: licence and citation; of a folder, what was ``passed_over``.
        text_column: of the table that it was read from.
    """

    name: str
    modality: Modality
    label_names: tuple[str, ...]
    records: Sequence[dict[str, Any]] = field(compare=False)
    ids: tuple[str, ...] = field(compare=False)
    labels: Int[np.ndarray, " examples"] = field(compare=False)
    train: Int[np.ndarray, " train"] = field(compare=False)
    validation: Int[np.ndarray, " validation"] = field(compare=False)
    test: Int[np.ndarray, " test"] = field(compare=False)
    sha256: str
    duplicates_removed: int = 0
    conflicting: int = 0
    about: dict[str, str] = field(default_factory=dict, compare=False)
    text_column: str | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}: {self.summary})"

    @property
    def summary(self) -> str:
        """What was understood, in a line: ``400 images of 2 labels (cat, dog): 320 to train, 80 to test, stratified``."""
        names = ", ".join(self.label_names[:5]) + (", …" if len(self.label_names) > 5 else "")
        parts = [(len(self.train), "train"), (len(self.validation), "validate"), (len(self.test), "test")]
        split = ", ".join(f"{n:,} to {what}" for n, what in parts if n or what != "validate")
        used = sum(n for n, _ in parts)
        rest = f"; {len(self.labels) - used:,} are not used" if used < len(self.labels) else ""
        half = (
            "; half of the data is tested, test_examples sets how many"
            if 2 * len(self.test) >= len(self.labels) - 1
            else ""
        )
        copies = f", {self.duplicates_removed:,} duplicates left out" if self.duplicates_removed else ""
        return (
            f"{len(self.labels):,} {self.modality}s of {len(self.label_names):,} labels ({names}){copies}: {split}, "
            f"stratified{half}{rest}"
        )

    @check_arguments
    def subset(self, examples: int, seed: int) -> Dataset:
        """Return the same data with ``examples`` labels for training, validation included.

        Subsets of one seed are nested, and each is as close to the class proportions as whole examples can be.

        Raises:
            TransferlabError: more labels than there are, or a subset of a single class.
        """
        if not isinstance(examples, Integral):
            raise TransferlabError(f"A budget is a whole number of labels; {examples!r} was asked for.")
        if examples > len(self.train):
            raise TransferlabError(
                f"A budget of {examples} labels was asked for; '{self.name}' has {len(self.train)} for training."
            )
        if examples < 1:
            raise TransferlabError(f"A budget is at least one label; {examples} was asked for.")
        chosen = self.train[stratified_order(self.labels[self.train], seed, examples)[:examples]]
        present = {self.label_names[i] for i in set(self.labels[chosen].tolist())}
        if len(present) < 2:
            raise TransferlabError(
                f"{examples} labels of '{self.name}' are all '{present.pop()}'; a classifier needs two classes at least."
            )
        return replace(self, train=chosen)

    @check_arguments
    def hold_out(self, fraction: float, seed: int) -> Dataset:
        """Return the same data with a stratified part of the training labels, at least one, set aside for validation."""
        if not 0 < fraction < 1:
            raise TransferlabError(f"A share from 0 to 1 is held out; {fraction} was asked for.")
        held = max(1, round(fraction * len(self.train)))
        if held >= len(self.train):
            raise TransferlabError(f"{len(self.train)} labels are too few to hold some out for validation.")
        order = _set_apart(self.labels[self.train], seed + 1_000_003, held)
        return replace(self, validation=np.sort(self.train[order[:held]]), train=self.train[np.sort(order[held:])])

    def describe(self) -> dict[str, Any]:
        """Return counts, and what was understood in a line (``summary``), as plain data."""
        counts = np.bincount(self.labels, minlength=len(self.label_names))
        return {
            "summary": self.summary,
            "examples": len(self.labels),
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
            "duplicates_removed": self.duplicates_removed,
            "duplicates_with_another_label": self.conflicting,
            "labels": dict(zip(self.label_names, counts.tolist(), strict=True)),
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
    label_column: str = "label",
    label_kind: str = "auto",
    white: float | int | None = None,
) -> Dataset:
    """Open a data set.

    Exact duplicates (texts: after unescaping HTML, folding case and white space) are removed before the split, the
    first one stays. The test split is stratified, drawn by ``split_seed``, and the same for every budget;
    ``print(data)`` says how large it is.

    Args:
        name: a registry name (``tweets``), a table (``.csv``, ``.tsv``, ``.jsonl``) with a text and a label column, or
            a folder with one sub-folder of pictures per label.
        examples: how many labels to train with, in all; None keeps every one.
        seed: of the subset.
        test_examples: size of the test split; at most half of the data is used for it.
        split_seed: of the split.
        text_column: of a table.
        label_column: of a table. Numbers are classes if they are integers of at most 20 values, each in two rows or more.
        label_kind: ``classes`` takes each value of a table's label column as a class, however many there are.
        label_column: of a table.
        white: of a folder: the value that is white in pictures of more than 8 bits, as 4095 for 12 bits; see
            :func:`~transferlab.data.images.read_image`.

    Raises:
        TransferlabError: an unknown name, an unreadable row or file (named), a missing label (its row is named), a
            column that is a regression target, tags or free text, a single class, or too few examples.
    """
    from transferlab.data.builders import DATASETS

    for field_name, value, least in (
        ("test_examples", test_examples, 1),
        ("seed", seed, 0),
        ("split_seed", split_seed, 0),
    ):
        if not isinstance(value, Integral) or value < least:
            raise TransferlabError(f"{field_name} is {value!r}; it must be a whole number, at least {least}.")
    if label_kind not in get_args(LabelKind):
        raise TransferlabError(f"label_kind is {label_kind!r}.{nearest(str(label_kind), get_args(LabelKind))}")
    text = str(name)
    if white is not None:
        from transferlab.data.levels import check_white

        check_white(white)
        if text in DATASETS or not Path(text).expanduser().is_dir():
            raise TransferlabError(f"white is for a folder of pictures; '{text}' is none.")
    if text in DATASETS:
        whole = _named(text)
    else:
        path = Path(text).expanduser()
        if path.is_dir():
            whole = _folder(path, white)
        elif path.is_file():
            whole = _table(path, text_column, label_column, label_kind)
        elif path.suffix or "/" in text:
            raise TransferlabError(f"There is no file or folder '{text}'.")
        else:
            raise TransferlabError(f"Unknown data set '{text}'.{nearest(text, DATASETS)} Or give a table or a folder.")
    made = _split(whole, test_examples, split_seed)
    return made if examples is None else made.subset(examples, seed)


def stratified_order(labels: Int[np.ndarray, " n"], seed: int, first: int | None = None) -> Int[np.ndarray, " n"]:
    """Return an order of which every prefix holds each class in its proportion, as nearly as whole examples can.

    The next example is of the class that lacks most of its share. Where several lack as much, that one comes whose next
    example stands first when each class, shuffled, is spread evenly with half a stride before it.

    Args:
        labels: of all examples.
        seed: of the shuffles.
        first: the length up to which prefixes are asked for; the rest follows in the even spread.
    """
    rng = np.random.default_rng([seed, 7])
    n, place = len(labels), np.zeros(len(labels))
    _, column, counts = np.unique(labels, return_inverse=True, return_counts=True)
    # Each class's rows stand together, from its start on.
    starts = np.cumsum(counts) - counts
    shuffled = np.concatenate([rng.permutation(count) for count in counts.tolist()]) if n else np.zeros(0, np.int64)
    within = np.arange(n) - np.repeat(starts, counts)
    rows = np.argsort(column, kind="stable")
    place[rows[np.repeat(starts, counts) + shuffled]] = (within + 0.5) / np.repeat(counts, counts)
    even = np.lexsort((rng.random(n), place))
    # Each class's examples by where they stand in the even spread.
    waiting, ends = np.argsort(column[even], kind="stable"), (starts + counts).tolist()
    # Of classes of one size that one is next which had fewest, then whose next example stands first: a heap for each size,
    # so that a step looks at as many classes as there are sizes.
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


def _set_apart(labels: Int[np.ndarray, " n"], seed: int, size: int) -> Int[np.ndarray, " n"]:
    """Return an order whose first ``size`` are set aside: what is the only one of its class comes last, to be learned from."""
    _, column, counts = np.unique(labels, return_inverse=True, return_counts=True)
    several = counts[column] > 1
    order = np.flatnonzero(several)[stratified_order(labels[several], seed, size)]
    return np.concatenate([order, np.flatnonzero(~several)])


# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Whole:
    """All examples before deduplication and splitting."""

    name: str
    modality: Modality
    label_names: tuple[str, ...]
    records: Sequence[dict[str, Any]]
    content: Callable[[int], tuple[str, int, bytes, bytes]]
    """Index → (id, label, what makes two examples the same, what a model reads or its hash)."""
    about: dict[str, str]
    text_column: str | None = None


def _split(whole: _Whole, test_examples: int, split_seed: int) -> Dataset:
    digest = hashlib.sha256(json.dumps([whole.modality, whole.label_names]).encode())
    seen: dict[bytes, int] = {}
    kept, ids, labels = [], [], []
    duplicates = conflicting = 0
    for i in range(len(whole.records)):
        name, label, content, read = whole.content(i)
        if content in seen:
            duplicates += 1
            conflicting += seen[content] != label
            continue
        seen[content] = label
        kept.append(i)
        ids.append(name)
        labels.append(label)
        # Not by what makes two the same: a cased model reads texts apart that differ in case alone.
        digest.update(f"\0{name}\0{label}\0{len(read)}\0".encode() + read)
    if not labels:
        raise TransferlabError(f"'{whole.name}' holds no examples.")
    column = np.array(labels, np.int32)
    if len(set(labels)) < 2:
        only = whole.label_names[labels[0]]
        raise TransferlabError(f"'{whole.name}' has a single label, '{only}'; a classifier needs two classes at least.")
    n_test = min(test_examples, len(kept) // 2)
    order = _set_apart(column, split_seed + 2_000_003, n_test)
    return Dataset(
        whole.name, whole.modality, whole.label_names, _View(whole.records, kept), tuple(ids), column,
        train=np.sort(order[n_test:]), validation=np.zeros(0, np.int64), test=np.sort(order[:n_test]),
        sha256=digest.hexdigest(), duplicates_removed=duplicates, conflicting=conflicting, about=whole.about,
        text_column=whole.text_column,
    )  # fmt: skip


def _same_text(text: str) -> bytes:
    return " ".join(html.unescape(text).casefold().split()).encode()


def _same_image(image: np.ndarray) -> bytes:
    return hashlib.sha256(str(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()


class _View(Sequence[dict[str, Any]]):
    """Some of a sequence, by index."""

    def __init__(self, records: Sequence[dict[str, Any]], kept: Sequence[int]):
        self._records, self._kept = records, list(kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: Any) -> Any:
        return self._records[self._kept[int(index)]]


class _Lazy(Sequence[dict[str, Any]]):
    """``n`` records, each made when it is asked for."""

    def __init__(self, n: int, make: Callable[[int], dict[str, Any]]):
        self._n, self._make = n, make

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: Any) -> Any:
        return self._make(int(index))


def _named(name: str) -> _Whole:
    from transferlab.data.arrayrecord import data_source
    from transferlab.data.builders import DATASETS
    from transferlab.data.images import read_image

    entry = DATASETS[name]
    source = data_source(entry)
    # These sets are small: texts and encoded pictures are held in memory. TFDS shuffles by a hash when it writes;
    # sorted by id, the order does not hang on its version.
    stored = sorted(source.__getitems__(range(len(source))), key=lambda raw: raw["id"])

    def record(i: int) -> dict[str, Any]:
        raw = stored[i]
        content = _text(raw["text"]) if entry.modality == "text" else read_image(raw["image"])
        return {"id": _text(raw["id"]), entry.modality: content, "label": int(raw["label"])}

    def content(i: int) -> tuple[str, int, bytes, bytes]:
        raw = stored[i]
        if entry.modality == "image":
            # The builder encodes equal pictures to equal bytes.
            same = hashlib.sha256(raw["image"]).digest()
            return _text(raw["id"]), int(raw["label"]), same, same
        text = _text(raw["text"])
        return _text(raw["id"]), int(raw["label"]), _same_text(text), text.encode()

    about = {"licence": entry.licence, "citation": entry.citation, "version": entry.version}
    return _Whole(name, entry.modality, entry.labels, _Lazy(len(stored), record), content, about)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _table(path: Path, text_column: str, label_column: str, label_kind: str) -> _Whole:
    if text_column == label_column:
        raise TransferlabError(f"text_column and label_column are both '{text_column}'.")
    rows = read_rows(path, (text_column, label_column), label_column)
    texts = [(number, checked_text(row[text_column], f"{path}, row {number}")) for number, row in rows]
    given = [(number, row[label_column]) for number, row in rows]
    labels = read_labels(path, label_column, given, label_kind, path.suffix.lower() == ".jsonl")
    names = ordered(labels)
    index = {name: i for i, name in enumerate(names)}

    def record(i: int) -> dict[str, Any]:
        return {"id": f"row {texts[i][0]}", "text": texts[i][1], "label": index[labels[i]]}

    def content(i: int) -> tuple[str, int, bytes, bytes]:
        return f"row {texts[i][0]}", index[labels[i]], _same_text(texts[i][1]), texts[i][1].encode()

    return _Whole(str(path), "text", names, _Lazy(len(texts), record), content, {}, text_column)


def _folder(path: Path, white: float | int | None) -> _Whole:
    from transferlab.data.images import SUFFIXES, nested_pictures, passed_over, picture_files, read_image

    names = ordered(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    check_alike(str(path), names)
    pictures = {name: picture_files(path / name) for name in names}
    files = [(file, i) for i, name in enumerate(names) for file in pictures[name]]
    if not files:
        raise TransferlabError(f"{path} holds no pictures; expected {path}/<label>/*.png or .jpg.")
    if loose := picture_files(path):
        raise TransferlabError(
            f"{loose[0]} lies outside the folders of the labels ({path}/<label>/*); there are {len(loose)} such. Move them "
            "into their label's folder, or away."
        )
    for name, found in pictures.items():
        if deeper := nested_pictures(path / name):
            raise TransferlabError(
                f"{deeper[0]} lies a folder deeper than the pictures of a label ({path}/<label>/*); there are {len(deeper)} "
                "such. Move them up, or away."
            )
        if not found:
            raise TransferlabError(
                f"{path / name} holds no pictures ({', '.join(SUFFIXES)}), so nothing has the label '{name}'."
            )

    def record(i: int) -> dict[str, Any]:
        file, label = files[i]
        return {"id": str(file.relative_to(path)), "image": read_image(file, white), "label": label}

    def content(i: int) -> tuple[str, int, bytes, bytes]:
        one = record(i)
        same = _same_image(one["image"])
        return one["id"], one["label"], same, same

    others = passed_over([path / name for name in names])
    about = {"passed_over": others} if others else {}
    return _Whole(str(path), "image", names, _Lazy(len(files), record), content, about)

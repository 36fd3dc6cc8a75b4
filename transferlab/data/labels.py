"""Targets of a table: which columns are classes, numbers or tags; missing values and columns that are none are refused."""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from transferlab.data.columns import Classes, Numbers, TagSets, Target, Texts
from transferlab.data.literals import list_in
from transferlab.data.tables import checked_text
from transferlab.errors import TransferlabError

LabelKind = Literal["auto", "classes", "numbers", "tags", "text"]
"""Whether a column's values decide what they are (``auto``), or the caller states it; a ``text`` is to be written."""

MOST_CLASSES = 20
"""Integers of more distinct values are taken for a quantity; texts of more must repeat."""

_INSIST = "If each value is a class, pass label_kind='classes'; if it is a text to write, label_kind='text'."
LEAVE_OUT = "Fill it in, or leave such rows out: missing='drop'."
"""The end of an error about a row that lacks something."""
MISSING = {"nan", "-nan", "NaN", "-NaN", "NAN", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaT", "null", "NULL"}
"""Strings that pandas and spreadsheets write, and read, for a missing value."""
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?", re.ASCII)
"""A date of ISO 8601, with or without a time."""
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def read_target(
    path: str,
    columns: Mapping[str, Sequence[tuple[str, Any]]],
    kind: str = "auto",
    typed: bool = False,
    separator: str | None = None,
) -> Target:
    """Return the target of a table, of the kind that its values are.

    Integers of at most 20 distinct values, each in at least two rows, are classes; other numbers, and percentages, are
    numbers. Lists, or texts that ``separator`` splits, are tags. Other texts, and dates, are classes unless there are nearly as many as rows.
    Several columns are numbers, or with ``tags`` a tag each, 0 or 1. No column is no target. A text to be written is one only if ``kind`` says so.

    Args:
        path: the table's name, for errors.
        columns: by name: place (``row 5``) and value of each row.
        kind: ``classes``, ``numbers``, ``tags`` or ``text`` decides; ``auto`` applies the rule above.
        typed: whether the file tells numbers from texts, as JSON does: integers written as texts are then texts.
        separator: between the tags of a row.

    Raises:
        TransferlabError: a row without a target, or one that is not of the kind (it is named); two labels that look the
            same; a column of free text.
    """
    if len(columns) > 1 and kind in ("auto", "numbers"):
        return Numbers(tuple(columns), np.stack([_numbers(path, name, rows) for name, rows in columns.items()], axis=1))
    if len(columns) > 1 and kind == "tags":
        marks = [_marks(path, name, rows) for name, rows in columns.items()]
        return TagSets(tuple(columns), np.stack(marks, axis=1))
    if len(columns) > 1:
        raise TransferlabError(f"{path}: several columns ({', '.join(columns)}) are numbers; label_kind is '{kind}'.")
    ((name, values),) = columns.items()
    if kind == "text":
        texts = [checked_text(value, f"{path}, {row}: {name}") for row, value in values]
        return Texts((name,), np.array([*texts, None], object)[:-1])
    if kind == "numbers":
        return Numbers((name,), _numbers(path, name, values)[:, None])
    lists = [_tags(value, separator) for _, value in values]
    if kind == "tags" or separator is not None or (kind == "auto" and all(tags is not None for tags in lists)):
        return _tag_sets(path, values, lists)
    spelled, numbers = _classes(path, name, values, kind, typed)
    if numbers:
        return Numbers((name,), _numbers(path, name, values)[:, None])
    names = ordered(spelled)
    index = {label: i for i, label in enumerate(names)}
    return Classes(names, np.array([index[label] for label in spelled], np.int32))


def _numbers(path: str, column: str, values: Sequence[tuple[str, Any]]) -> Float[np.ndarray, " rows"]:
    """A column of numbers. All may be percentages, which are their numbers, or have a comma for the decimal point."""
    texts = [
        str(value) if isinstance(value, bool) else _spelled(value, f"{path}, {row}").strip() for row, value in values
    ]
    plain = [text.removesuffix("%").rstrip() for text in texts]
    commas = any("," in text for text in plain)
    percent = any(text.endswith("%") for text in texts)
    out = np.zeros(len(values))
    for place, ((row, _), text, number) in enumerate(zip(values, texts, plain, strict=True)):
        where = f"{path}, {row}: {column} is {text[:60]!r}"
        if commas and (_THOUSANDS.fullmatch(number) or "." in number):
            raise TransferlabError(
                f"{where}, and a comma may stand for thousands or for a point. Write numbers with a point alone."
            )
        found = _number(number.replace(",", ".", 1))
        if found is None:
            raise TransferlabError(f"{where}, where a finite number is expected.")
        if percent and found and not text.endswith("%"):
            raise TransferlabError(f"{where}, where other rows are percentages. Write all in one way.")
        out[place] = found
    return out


def _marks(path: str, column: str, values: Sequence[tuple[str, Any]]) -> Bool[np.ndarray, " rows"]:
    """A column that says which rows have a tag: 0 or 1, or false or true."""
    known = {"0": False, "1": True, "false": False, "true": True}
    texts = [_spelled(value, f"{path}, {row}").strip().lower() for row, value in values]
    texts = [text.removesuffix(".0") for text in texts]
    for (row, value), text in zip(values, texts, strict=True):
        if text not in known:
            raise TransferlabError(
                f"{path}, {row}: {column} is {str(value)[:60]!r}, where 0 or 1 says whether it has the tag."
            )
    return np.array([known[text] for text in texts], bool)


def _tags(value: Any, separator: str | None) -> list[str] | None:
    """The tags of a row: a list, a text that is a list as Python or JSON writes it, or what a separator splits; else None."""
    if isinstance(value, str) and separator is not None:
        return [part.strip() for part in value.split(separator) if part.strip()]
    if isinstance(value, str) and (items := list_in(value)) is not None:
        value = items
    elif isinstance(value, str) and value.strip()[:1] in ("[", "(", "{") and _is_list(value.strip()):
        value = ast.literal_eval(value.strip())
    if not isinstance(value, (list, tuple, set)):
        return None
    return [tag if isinstance(tag, str) else json.dumps(tag) for tag in value]


def _tag_sets(path: str, values: Sequence[tuple[str, Any]], lists: Sequence[list[str] | None]) -> TagSets:
    for (row, value), tags in zip(values, lists, strict=True):
        if tags is None:
            raise TransferlabError(
                f"{path}, {row}: the target is {str(value)[:60]!r}, where a list of tags is expected. If a character "
                "separates them, pass it: separator='|'."
            )
        for tag in tags:
            if not tag.strip():
                raise TransferlabError(f"{path}, {row}: a tag of {str(value)[:60]!r} is empty. Remove it.")
            _spelled(tag, f"{path}, {row}")
    check_alike(str(path), {tag: None for tags in lists for tag in tags or ()})
    names = ordered(tag for tags in lists for tag in tags or ())
    index = {tag: i for i, tag in enumerate(names)}
    table = np.zeros((len(lists), len(names)), bool)
    for row, tags in enumerate(lists):
        table[row, [index[tag] for tag in tags or ()]] = True
    return TagSets(names, table)


def _classes(
    path: str, column: str, values: Sequence[tuple[str, Any]], kind: str, typed: bool
) -> tuple[list[str], bool]:
    """The name of each row's class, and whether the rule takes the column for numbers instead."""
    spelled = [_spelled(value, f"{path}, {row}") for row, value in values]
    row_of: dict[str, str] = {}
    for text, (row, _) in zip(spelled, values, strict=True):
        row_of.setdefault(text, row)
    check_alike(str(path), row_of)
    _check_types(path, values, kind)
    names = {text: text.strip() for text in row_of}
    numbers = {text: number for text, name in names.items() if (number := _number(name)) is not None}
    words = [text for text in names if text not in numbers]
    if numbers and words and all(names[text].lower() in ("none", "na") for text in words):
        raise TransferlabError(f"{path}, {row_of[words[0]]}: the label is {words[0]!r}, where other rows have numbers.")
    whole = not words and all(number.is_integer() for number in numbers.values())
    if whole:
        # pandas writes integers as 1.0 where a column has gaps: 1.0 is the label 1.
        names = {text: str(int(numbers[text])) if re.search("[.eE]", name) else name for text, name in names.items()}
    _no_number_twice(path, {names[text]: number for text, number in numbers.items()})
    labels = [names[text] for text in spelled]
    counts = Counter(labels)
    if kind == "auto" and len(counts) > 1:
        texts = typed and whole and all(isinstance(value, str) for _, value in values)
        amounts = {text: amount for text in words if (amount := _amount(names[text]))}
        gaps = [text for text in words if text not in amounts]
        kinds = " and ".join(sorted({what for what, _ in amounts.values()} | ({"numbers"} if numbers else set())))
        if gaps and len(names) - len(gaps) > MOST_CLASSES:
            raise TransferlabError(
                f"{path}: {column}: {len(names) - len(gaps)} distinct {kinds} and also words, such as {gaps[0]!r} in "
                f"{row_of[gaps[0]]}: numbers with gaps. Remove these rows. {_INSIST}"
            )
        if gaps or texts:
            _check_texts(f"{path}: {column}", counts)
        elif amounts:
            whole = all(n.is_integer() for n in numbers.values()) and all(integer for _, integer in amounts.values())
            if not _are_classes(counts, whole):
                if "dates" in kinds:
                    raise TransferlabError(
                        f"{path}: {column}: {len(counts)} distinct {kinds} in {counts.total()} rows. Write each as a number, "
                        f"such as days since the first. {_INSIST}"
                    )
                return labels, True
        elif not _are_classes(counts, whole):
            return labels, True
    return labels, False


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Return each name once, sorted: numbers by value (2 before 10), anything else alphabetically."""
    names = sorted(set(names))
    numbers = [_number(name) for name in names]
    if None in numbers:
        return tuple(names)
    return tuple(name for _, name in sorted(zip(numbers, names, strict=True), key=lambda pair: pair[0] or 0.0))


def check_alike(where: str, names: Iterable[str]) -> None:
    """Check that no two labels look the same: a stray space would make a class of its own, and nobody would see why.

    Raises:
        TransferlabError: names that differ only in white space, in the encoding of an accent, or as ``True`` and ``true``.
    """
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", " ".join(name.split()))
        key = key.lower() if key.lower() in ("true", "false") else key
        if (other := seen.setdefault(key, name)) != name:
            same = other.split() == name.split()
            difference = "differ only in white space" if same else "are the same word in two spellings"
            raise TransferlabError(f"{where}: the labels {other!r} and {name!r} {difference}.")


def _check_types(path: str, values: Sequence[tuple[str, Any]], kind: str) -> None:
    """Raise where a column mixes ``true`` with numbers, which Python and most writers take for 1, or numbers with words."""
    truths = [(row, value) for row, value in values if isinstance(value, bool)]
    numbers = [(row, value) for row, value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    words = [(row, value) for row, value in values if isinstance(value, str) and _number(value.strip()) is None]
    what, mending = "true or false with numbers", "write one or the other."
    if kind == "auto" and words and not truths:
        truths, what = words, "texts with numbers"
        mending = "write all in one way, or pass label_kind='classes' if each value is a class."
    if truths and numbers:
        (row, value), (other, number) = truths[0], numbers[0]
        if len(truths) > len(numbers):
            (row, value), (other, number) = (other, number), (row, value)
        raise TransferlabError(
            f"{path}, {row}: the label is {json.dumps(value)}, but in {other} it is {json.dumps(number)}. A column "
            f"cannot mix {what}; {mending}"
        )


def _spelled(value: Any, where: str) -> str:
    """The name of a label. JSON has one kind of number, so 1.0 is 1; its ``true`` stays ``true``."""
    if isinstance(value, (list, dict)):
        raise TransferlabError(f"{where}: the label is {value!r}, where other rows have a single text or number.")
    if isinstance(value, float) and not math.isfinite(value):
        raise TransferlabError(
            f"{where}: the label is {json.dumps(value)}, which is neither a class nor a finite number."
        )
    if value is None or (isinstance(value, str) and not value.strip()):
        raise TransferlabError(f"{where}: the label is empty. {LEAVE_OUT}")
    if not isinstance(value, (str, int, float)):
        raise TransferlabError(f"{where}: the label is {str(value)[:60]!r}, which is neither a text nor a number.")
    if not isinstance(value, str):
        return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)
    text = value.strip()
    if text in MISSING:
        raise TransferlabError(
            f"{where}: the label is '{text}', which means a missing value. Fill it in or remove the row; a class of that "
            "name needs a longer one."
        )
    if text[0] + text[-1] in ("[]", "{}", "()") and _is_list(text):
        raise TransferlabError(f"{where}: the label is {text}, a list of tags, where other rows have a single label.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TransferlabError(f"{where}: the label contains half of a character (a lone surrogate).") from None
    return value


def _is_list(text: str) -> bool:
    if list_in(text) is not None:
        return True
    try:
        return isinstance(ast.literal_eval(text), (list, tuple, dict, set))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False


def _number(text: str) -> float | None:
    number = float(text) if _NUMBER.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None


def _amount(text: str) -> tuple[str, bool] | None:
    """What a text other than a plain number measures, and whether in integers: a percentage or a date; else None.

    Spreadsheets in many countries write ``0,5`` for 0.5, with ``;`` between fields.
    """
    if text.endswith("%") and (number := _number(text[:-1].rstrip())) is not None:
        return "percentages", number.is_integer()
    if "," in text and _NUMBER.fullmatch(text.replace(",", ".", 1)):
        return "numbers with commas", False
    return ("dates", True) if _DATE.fullmatch(text) else None


def _no_number_twice(path: str, numbers: dict[str, float]) -> None:
    seen: dict[float, str] = {}
    for name, number in numbers.items():
        # Beyond 2⁵³ adjacent integers are the same float; such labels are not written with a point.
        if abs(number) < 2**53 and (other := seen.setdefault(number, name)) != name:
            raise TransferlabError(f"{path}: the labels '{other}' and '{name}' are the same number.")


def _are_classes(counts: Counter[str], whole: bool) -> bool:
    """Whether numbers are classes: integers of few values, each in two rows or more."""
    return whole and len(counts) <= MOST_CLASSES and min(counts.values()) > 1


def _check_texts(where: str, counts: Counter[str]) -> None:
    rows = counts.total()
    what = f"{where}: {len(counts)} distinct texts in {rows} rows"
    if len(counts) == rows > 2 or (len(counts) > MOST_CLASSES and 2 * len(counts) > rows):
        raise TransferlabError(f"{what}: free text or identifiers, from which no task can learn. {_INSIST}")
    for separator in "|;,":
        if separator in "".join(counts) and _are_tags([name.split(separator) for name in counts]):
            example = next(name for name in counts if separator in name)
            raise TransferlabError(
                f"{what}, such as '{example}': tags separated by '{separator}'? Then pass separator={separator!r}. {_INSIST}"
            )


def _are_tags(labels: Sequence[Sequence[str]]) -> bool:
    """Whether labels combine tags: at least half of their parts recur, in labels of other lengths or at other positions.

    ``sports, men`` and ``shoes, men`` are paths in a tree of classes, where each level has its position.
    """
    positions: dict[str, set[int]] = {}
    counts: Counter[str] = Counter()
    for parts in labels:
        clean = [part.strip() for part in parts]
        counts.update(set(clean))
        for position, part in enumerate(clean):
            positions.setdefault(part, set()).add(position)
    recur = sum(count > 1 for count in counts.values())
    free = len({len(parts) for parts in labels}) > 1 or any(len(where) > 1 for where in positions.values())
    return free and 2 * recur >= len(counts)

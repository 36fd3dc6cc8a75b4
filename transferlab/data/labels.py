"""Labels of a table: each value is a class, by its name; missing labels and columns that are not classes are refused."""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from transferlab.errors import TransferlabError

LabelKind = Literal["auto", "classes"]
"""Whether a column's values decide if they are classes (``auto``), or the caller states that they are."""

MOST_CLASSES = 20
"""Integers of more distinct values are taken for a quantity; texts of more must repeat."""

_LATER = "only single-label classification is supported so far"
_INSIST = "If each value is a class, pass label_kind='classes'."
_MISSING = {"nan", "-nan", "NaN", "-NaN", "NAN", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaT", "null", "NULL"}
"""Strings that pandas and spreadsheets write, and read, for a missing value."""
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?", re.ASCII)
"""A date of ISO 8601, with or without a time."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def read_labels(
    path: Path, column: str, values: Sequence[tuple[int, Any]], kind: str = "auto", typed: bool = False
) -> list[str]:
    """Return the name of each row's class.

    Numbers are classes if they are integers of at most 20 distinct values, each in at least two rows; percentages, by
    their numbers, and dates too. Texts are classes unless there are nearly as many as rows, or they combine a few tags.

    Args:
        path: of the table, for errors.
        column: of the table, for errors.
        values: row number and value of each row.
        kind: ``classes`` takes numbers and texts of any number of values as classes.
        typed: whether the file tells numbers from texts, as JSON does: integers written as texts are then texts.

    Raises:
        TransferlabError: a row without a label, or with several (it is named); two labels that look the same; a column
            that is a regression target, tags or free text.
    """
    spelled = [_spelled(value, f"{path}, row {row}") for row, value in values]
    row_of: dict[str, int] = {}
    for text, (row, _) in zip(spelled, values, strict=True):
        row_of.setdefault(text, row)
    check_alike(str(path), row_of)
    _check_types(path, values)
    names = {text: text.strip() for text in row_of}
    numbers = {text: number for text, name in names.items() if (number := _number(name)) is not None}
    words = [text for text in names if text not in numbers]
    if numbers and words and all(names[text].lower() in ("none", "na") for text in words):
        raise TransferlabError(
            f"{path}, row {row_of[words[0]]}: the label is {words[0]!r}, where other rows have numbers."
        )
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
                f"{path}: {column}: {len(names) - len(gaps)} distinct {kinds} and also words, such as {gaps[0]!r} in row "
                f"{row_of[gaps[0]]}: a regression target with gaps; {_LATER}. {_INSIST}"
            )
        if gaps or texts:
            _check_texts(f"{path}: {column}", counts)
        elif amounts:
            whole = all(n.is_integer() for n in numbers.values()) and all(integer for _, integer in amounts.values())
            _check_numbers(f"{path}: {column}", counts, whole, kinds)
        else:
            _check_numbers(f"{path}: {column}", counts, whole, "integers" if whole else "numbers")
    return labels


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


def _check_types(path: Path, values: Sequence[tuple[int, Any]]) -> None:
    """Raise where a column has both JSON's ``true`` and numbers: Python and most writers take ``true`` for 1."""
    truths = [(row, value) for row, value in values if isinstance(value, bool)]
    numbers = [(row, value) for row, value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if truths and numbers:
        (row, value), (other, number) = truths[0], numbers[0]
        if len(truths) > len(numbers):
            (row, value), (other, number) = (other, number), (row, value)
        raise TransferlabError(
            f"{path}, row {row}: the label is {json.dumps(value)}, but in row {other} it is {json.dumps(number)}. A column "
            "cannot mix true or false with numbers; write one or the other."
        )


def _spelled(value: Any, where: str) -> str:
    """The name of a label. JSON has one kind of number, so 1.0 is 1; its ``true`` stays ``true``."""
    if isinstance(value, (list, dict)):
        raise TransferlabError(f"{where}: the label is {value!r}, not a single text or number; {_LATER}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise TransferlabError(f"{where}: the label is {json.dumps(value)}, which is not a class.")
    if value is None or (isinstance(value, str) and not value.strip()):
        raise TransferlabError(f"{where}: the label is empty.")
    if not isinstance(value, str):
        return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)
    text = value.strip()
    if text in _MISSING:
        raise TransferlabError(
            f"{where}: the label is '{text}', which means a missing value. Fill it in or remove the row; a class of that "
            "name needs a longer one."
        )
    if text[0] + text[-1] in ("[]", "{}", "()") and _is_list(text):
        raise TransferlabError(f"{where}: the label is {text}, a list of tags; {_LATER}.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TransferlabError(f"{where}: the label contains half of a character (a lone surrogate).") from None
    return value


def _is_list(text: str) -> bool:
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


def _no_number_twice(path: Path, numbers: dict[str, float]) -> None:
    seen: dict[float, str] = {}
    for name, number in numbers.items():
        # Beyond 2⁵³ adjacent integers are the same float; such labels are not written with a point.
        if abs(number) < 2**53 and (other := seen.setdefault(number, name)) != name:
            raise TransferlabError(f"{path}: the labels '{other}' and '{name}' are the same number.")


def _check_numbers(where: str, counts: Counter[str], whole: bool, kind: str) -> None:
    rows = counts.total()
    what = f"{where}: {len(counts)} distinct {kind} in {rows} rows"
    alone = next((name for name, count in counts.items() if count == 1), None)
    if whole and len(counts) <= MOST_CLASSES and alone is not None:
        raise TransferlabError(
            f"{what}, of which {alone} is in only one: a class needs at least two rows, and a regression target cannot be "
            f"learned: {_LATER}. {_INSIST}"
        )
    if not whole or len(counts) > MOST_CLASSES:
        raise TransferlabError(f"{what}: a regression target; {_LATER}. {_INSIST}")


def _check_texts(where: str, counts: Counter[str]) -> None:
    rows = counts.total()
    what = f"{where}: {len(counts)} distinct texts in {rows} rows"
    if len(counts) == rows > 2 or (len(counts) > MOST_CLASSES and 2 * len(counts) > rows):
        raise TransferlabError(f"{what}: free text or identifiers; {_LATER}. {_INSIST}")
    for separator in "|;,":
        if separator in "".join(counts) and _are_tags([name.split(separator) for name in counts]):
            example = next(name for name in counts if separator in name)
            raise TransferlabError(f"{what}, such as '{example}': tags separated by '{separator}'; {_LATER}. {_INSIST}")


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

"""Fields that are one of a few words, or a number: what else they are given is named."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from transferlab import limits
from transferlab.errors import TransferlabError, nearest, printable
from transferlab.fields import check_fields


@dataclass
class Given:
    word: Literal["linear", "cosine"] | None = None
    count: int | None = None
    fraction: float = 0.0
    either: int | float = 0
    flag: bool = False
    sizes: tuple[int, ...] = ()
    named: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"word": "cosin"}, "word is 'cosin'. Did you mean 'cosine'"),
        ({"word": 3}, "word is 3. Choose from: cosine, linear"),
        ({"count": 5.5}, "count is 5.5; it must be an integer"),
        ({"count": True}, "count is True; it must be an integer"),
        ({"fraction": "high"}, "fraction is 'high'; it must be a number"),
        ({"fraction": None}, "fraction is None; it must be a number"),
        ({"fraction": float("nan")}, "fraction is nan; it must be a finite number"),
        ({"fraction": 10**400}, "fraction is 1000000"),
        ({"flag": "no"}, "flag is 'no'; it must be True or False"),
        ({"sizes": (1, 2.5)}, "sizes[1] is 2.5; it must be an integer"),
        ({"named": {"query": float("inf")}}, "named['query'] is inf; it must be a finite number"),
    ],
)
def test_a_word_or_number_of_another_kind_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(TransferlabError) as error:
        Given(**wrong)
    assert said in str(error.value)


def test_allowed_values_of_a_field_are_accepted() -> None:
    allowed: tuple[dict[str, Any], ...] = (
        {"word": "linear"},
        {"count": np.int32(3)},
        {"fraction": 1},
        {"fraction": np.float32(0.5)},
        {"either": 0.5},
    )
    for right in allowed:
        Given(**right)


def test_very_many_choices_are_neither_compared_one_by_one_nor_listed() -> None:
    choices = [f"label {i} of many" for i in range(50_000)]
    assert nearest("lable 777 of many", choices) == " Did you mean 'label 777 of many'?"
    assert nearest("label 777 of mony", choices) == " Did you mean 'label 777 of many'?"
    assert len(nearest("???", choices)) < 400


def test_a_class_defined_inside_a_function_is_checked_too() -> None:
    class Kind:
        pass

    @dataclass
    class Local:
        kind: Kind | None = None
        count: int = 0

    check_fields(Local(count=3))


def test_few_of_a_hundred_thousand_names_are_compared_letter_by_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    compared, plain = [], difflib.get_close_matches
    monkeypatch.setattr(difflib, "get_close_matches", lambda *a, **k: (compared.extend(a[1]), plain(*a, **k))[1])
    names = [
        f"model.layers.{i}.{part}.weight"
        for i in range(1000)
        for part in ("query", "key", "value", "output", "up", "down")
    ]
    assert nearest("layers.731.kye.weight", names) == " Did you mean 'model.layers.731.key.weight'?"
    assert nearest("x" * 10**6, ["y" * 10**6] * 100_000).startswith(" Choose from: ")
    assert len(compared) <= 400 and max(map(len, compared)) <= 200


def test_a_message_is_cut_and_has_no_terminal_escapes() -> None:
    said = str(TransferlabError("key \x1b[2J \ud800 " + "x" * 10**6))
    assert said.startswith(r"key \x1b[2J \ud800 x") and said.endswith("…")
    assert len(said) == limits.MESSAGE_CHARACTERS + 1
    assert printable("two\nlines\tand é 漢") == "two\nlines\tand é 漢"

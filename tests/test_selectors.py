"""Selectors: what a user writes is what is chosen, and nothing is chosen silently."""

from __future__ import annotations

import pytest

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.selectors import select, selector_text
from transferlab.transfer.groups import Group

PATHS = [
    "embed/word/embedding", "embed/norm/scale", "embed/norm/bias",
    *(f"layers/{i}/attention/{p}/{k}" for i in range(12) for p in ("query", "key", "value") for k in ("kernel", "bias")),
    *(f"layers/{i}/mlp/up/kernel" for i in range(12)), "head/kernel", "head/bias",
]  # fmt: skip
STAGES = [("embed",), *((f"layers/{i}",) for i in range(12)), ("head",)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("layers/*/attention/**", 72), ("bias", 38), ("head", 2), ("layers/1", 7), ("layers/{1,11}/mlp/**", 2),
        ("depth < 2", 10), ("depth >= 12", 7), ("depth >= -4", 28), ("depth == -1", 7), ("depth < -12", 3), ("depth <= -1", 87), ("depth < 13", 87),
        ("~(depth >= 0)", 2), ("bias & ~head", 37), ("head | embed/**", 5), ("~(head | bias)", 50),
        ("layers/*/attention/{query,value}/kernel", 24), ("**", 89), ("layers/1?/mlp/up/kernel", 2),
    ],
)  # fmt: skip
def test_a_selector_matches_the_leaves_that_it_describes(text: str, count: int) -> None:
    assert len(select(text).match(PATHS, STAGES)) == count


def test_layer_1_is_not_layer_11() -> None:
    assert {p.split("/")[1] for p in select("layers/1/**").match(PATHS)} == {"1"}


@pytest.mark.parametrize("text", ["layers/*/attn/**", "biass", "head | querry", "~nothing", "depth < 0"])
def test_a_pattern_that_matches_nothing_is_an_error_even_inside_a_larger_one(text: str) -> None:
    with pytest.raises(TransferlabError, match="matches no leaf"):
        select(text).match(PATHS, STAGES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("depth >= -40", "no depth -40"), ("depth < -14", "no depth -14"), ("depth >= 99", "no depth 99"),
        ("depth == 13", "no depth 13"), ("depth < 14", "no depth 14"), ("depth < -13", "'depth < -13' matches no leaf"),
        ("depth > -1", "'depth > -1' matches no leaf"), ("head | depth > 12", "'depth > 12' matches no leaf"),
    ],
)  # fmt: skip
def test_a_depth_that_no_stage_has_is_an_error(text: str, said: str) -> None:
    with pytest.raises(TransferlabError, match=f"{said}: .* 0 to 12 from the input, or -13 to -1 from its end"):
        select(text).match(PATHS, STAGES)


def test_the_error_names_the_nearest_path() -> None:
    with pytest.raises(TransferlabError, match="embed/word/embedding"):
        select("embed/words/embedding").match(PATHS)


@pytest.mark.parametrize("text", ["", "a |", "(a", "a b", "& a", "depth <", "a/{b"])
def test_a_malformed_selector_is_an_error(text: str) -> None:
    with pytest.raises(TransferlabError, match=r"Selector|Pattern"):
        select(text).match(PATHS, STAGES)


def test_a_list_of_names_is_the_same_selector_as_their_union() -> None:
    for given in (["a", "b"], ("a", "b"), {"b", "a"}, "a | b", select("a | b")):
        assert selector_text(given, "targets") == "a | b"
        assert tl.methods.LoRA(targets=given) == tl.methods.LoRA(targets="a | b")
        assert Group(given).selector == "a | b"
    with pytest.raises(
        TransferlabError, match=r"targets is \[\]; give a selector, such as 'query \| value', or a list"
    ):
        tl.methods.LoRA(targets=[])
    with pytest.raises(TransferlabError, match="The selector of a group is"):
        Group([])

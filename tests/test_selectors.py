"""Selectors: what a user writes is what is chosen, and nothing is chosen silently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.pytrees import named_leaves
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


TREES = {
    "nested dicts": lambda tree: tree,
    "lists, whose positions are names": lambda tree: {**tree, "layers": list(tree["layers"].values())},
    "integer keys": lambda tree: {**tree, "layers": {int(i): layer for i, layer in tree["layers"].items()}},
    "an nnx.State": lambda tree: nnx.State(jax.tree.map(nnx.Param, tree)),
}


@pytest.fixture(params=TREES)
def parameters(request: pytest.FixtureRequest) -> Any:
    layers = {str(i): {"kernel": jnp.full((2, 2), float(i)), "bias": jnp.zeros(2)} for i in range(12)}
    return TREES[request.param]({"embed": jnp.ones(3), "head": {"kernel": jnp.ones((2, 2))}, "layers": layers})


def test_a_mask_and_labels_have_the_structure_of_any_tree(parameters: Any) -> None:
    mask = tl.select("layers/{1,11}/** | head").mask(parameters)
    assert jax.tree.structure(mask) == jax.tree.structure(parameters)
    assert [path for path, leaf in named_leaves(mask)[0].items() if leaf] == sorted(
        ["head/kernel", *(f"layers/{i}/{leaf}" for i in (1, 11) for leaf in ("bias", "kernel"))], key=natural
    )
    names = named_leaves(tl.labels(parameters, {"deep": "layers/11", "head": "head"}, rest="frozen"))[0]
    assert names["layers/11/bias"] == "deep" and names["head/kernel"] == "head" and names["layers/1/bias"] == "frozen"


def natural(path: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in path.split("/")]


ADAM = optax.adam(1.0)
WAYS = {
    "partition with set_to_zero": lambda tree: optax.partition(
        {"train": ADAM, "frozen": optax.set_to_zero()}, tl.labels(tree, {"train": "head"}, rest="frozen")
    ),
    "masked, and the complement set to zero": lambda tree: optax.chain(
        optax.masked(ADAM, tl.select("head").mask(tree)),
        optax.masked(optax.set_to_zero(), tl.select("~head").mask(tree)),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_frozen_leaves_stay_to_the_bit_under_optax(parameters: Any, way: str) -> None:
    rule = WAYS[way](parameters)
    grads = jax.tree.map(jnp.ones_like, parameters)
    updates, _ = rule.update(grads, rule.init(parameters), parameters)
    before, after = named_leaves(parameters)[0], named_leaves(optax.apply_updates(parameters, updates))[0]
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved == {"head/kernel"}


def test_masked_alone_moves_what_it_leaves_out_as_its_docstring_says() -> None:
    tree = {"head": jnp.zeros(2), "trunk": jnp.zeros(2)}
    rule = optax.masked(ADAM, tl.select("head").mask(tree))
    updates: Any = rule.update(jax.tree.map(jnp.ones_like, tree), rule.init(tree), tree)[0]
    assert float(updates["trunk"][0]) == 1.0


@pytest.mark.parametrize(
    ("groups", "rest", "words"),
    [
        ({"a": "bias", "b": "head"}, "rest", "'head/bias' is in two groups, 'a' and 'b'"),
        ({"a": "head"}, None, "1 of 2 leaves are in no group, as 'trunk'"),
        ({"a": "haed"}, "rest", "matches no leaf.*head/bias"),
        ({"a": "depth < 1"}, "rest", "no stages were given"),
    ],
)
def test_labels_account_for_every_leaf_once(groups: dict[str, str], rest: str | None, words: str) -> None:
    with pytest.raises(TransferlabError, match=words):
        tl.labels({"head": {"bias": 1.0}, "trunk": 2.0}, groups, rest=rest)


@jax.tree_util.register_dataclass
@dataclass
class Module:
    params: dict[str, Any]
    leaves: Any


def test_a_module_that_is_a_pytree_keeps_its_own_structure_whatever_its_fields_are_called() -> None:
    mask = tl.select("params/bias").mask(Module({"bias": 1.0, "kernel": 2.0}, 3.0))
    assert mask == Module({"bias": True, "kernel": False}, False)
    grown = tl.graft(
        Module({"bias": np.zeros(1), "kernel": np.zeros(1)}, np.zeros(1)),
        {"params": {"bias": np.ones(1)}},
        initialise="kernel | leaves",
    )
    assert float(grown.place().params["bias"][0]) == 1.0


def test_two_leaves_with_one_path_are_refused() -> None:
    with pytest.raises(TransferlabError, match="Two leaves of the tree have the path 'a/0'"):
        tl.select("a").mask({"a": {"0": 1.0}, "a/0": 2.0})

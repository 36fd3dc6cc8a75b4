"""Name rules as text: each leaf of a network has one name, in the file's own layout."""

from __future__ import annotations

import pytest

from transferlab.errors import TransferlabError
from transferlab.models import LlamaConfig
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.rules import leaves_of, named


def keys(text: str, *paths: str) -> dict[str, tuple[str, str]]:
    return {name.path: (name.key, name.layout.name) for name in named(text, paths)}


def test_alternatives_are_matched_by_place_and_numbers_follow() -> None:
    text = "linear layers/{i}/{query,key} block.{i}.{q,k}_proj"
    assert keys(text, "layers/3/query/kernel", "layers/11/key/bias") == {
        "layers/3/query/kernel": ("block.3.q_proj.weight", "transposed"),
        "layers/11/key/bias": ("block.11.k_proj.bias", "as is"),
    }


def test_alternatives_without_a_place_in_the_key_are_fused_in_their_order() -> None:
    text = "linear layers/{i}/{query,key,value} blocks.{i}.qkv"
    assert keys(text, "layers/0/query/kernel", "layers/0/key/kernel", "layers/0/value/kernel") == {
        f"layers/0/{part}/kernel": ("blocks.0.qkv.weight", f"part {n} of 3, transposed")
        for n, part in enumerate(("query", "key", "value"), 1)
    }


def test_a_fused_rule_applies_where_the_network_has_all_of_its_leaves() -> None:
    text = "linear mlp/{gate,up} mlp.weights_in\nlinear mlp/up mlp.fc1"
    assert keys(text, "mlp/up/kernel") == {"mlp/up/kernel": ("mlp.fc1.weight", "transposed")}
    assert keys(text, "mlp/gate/kernel", "mlp/up/kernel")["mlp/up/kernel"] == (
        "mlp.weights_in.weight",
        "part 2 of 2, transposed",
    )


def test_the_first_rule_about_a_leaf_counts() -> None:
    assert keys("norm norm fc_norm\nnorm norm norm", "norm/scale") == {"norm/scale": ("fc_norm.weight", "as is")}


def test_an_optional_rule_names_leaves_that_the_network_lacks() -> None:
    assert keys("linear? head classifier\nlinear pooler pooler") == {
        "head/kernel": ("classifier.weight", "transposed"),
        "head/bias": ("classifier.bias", "as is"),
    }


@pytest.mark.parametrize("line", ["linear head", "liner head classifier", "linear head classifier again"])
def test_a_line_that_is_not_a_rule_is_shown(line: str) -> None:
    with pytest.raises(TransferlabError, match=f"'{line}' is not a name rule"):
        named(line, ())


# The configs of each family's own sizes, cut to two layers where a size has dozens.
FILES = ("bert", "roberta", "mpnet", "distilbert", "modernbert", "llama", "clip_text")


@pytest.mark.parametrize("family", FILES)
def test_every_leaf_of_every_size_has_a_name(family: str) -> None:
    for make in FAMILIES[family].sizes.values():
        config = make()
        for table in FAMILIES[family].names(config)[:1]:
            named_paths = {name.path for name in table.names}
            assert leaves_of(config) <= named_paths, sorted(leaves_of(config) - named_paths)[:3]


def test_no_two_leaves_share_a_key_but_parts_of_one_tensor() -> None:
    config = LlamaConfig(num_hidden_layers=2, qkv_bias=True, output_bias=True, query_norm=True)
    names = FAMILIES["llama"].names(config)[0].names
    assert len({(name.key, name.layout.part) for name in names}) == len(names)

"""Name rules as text: each leaf of a network has one name, in the file's own layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from transferlab.errors import TransferlabError
from transferlab.models import (
    BitConfig,
    ConvNeXtConfig,
    EfficientNetConfig,
    GPT2Config,
    LlamaConfig,
    MobileNetV2Config,
    ResNetConfig,
    SwinConfig,
)
from transferlab.pretrained.families import FAMILIES, family_of
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


def test_parts_of_a_kernel_that_is_in_out_lie_along_its_second_axis() -> None:
    names = named("dense attention/{query,key} c_attn", ("attention/query/kernel", "attention/key/kernel"))
    tensor = np.arange(8).reshape(2, 4)
    assert [name.layout.to_tree(tensor).tolist() for name in names] == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


def test_a_key_counts_from_another_number_than_its_path() -> None:
    text = "same stages/{i}/{i}/scale block{i+1}/unit{i+1:02}"
    assert keys(text, "stages/0/9/scale", "stages/1/0/scale") == {
        "stages/0/9/scale": ("block1/unit10", "as is"),
        "stages/1/0/scale": ("block2/unit01", "as is"),
    }
    assert keys("same layers/{i}/scale blk.{i-1}", "layers/3/scale")["layers/3/scale"][0] == "blk.2"


def test_blocks_are_counted_over_all_stages_whichever_of_them_a_rule_is_about() -> None:
    paths = ("stages/0/0/project", "stages/1/0/expand", "stages/1/1/expand", "stages/10/0/expand", "stages/2/0/expand")
    assert keys("same stages/{i}/{i}/expand blocks.{n}", *paths) == {
        "stages/1/0/expand": ("blocks.1", "as is"),
        "stages/1/1/expand": ("blocks.2", "as is"),
        "stages/2/0/expand": ("blocks.3", "as is"),
        "stages/10/0/expand": ("blocks.4", "as is"),
    }


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


FILES = ("bert", "roberta", "mpnet", "distilbert", "modernbert", "llama", "clip_text")


@pytest.mark.parametrize("family", FILES)
def test_every_leaf_of_every_size_has_a_name(family: str) -> None:
    for make in FAMILIES[family].sizes.values():
        config = make()
        for table in FAMILIES[family].names(config)[:1]:
            named_paths = {name.path for name in table.names}
            assert leaves_of(config) <= named_paths, sorted(leaves_of(config) - named_paths)[:3]


# Each form of block: ResNet's two, ConvNeXt's two versions, EfficientNet with and without squeeze-and-excitation.
NETWORKS = (
    ResNetConfig.resnet18(), ResNetConfig.resnet26(), BitConfig(depths=(1, 2, 11, 1)), ConvNeXtConfig.atto(),
    ConvNeXtConfig.tiny().v2(), EfficientNetConfig.lite0(), EfficientNetConfig.b0(), MobileNetV2Config.w100(),
    SwinConfig.tiny(), GPT2Config.distilgpt2(),
)  # fmt: skip


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: type(config).__name__)
def test_every_dialect_names_every_leaf(config: Any) -> None:
    for table in family_of(config).names(config):
        paths = {name.path for name in table.names}
        assert leaves_of(config) <= paths, sorted(leaves_of(config) - paths)[:3]
        assert {path for path in paths if not path.startswith("head/")} <= leaves_of(config)


def test_no_two_leaves_share_a_key_but_parts_of_one_tensor() -> None:
    config = LlamaConfig(num_hidden_layers=2, qkv_bias=True, output_bias=True, query_norm=True)
    names = FAMILIES["llama"].names(config)[0].names
    assert len({(name.key, name.layout.part) for name in names}) == len(names)

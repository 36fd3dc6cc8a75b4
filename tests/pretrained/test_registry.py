"""Models that have a name: each says where it is, what it is, and under which license."""

from __future__ import annotations

import re

import pytest

import transferlab as tl
from transferlab import trees
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.registry import REGISTRY


@pytest.mark.parametrize("name", REGISTRY)
def test_no_entry_leaves_something_out(name: str) -> None:
    entry = REGISTRY[name]
    assert entry.name == name
    assert entry.family in FAMILIES
    assert entry.license
    for digest in (entry.sha256, entry.artifact.sha256):
        assert re.fullmatch(r"[0-9a-f]{64}", digest)
    if entry.config is not None:
        assert isinstance(entry.config(), FAMILIES[entry.family].config)


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("minilm-l6", 22_713_216), ("efficientnet-lite0", 4_652_008), ("mobilenet-v2", 3_504_872)],
)
def test_a_named_model_is_what_it_says(name: str, parameters: int) -> None:
    source = tl.load(name)
    assert trees.count(source.params) == parameters
    assert source.provenance["licence"] == REGISTRY[name].license
    assert list(source.recorded["files"].values()) == [REGISTRY[name].sha256]

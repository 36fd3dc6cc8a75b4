"""The studies in ``experiments``: their configs read, and what writes their data keeps its promises."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transferlab.config import read_config

ROOT = Path(__file__).parents[2]
CONFIGS = [
    path
    for folder in ("configs", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "def get_config" in path.read_text("utf-8")
]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_config_of_the_repository_can_be_read(path: Path) -> None:
    assert read_config(path).methods


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "experiments" / "tasks" / f"{name}.py"))


def test_pairs_are_a_point_apart_and_a_tweet_is_in_few_of_them() -> None:
    ratings = np.random.default_rng(0).uniform(-4, 4, 60)
    tweets = list(range(10, 51))
    drawn = list(script("pairs_data")["pairs"](tweets, ratings, seed=3))
    assert {i for pair in drawn for i in pair} <= set(tweets)
    assert all(abs(ratings[a] - ratings[b]) >= 1 for a, b in drawn)
    assert len({frozenset(pair) for pair in drawn}) == len(drawn) > 40
    assert max(Counter(i for pair in drawn for i in pair).values()) <= 4


def test_of_each_source_package_one_description_is_taken_with_the_tags_of_chosen_facets() -> None:
    archive = """\
Package: tool
Description: edits pictures
Tag: interface::x11, role::program,
 use::editing, x11::application

Package: libtool
Source: library (1.2)
Description: reads pictures
Tag: role::shared-lib

Package: libtool-dev
Source: library
Description: reads pictures
Tag: role::shared-lib

Package: untagged
Description: does nothing
"""
    assert script("tags_data")["packages"](archive) == [
        ("reads pictures", {"role::shared-lib"}),
        ("edits pictures", {"role::program", "use::editing"}),
    ]

"""Named sizes: each is a constructor of its own config."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from transferlab.models.sizes import Size, sizes_of
from transferlab.pretrained.families import FAMILIES


@dataclass(frozen=True)
class Config:
    """A config with three sizes."""

    width: int = 8
    layers: int = 2
    gated: bool = False

    small = Size("8 wide.")
    large = Size("64 wide.", 64, layers=12)
    gated_large = large.but("64 wide, gated.", gated=True)


class Own(Config):
    """A config of a user's own."""


def test_a_size_gives_its_fields_and_those_of_the_size_that_it_changes() -> None:
    assert Config.small() == Config()
    assert Config.gated_large() == Config(64, 12, True)
    assert Config(layers=5).large() == Config.large()


def test_a_size_makes_the_class_that_it_is_asked_of() -> None:
    assert type(Own.large()) is Own


def test_sizes_stand_in_the_order_of_the_file_with_their_summaries() -> None:
    assert {name: make.__doc__ for name, make in sizes_of(Config).items()} == {
        "small": "8 wide.", "large": "64 wide.", "gated_large": "64 wide, gated.",
    }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_size_of_a_family_is_a_config_of_it(family: str) -> None:
    config = FAMILIES[family].config
    for name, make in FAMILIES[family].sizes.items():
        assert make() == getattr(config, name)(), name
        assert isinstance(make(), config), name

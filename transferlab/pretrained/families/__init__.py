"""The families that can be loaded, by name. Each is a file of its own in this folder."""

from __future__ import annotations

from typing import Any

from transferlab.errors import TransferlabError
from transferlab.plugins import Registry
from transferlab.pretrained.families.family import Family


def _check(family: Family) -> None:
    for other in FAMILIES.ours.values():
        if both := sorted({*other.model_types} & {*family.model_types}):
            raise TransferlabError(
                f"The family '{family.name}' has the model_type '{both[0]}' of '{other.name}'. Write another into its config.json."
            )


FAMILIES: Registry[Family] = Registry(
    __name__, "family", Family, group="transferlab.families", instances=True, check=_check
)
"""Name → family: those of this folder's files, those that installed packages add by entry points, and a user's own."""


def family_of(config: Any) -> Family:
    """Return the family whose config this is."""
    family = FAMILIES.first(lambda family: isinstance(config, family.config))
    if family is None:
        raise TransferlabError(f"{type(config).__name__} is the config of no known family ({', '.join(FAMILIES)}).")
    return family

"""What is transferred and what trains: the plan over every leaf, parameter groups, resizing, the frontier cache."""

from typing import Any

from transferlab.errors import no_attribute
from transferlab.transfer.grafting import Derived, Graft, graft
from transferlab.transfer.groups import Group
from transferlab.transfer.leaf import Leaf
from transferlab.transfer.plan import Plan, plan

__all__ = ["Derived", "Graft", "Group", "Leaf", "Plan", "graft", "plan"]


def __getattr__(name: str) -> Any:
    raise no_attribute(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted(__all__)

"""What is transferred and what trains: the plan over every leaf, parameter groups, resizing, the frontier cache."""

from typing import TYPE_CHECKING

from transferlab.errors import face_of
from transferlab.transfer.derived import Derived
from transferlab.transfer.grafting import Graft, graft
from transferlab.transfer.groups import Group
from transferlab.transfer.leaf import Leaf
from transferlab.transfer.plan import Plan
from transferlab.transfer.planning import plan

__all__ = ["Derived", "Graft", "Group", "Leaf", "Plan", "graft", "plan"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face_of(__name__, __all__)

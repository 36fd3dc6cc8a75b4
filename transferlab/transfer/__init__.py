"""What is transferred and what trains: the plan over every leaf, parameter groups, resizing, the frontier cache."""

from transferlab.transfer.grafting import Derived, Graft, graft
from transferlab.transfer.groups import Group
from transferlab.transfer.leaf import Leaf
from transferlab.transfer.plan import Plan, plan

__all__ = ["Derived", "Graft", "Group", "Leaf", "Plan", "graft", "plan"]

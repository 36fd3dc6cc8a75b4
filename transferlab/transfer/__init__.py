"""What is transferred and what trains: the plan over every leaf, parameter groups, resizing, the frontier cache."""

from transferlab.transfer.groups import Group
from transferlab.transfer.leaf import Leaf
from transferlab.transfer.plan import Plan, plan

__all__ = ["Group", "Leaf", "Plan", "plan"]

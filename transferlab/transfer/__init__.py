"""What is transferred and what trains: the plan over every leaf, parameter groups, resizing, the frontier cache."""

from transferlab.transfer.groups import Group
from transferlab.transfer.plan import Leaf, Plan, plan

__all__ = ["Group", "Leaf", "Plan", "plan"]

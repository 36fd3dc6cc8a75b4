"""Tasks: what is optimised and scored."""

from transferlab.tasks.classification import Classification

__all__ = ["Classification"]

"""Evaluation beside the arms: baselines that need no pretrained weights, and zero-shot, which needs no labels."""

from transferlab.evaluate.zero_shot import TEMPLATES, ZeroShot

__all__ = ["TEMPLATES", "ZeroShot"]

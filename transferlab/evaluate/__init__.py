"""Evaluation next to the arms: baselines that need no pretrained weights, zero-shot, which needs no labels, and the texts that a decoder writes."""

from transferlab.evaluate.zero_shot import TEMPLATES, ZeroShot

__all__ = ["TEMPLATES", "ZeroShot"]

"""Evaluation besides training: baselines without pretrained weights, zero-shot classification, and text generation."""

from transferlab.evaluate.zero_shot import TEMPLATES, ZeroShot

__all__ = ["TEMPLATES", "ZeroShot"]

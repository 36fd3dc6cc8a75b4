"""Evaluation beside the arms: baselines that need no pretrained weights."""

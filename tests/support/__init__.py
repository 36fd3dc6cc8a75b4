"""Helpers of several tests: writers of small real files, models with weights, comparisons, damage."""

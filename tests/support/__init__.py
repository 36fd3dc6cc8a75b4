"""What several tests share: writers of small real files, models with weights, comparisons, damage."""

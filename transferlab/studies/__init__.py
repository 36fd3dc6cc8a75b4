"""Studies: tables of runs with a scratch arm and confidence intervals, and a report."""

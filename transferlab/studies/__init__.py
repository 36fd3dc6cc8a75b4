"""Studies: tables of runs with a scratch arm and intervals, and the report that shows them."""

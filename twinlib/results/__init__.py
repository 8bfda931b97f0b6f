"""The folder `results/` read as tables, claims and the answer to the title."""

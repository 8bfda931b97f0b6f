"""Cells in: loaded, checked, split, their genes chosen, paired."""

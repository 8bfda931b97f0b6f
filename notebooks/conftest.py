"""Runs the longest notebook first, so that two processes end at about the same time."""

from __future__ import annotations

import csv
import pathlib

import pytest

TIMES = pathlib.Path(__file__).resolve().parents[1] / "book" / "execution_times.csv"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by the seconds of the last execution; a notebook that has none yet comes first."""
    seconds = {}
    if TIMES.is_file():
        with TIMES.open(newline="", encoding="utf-8") as table:
            seconds = {
                row["Notebook"]: float(row["Seconds"]) for row in csv.DictReader(table)
            }
    items.sort(key=lambda item: seconds.get(item.path.stem, float("inf")), reverse=True)

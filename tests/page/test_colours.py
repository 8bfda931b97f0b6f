"""The colours: one for everything that a table or a figure names, and no two that a reader would confuse."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from twinlib.page.plots import COLOURS
from twinlib.policy.training import ALGORITHMS
from twinlib.results import tables

#: CIELAB units below which two lines of a figure are taken for each other.
NEAR = 10.0
#: Rows that stand in one figure, and the distance at which they can be told apart as small points.
TOGETHER = (
    "mean", "matching_mean", "additive", "linear", "latent_shift", "context_mean", "experimental", "insilico",
    "experimental_mean_only", "do_nothing", "random", "ceiling",
)  # fmt: skip
APART = 24.0
#: Two names of one thing.
SAME = (
    {"do_nothing", "no_change"},
    {"insilico", "two_stage"},
    {"replicate", "real_halves"},
)
_XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
#: Linear RGB as a deuteranope and as a protanope see it (Machado et al. 2009).
SEEN = {
    "everyone": np.eye(3),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
}


def lab(colour: str, eye: str = "everyone") -> np.ndarray:
    """CIELAB coordinates [3] of a hexadecimal colour (sRGB, D65)."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    ratio = _XYZ @ np.clip(SEEN[eye] @ linear, 0, 1) / _XYZ.sum(axis=1)
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def confused(names: list[str], eye: str = "everyone", near: float = NEAR) -> list[tuple[str, str]]:
    pairs = (pair for pair in itertools.combinations(names, 2) if set(pair) not in SAME)
    place = {name: lab(COLOURS[name], eye) for name in names}
    return [(a, b) for a, b in pairs if np.linalg.norm(place[a] - place[b]) < near]


def rows_of_tables() -> set[str]:
    """Every model row of a packaged table, and those that a table has a place for, controls aside."""
    names = {name for name in (*tables.ORDER, *tables.SIMILARITY_ORDER) if not name.endswith("_shuffled")}
    for path in sorted(tables.results_folder().rglob("*.csv")):
        columns = set(pd.read_csv(path, nrows=0).columns) if path.stem != "history" else set()
        for column in {"Algorithm", "contestant"} & columns:
            names |= set(pd.read_csv(path, usecols=[column])[column].dropna())
    return names


def test_every_algorithm_and_every_row_of_a_table_has_a_colour() -> None:
    assert not {*ALGORITHMS, *rows_of_tables()} - set(COLOURS)


def test_no_two_colours_are_alike() -> None:
    assert not confused(list(COLOURS))


def test_rows_of_one_figure_are_told_apart_as_points() -> None:
    assert not confused(list(TOGETHER), near=APART)


@pytest.mark.parametrize("eye", ["deuteranopia", "protanopia"])
def test_algorithms_differ_for_colour_blind_readers(eye: str) -> None:
    assert not confused([*ALGORITHMS, "experimental"], eye)


def test_the_distance_is_that_of_cielab() -> None:
    assert lab("#ffffff") == pytest.approx([100, 0, 0], abs=0.02)
    assert lab("#ff0000") == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    assert np.linalg.norm(lab("#0072b2") - lab("#0072b8")) < NEAR


def test_colours_are_hexadecimal_and_stand_out_on_white() -> None:
    for name, colour in COLOURS.items():
        assert re.fullmatch(r"#[0-9a-f]{6}", colour), name
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 190, f"{name} is too pale for a white face"

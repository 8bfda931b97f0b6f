"""Doses: read as numbers, and in logarithms where steps between doses are multiples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from twinlib.errors import DataError

Array = npt.NDArray[np.float64]


def read(column: pd.Series, control: npt.NDArray[np.bool_], separator: str | None) -> Array:
    """Return doses [n], 0 for controls however theirs are written; another cell needs one above 0."""
    codes, texts = pd.factorize(column.astype(str))
    doses = np.array([_number(text, separator) for text in texts])[codes]
    wrong = ~control & ~(np.isfinite(doses) & (doses > 0))
    if wrong.any():
        first = column.iloc[int(np.flatnonzero(wrong)[0])]
        raise DataError(
            f"{int(wrong.sum())} perturbed cells have no dose above 0 in {column.name!r} (first: "
            f"{first!r}): give one number a cell."
        )
    return np.where(control, 0.0, doses)


def _number(text: str, separator: str | None) -> float:
    """Return one dose; one a part (`1+1`) is one dose where all are equal, else not a number."""
    given = {piece.strip() for piece in text.split(separator or "+")}
    try:
        return float(given.pop()) if len(given) == 1 else float("nan")
    except ValueError:
        return float("nan")


def smallest(doses: Array) -> float:
    """Return the smallest dose above 0 of doses [n]."""
    return float(doses[doses > 0].min(initial=np.inf))


def logged(doses: npt.ArrayLike, smallest_dose: float) -> Array:
    """Return log2(1 + dose / smallest dose): 0 stays 0, the smallest dose becomes 1, whatever the unit.

    >>> logged([0.0, 0.5, 1.5], 0.5).tolist()
    [0.0, 1.0, 2.0]
    """
    return np.asarray(np.log2(1.0 + np.asarray(doses, dtype=float) / smallest_dose))


def unlogged(doses: npt.ArrayLike, smallest_dose: float) -> Array:
    """Take `logged` back."""
    return np.asarray(smallest_dose * (np.exp2(np.asarray(doses, dtype=float)) - 1.0))

"""What targets that were held out say about genes that nobody perturbed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from twinlib.evaluation.summaries import summary

if TYPE_CHECKING:
    import pandas as pd


def unseen_sentence(scores: pd.DataFrame, groups: pd.DataFrame, row: str = "experimental") -> str:
    """Return one sentence on a row of the split `perturbations`: its pearson_delta on targets it never saw.

    `scores` and `groups` are of that split alone (`judge.Tables`); "" where they hold no unit of the row.
    """
    table = summary(scores, groups, "pearson_delta", over="all")
    table = table[table["on"] == "all"].set_index("model")
    if row not in table.index:
        return ""
    mean, low, high = (float(table[name].loc[row]) for name in ("mean", "low", "high"))
    other = float(table["mean"].get("mean", np.nan))
    interval = f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else " (too few for an interval)"
    beside = f"; the plain mean of the others has {other:.2f}" if np.isfinite(other) else ""
    return (
        f"On {int(table['units'].loc[row])} targets of this file that were held out altogether, such "
        f"predictions have a mean pearson_delta of {mean:.2f}{interval}{beside}."
    )

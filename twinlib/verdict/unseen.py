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
    table = summary(scores, groups, "pearson_delta", over="all").set_index(["on", "model"])
    if ("all", row) not in table.index:
        return ""
    own, mean = table.loc[("all", row)], table["mean"].get(("all", "mean"), np.nan)
    interval = (
        f" [{own['low']:.2f}, {own['high']:.2f}]" if np.isfinite(own["low"]) else " (too few for an interval)"
    )
    beside = f"; the plain mean of the others has {mean:.2f}" if np.isfinite(mean) else ""
    return (
        f"On {int(own['units'])} targets of this file that were held out altogether, such predictions have a "
        f"mean pearson_delta of {own['mean']:.2f}{interval}{beside}."
    )

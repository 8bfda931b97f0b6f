"""Validation cells that stay fixed, and five disjoint test folds: what a model of a fold may not see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: Number of disjoint test folds.
FOLDS = 5
#: Share of the cells of every stratum that is set aside for validation.
VALIDATION = 0.15
#: Fold number of a validation cell.
SET_ASIDE = -1
#: Columns of obs whose combinations are the strata.
STRATA = ("perturbation", "dose", "cell_context", "batch")


def assign_folds(
    obs: pd.DataFrame, rng: np.random.Generator, strata: Sequence[str] = STRATA
) -> NDArray[np.int8]:
    """Return the fold [n] of every cell: `SET_ASIDE`, or 0 .. `FOLDS` - 1.

    Controls and perturbed cells alike; in every stratum the shares are exact to one cell, and the folds that
    get the odd cells are drawn, so that small strata do not all end in fold 0.
    """
    fold = np.empty(len(obs), dtype=np.int8)
    for rows in obs.groupby([obs[name].astype(str) for name in strata], sort=True).indices.values():
        order = rng.permutation(np.sort(rows))
        aside = _odd_share(VALIDATION * len(order), rng)
        fold[order[:aside]] = SET_ASIDE
        fold[order[aside:]] = (np.arange(len(order) - aside) + rng.integers(FOLDS)) % FOLDS
    return fold


def _odd_share(wanted: float, rng: np.random.Generator) -> int:
    """Round up with the probability of the fraction, so that small strata give their share on average."""
    return int(wanted) + int(rng.random() < wanted % 1)

"""What each part of a split holds out, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from twinlib.data.folds import FOLDS
from twinlib.data.preparation import candidates
from twinlib.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

#: Splits that hold one group out after the other.
ONE_BY_ONE = ("perturbations", "contexts", "batches")


def held_out_groups(
    kind: str, cells: AnnData, levels: Mapping[str, Sequence[float]] | None = None
) -> list[list[str | float]]:
    """Return what each part of a split of canonical cells [n, G] holds out; empty lists for folds of cells.

    `levels` names the doses or times to hold out together; without it each inner one is held out alone. A
    split that the data cannot give raises a DataError.
    """
    if kind == "cells":
        return [[] for _ in range(FOLDS)]
    if levels and kind in levels:
        return [list(levels[kind])]
    groups = list(candidates(cells, kind))
    if kind in ONE_BY_ONE:
        return [[name] for name in groups]
    if kind == "doubles":
        number = FOLDS if len(groups) >= 2 * FOLDS else 1
        order = np.random.default_rng(0).permutation(len(groups))
        return [[groups[i] for i in part] for part in np.array_split(order, number)]
    if len(groups) < 3:
        raise DataError(
            f"The split {kind!r} needs a level between two others, and these data have {groups}: use 'cells'."
        )
    return [[level] for level in groups[1:-1]]

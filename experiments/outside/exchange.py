"""What a model of another group is given of a fold: training cells and questions, never the truth."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from twinlib.data.schema import CONTROL
from twinlib.files import write_atomic

if TYPE_CHECKING:
    from anndata import AnnData

    from twinlib.data.preparation import Prepared

#: Columns of obs that a model is told.
TOLD = ("perturbation", "dose", "cell_context", "batch")


def export(prepared: Prepared, folder: pathlib.Path, part: str = "test", controls: bool = False) -> None:
    """Write train.h5ad (training cells on the panel) and query.h5ad (what is asked) into a folder.

    `controls` adds the controls of the part to the training cells.
    """
    added = prepared.rows(part, CONTROL) if controls else np.empty(0, dtype=np.intp)
    train = _cells(prepared, np.concatenate([prepared.rows("train"), added]), prepared.cells.obs)
    for name, cells in (("train", train), ("query", questions(prepared, part))):
        write_atomic(folder / f"{name}.h5ad", cells.write_h5ad)


def questions(prepared: Prepared, part: str = "test") -> AnnData:
    """Return the controls of a part [n, G] and, for each of its groups, a copy of them under its label.

    A question holds the control that is to be moved (obs["control"]), so that no outcome leaks and the
    questions themselves are the answer of doing nothing.
    """
    obs = prepared.cells.obs
    asked = obs.iloc[prepared.rows(part)]
    groups = asked[["perturbation", "dose", "cell_context"]].astype(
        {"perturbation": str, "cell_context": str}
    )
    rows, tables = [prepared.rows(part, CONTROL)], [obs.iloc[prepared.rows(part, CONTROL)]]
    for label, dose, context in sorted(set(groups.itertuples(index=False, name=None))):
        if label != CONTROL:
            rows.append(prepared.rows(part, CONTROL, context))
            tables.append(obs.iloc[rows[-1]].assign(perturbation=label, dose=dose))
    return _cells(prepared, np.concatenate(rows), pd.concat(tables), numbered=True)


def _cells(prepared: Prepared, rows: np.ndarray, obs: pd.DataFrame, numbered: bool = False) -> AnnData:
    """Return the expression of some cells [n, G] under the columns that a model is told."""
    from anndata import AnnData

    names = prepared.cells.obs_names[rows]
    told = obs[list(TOLD)] if numbered else obs[list(TOLD)].iloc[rows]
    told = told.astype({name: str for name in TOLD if name != "dose"}).assign(control=names)
    told.index = pd.Index([f"question {i}" for i in range(len(rows))]) if numbered else names
    x = np.asarray(prepared.cells.X[rows], dtype=np.float32)
    return AnnData(x, obs=told, var=pd.DataFrame(index=list(prepared.genes)))

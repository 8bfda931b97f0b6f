"""A stranger's saved predictions as a predictor: cells in an AnnData, read back group by group.

The form: X in the scale of the data, var_names that hold the panel, and obs with `perturbation`, `dose` (1
where it is left out), `cell_context` (may be left out where there is one) and, where a row answers one
control, `control`: the name of that cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from twinlib.checks import finite_arrays, log1p_cells
from twinlib.data import blocks
from twinlib.data.schema import CONTROL
from twinlib.errors import DataError, InputError
from twinlib.evaluation.judge import Group

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from twinlib.data.preparation import Prepared

Array = NDArray[np.float64]
#: Perturbation, dose and context of a group.
Key = tuple[str, float, str]


@dataclass(frozen=True, eq=False)
class Saved:
    """Predictions that were made elsewhere, one mapping a replica."""

    #: Name of the row.
    name: str
    #: Row i answers control i.
    answers: bool
    #: The predicted cells [m, G] of each group, one mapping a replica [R].
    cells: tuple[Mapping[Key, Array], ...]

    @property
    def replicas(self) -> int:
        """Number of replicas R."""
        return len(self.cells)

    def reaches(self, group: Group) -> bool:
        """Whether every replica holds cells of this group."""
        return all(_key(group) in cells for cells in self.cells)

    def predict(self, group: Group, cells: Array) -> Array:
        """Return the saved cells of a group for its controls [n, G], as [R, n, G]."""
        return np.stack([resized(saved_cells[_key(group)], len(cells)) for saved_cells in self.cells])


def saved_predictions(
    name: str, prepared: Prepared, replicas: Sequence[AnnData], part: str = "test"
) -> Saved:
    """Read predictions for one part of a split, one AnnData a replica, as a predictor.

    Raises
    ------
    DataError
        One sentence: a gene of the panel, a column or a control is missing, no group is one of the part.
    """
    if not replicas:
        raise InputError(f"{name} has no predictions: give one AnnData or more.")
    answers = {"control" in table.obs for table in replicas}
    if len(answers) > 1:
        raise DataError(f"Some replicas of {name} name the control of each row and some do not: mend those.")
    asked = _asked(prepared, part)
    read = tuple(_groups(name, prepared, table, part, asked) for table in replicas)
    for number, groups in enumerate(read):
        if not groups:
            which = f"Replica {number} of {name}" if len(read) > 1 else name
            wanted = sorted(asked)[0]
            raise DataError(
                f"{which} predicts no group of the {part} part, such as {wanted}: mend the names."
            )
    return Saved(name, answers.pop(), read)


def resized(cells: Array, size: int) -> Array:
    """Return a population [m, G] as `size` cells [size, G], drawn evenly in order, with the same mean."""
    if len(cells) == size:
        return cells
    drawn = cells[np.arange(size) * len(cells) // size]
    return np.asarray(drawn + (cells.mean(axis=0) - drawn.mean(axis=0)))


def _key(group: Group) -> Key:
    return group.perturbation, group.dose, group.cell_context


def _asked(prepared: Prepared, part: str) -> set[Key]:
    """Return the groups of a part."""
    obs = _columns(prepared.cells.obs.iloc[prepared.rows(part)])
    return {key for key in zip(*(obs[name] for name in obs), strict=True) if key[0] != CONTROL}


def _columns(obs: pd.DataFrame) -> pd.DataFrame:
    """Return perturbation, dose and context as plain text and numbers."""
    return obs[["perturbation", "dose", "cell_context"]].astype(
        {"perturbation": str, "dose": float, "cell_context": str}
    )


def _groups(name: str, prepared: Prepared, table: AnnData, part: str, asked: set[Key]) -> dict[Key, Array]:
    """Sort the predicted cells into the groups asked for, in the order of controls where those are named."""
    values, obs = _values(name, prepared, table), _described(name, prepared, table.obs)
    groups: dict[Key, Array] = {}
    for given, members in obs.groupby(list(obs.columns), sort=True).indices.items():
        rows, key = np.asarray(members, dtype=np.int64), _nearest(cast("Key", given), asked)
        if key in asked and "control" in table.obs:
            controls = prepared.cells.obs_names[prepared.rows(part, CONTROL, key[2])]
            rows = _in_order(name, table.obs["control"].astype(str), rows, list(controls), key[2])
        if key in asked:
            groups[key] = values[rows]
    return groups


def _nearest(given: Key, asked: set[Key]) -> Key:
    """Return the group asked for that a predicted group is, its dose being rounded as files round it."""
    label, dose, context = given
    same = (key for key in asked if (key[0], key[2]) == (label, context))
    return next((key for key in same if np.isclose(key[1], dose, rtol=1e-5)), given)


def _values(name: str, prepared: Prepared, table: AnnData) -> Array:
    """Return the predicted cells [m, G] on the panel, checked."""
    missing = [gene for gene in prepared.genes if gene not in table.var_names]
    if missing:
        raise DataError(
            f"{name} predicts {len(prepared.genes) - len(missing)} of the {len(prepared.genes)} genes of the "
            f"panel; {missing[0]} is among the missing: predict them all."
        )
    values = blocks.dense(table[:, list(prepared.genes)].X)
    if prepared.scale_of_data == "log1p":
        return log1p_cells("n G", **{name: values})[0]
    return finite_arrays(**{name: (values, "n G")})[0]


def _described(name: str, prepared: Prepared, obs: pd.DataFrame) -> pd.DataFrame:
    """Return perturbation, dose and context of the predicted cells, with what may be left out."""
    contexts = prepared.cells.obs["cell_context"].astype(str).unique()
    given = obs if "dose" in obs else obs.assign(dose=1.0)
    if "cell_context" not in obs and len(contexts) == 1:
        given = given.assign(cell_context=contexts[0])
    for column in ("perturbation", "cell_context"):
        if column not in given:
            raise DataError(f"The predictions of {name} lack obs[{column!r}]: add that column.")
    columns = _columns(given)
    without = int(columns["dose"].isna().sum())
    if without:
        raise DataError(f"{without} predictions of {name} have no dose: give them one.")
    return columns


def _in_order(
    name: str, named: pd.Series, rows: NDArray[np.int64], controls: list[str], context: str
) -> NDArray[np.int64]:
    """Return the rows that answer the controls of a context, in their order; each must have one answer."""
    place = {str(control): row for control, row in zip(named.iloc[rows], rows, strict=True)}
    if set(place) != set(controls) or len(rows) != len(controls):
        answered = len(set(place) & set(controls))
        raise DataError(
            f"{name} answers {answered} of the {len(controls)} controls of {context!r} in {len(rows)} rows: "
            "give one row a control, or leave obs['control'] out."
        )
    return np.array([place[control] for control in controls])

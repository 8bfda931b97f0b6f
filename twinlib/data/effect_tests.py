"""Which perturbations have an effect: an energy test against controls of the same context; sham labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twinlib.data.schema import CONTROL
from twinlib.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from twinlib.data.preparation import Prepared

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Groups in which labels are permuted need this many cells in each arm; smaller ones are merged.
MIN_ARM = 5
#: Distances are looked up, not multiplied out, where perturbed cells hold less than this share of them.
GATHERED = 0.05
#: Permutations drawn at once, so that the indicator matrix stays small.
_CHUNK = 512
#: Least number of permutations of a test, and permutations for each test that is corrected for.
PERMUTATIONS, FOR_EACH_TEST = 999, 20
#: Where no context holds this many controls, sham labels are permuted labels.
ENOUGH_CONTROLS = 500
#: At least so many sham labels are drawn, from one half of the controls.
SHAMS = 6


@dataclass(frozen=True)
class EffectTest:
    """The energy test of one perturbation."""

    #: Energy distance to controls (plain Euclidean, U-statistic), strata weighted by perturbed cells.
    distance: float
    #: Share of permutations, the observed one counted, with at least this distance.
    p_value: float
    #: Perturbed cells that took part.
    n_cells: int


def energy_test(
    x: Array,
    perturbed: NDArray[np.bool_],
    contexts: Sequence[str] | NDArray[np.str_],
    batches: Sequence[str] | NDArray[np.str_],
    permutations: int,
    rng: np.random.Generator,
) -> EffectTest:
    """Test whether perturbed cells differ from controls; labels are permuted inside batches of a context.

    Parameters
    ----------
    x
        Cells [n, G] in log1p units, both arms.
    perturbed
        Which cells [n] are perturbed.
    contexts
        Context of each cell [n]; one with under `MIN_ARM` cells in an arm is left out.
    batches
        Batch of each cell [n]; one with under `MIN_ARM` cells in an arm joins the next of its context.
    permutations
        Number of permutations; p is at least 1 / (permutations + 1).
    rng
        Draws the permutations.

    Raises
    ------
    DataError
        One sentence where no context holds `MIN_ARM` cells of both arms.
    """
    groups = merged_strata(np.asarray(perturbed, dtype=bool), contexts, batches)
    observed, drawn, total = 0.0, np.zeros(permutations), 0
    for rows in groups:
        labels = np.asarray(perturbed, dtype=bool)[rows]
        distances = _distances(np.asarray(x, dtype=np.float64)[rows])
        size = int(labels.sum())
        observed += size * _energy(distances, labels[:, None])[0]
        drawn += size * _permuted(distances, labels, permutations, rng)
        total += size
    extreme = int((drawn >= observed - 1e-12 * abs(observed)).sum())
    return EffectTest(observed / total, (extreme + 1) / (permutations + 1), total)


def merged_strata(
    perturbed: NDArray[np.bool_],
    contexts: Sequence[str] | NDArray[np.str_],
    batches: Sequence[str] | NDArray[np.str_],
) -> list[Integers]:
    """Return the rows of each batch of a context; small batches are merged, small contexts left out."""
    within, names = np.asarray(contexts).astype(str), np.asarray(batches).astype(str)
    groups = [
        group
        for context in np.unique(within)
        for group in _merged(perturbed, np.flatnonzero(within == context), names)
    ]
    if not groups:
        raise DataError(
            f"The effect test needs {MIN_ARM} perturbed cells and {MIN_ARM} controls of one context, got "
            f"{int(perturbed.sum())} and {int((~perturbed).sum())}: take more cells or leave the label out."
        )
    return groups


def _merged(perturbed: NDArray[np.bool_], rows: Integers, batches: NDArray[np.str_]) -> list[Integers]:
    """Merge the batches of the rows of a context, in order, until both arms suffice."""
    groups: list[Integers] = []
    waiting = rows[:0]
    for name in np.unique(batches[rows]):
        waiting = np.concatenate([waiting, rows[batches[rows] == name]])
        if _suffices(perturbed[waiting]):
            groups.append(waiting)
            waiting = rows[:0]
    if len(waiting) and groups:
        groups[-1] = np.concatenate([groups[-1], waiting])
    return groups


def _suffices(arm: NDArray[np.bool_]) -> bool:
    return bool(min(arm.sum(), (~arm).sum()) >= MIN_ARM)


def _distances(x: Array) -> Array:
    """Return the Euclidean distances [n, n] of cells [n, G]."""
    from sklearn.metrics import euclidean_distances

    distances: Array = euclidean_distances(x)
    return distances


def _energy(distances: Array, labels: NDArray[np.bool_]) -> Array:
    """Return the energy distance [K] of K labellings [n, K] of cells with these distances [n, n]."""
    inside = labels.astype(np.float64)
    n, m = inside[:, 0].sum(), len(inside) - inside[:, 0].sum()
    to_perturbed = distances @ inside
    within = (inside * to_perturbed).sum(0)
    across = ((1.0 - inside) * to_perturbed).sum(0)
    controls = distances.sum() - within - 2.0 * across
    return np.asarray(2.0 * across / (n * m) - within / (n * (n - 1)) - controls / (m * (m - 1)))


def _permuted(distances: Array, labels: NDArray[np.bool_], number: int, rng: np.random.Generator) -> Array:
    """Return the energy distance [number] under random labellings with as many perturbed cells."""
    few = labels.sum() ** 2 < GATHERED * len(labels) ** 2
    energy, parts = _energy_of_few if few else _energy, []
    for low in range(0, number, _CHUNK):
        table = np.repeat(labels[:, None], min(_CHUNK, number - low), axis=1)
        parts.append(energy(distances, rng.permuted(table, axis=0)))
    return np.concatenate(parts)


def _energy_of_few(distances: Array, labels: NDArray[np.bool_]) -> Array:
    """Return `_energy` [K] where few cells are perturbed: only their own distances are looked up."""
    from twinlib.data.lookups import inner_sums

    size = int(labels[:, 0].sum())
    chosen = np.nonzero(labels.T)[1].reshape(-1, size)
    within = inner_sums(distances, chosen)
    across = distances.sum(axis=1)[chosen].sum(axis=1) - within
    m = len(labels) - size
    controls = distances.sum() - within - 2.0 * across
    return np.asarray(2.0 * across / (size * m) - within / (size * (size - 1)) - controls / (m * (m - 1)))


def called(p_values: Array, level: float = 0.05) -> NDArray[np.bool_]:
    """Return which tests [m] Benjamini and Hochberg's rule calls at this false discovery rate.

    >>> called(np.array([0.001, 0.2, 0.04])).tolist()
    [True, False, False]
    """
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(p_values) <= level)


def has_effect(calls: NDArray[np.bool_], least: int = 3) -> NDArray[np.bool_]:
    """Return which perturbations [P] were called in at least `least` folds of calls [F, P]: one set for all.

    >>> has_effect(np.array([[True, False], [True, True], [True, False]])).tolist()
    [True, False]
    """
    return np.asarray(calls.sum(axis=0) >= least)


def effect_table(
    folds: Sequence[Prepared], rng: np.random.Generator, by_context: bool = False
) -> pd.DataFrame:
    """Test every perturbation on the training cells of each fold of the split by cells.

    Parameters
    ----------
    folds
        The prepared folds of one dataset; held-out splits read `has_effect` from here, too.
    rng
        Draws the permutations, as many as `PERMUTATIONS` or `FOR_EACH_TEST` a test, whichever is more.
    by_context
        Whether a test is of a perturbation in a context.

    Returns
    -------
    Columns split, perturbation, cell_context ("": all), distance, p (NaN: too few cells), called (5 % false
    discoveries over the tests of a fold), has_effect (called in at least three folds, or in most of fewer; NA
    where no fold holds enough cells for a test).
    """
    import pandas as pd

    table = pd.concat([_tests(prepared, rng, by_context) for prepared in folds], ignore_index=True)
    return with_has_effect(table)


def with_has_effect(tests: pd.DataFrame) -> pd.DataFrame:
    """Add `has_effect` to the tests of some folds: called in at least three, or in most of fewer."""
    import pandas as pd

    where = ["perturbation", "cell_context"]
    wide = tests.pivot(index=where, columns="split", values="called").fillna(False).astype(bool)
    enough = has_effect(wide.to_numpy().T, least=wide.shape[1] // 2 + 1)
    answer = pd.Series(enough, index=wide.index, name="has_effect", dtype="boolean")
    answer[~tests.groupby(where)["p"].count().reindex(wide.index).gt(0)] = pd.NA
    return tests.drop(columns="has_effect", errors="ignore").join(answer, on=where)


def _tests(prepared: Prepared, rng: np.random.Generator, by_context: bool) -> pd.DataFrame:
    """Return the tests of one fold, one a row."""
    import pandas as pd

    if prepared.split != "cells":
        raise DataError(f"The effect tests take folds of the split 'cells', not of {prepared.split!r}.")
    obs = prepared.cells.obs.iloc[prepared.rows("train")]
    labels, contexts, batches = (
        obs[name].astype(str).to_numpy() for name in ("perturbation", "cell_context", "batch")
    )
    x = prepared.expression("train").astype(np.float64)
    names = np.unique(contexts).tolist() if by_context else [""]
    pairs = [(label, name) for label in prepared.perturbations for name in names]
    permutations = max(PERMUTATIONS, FOR_EACH_TEST * len(pairs))
    rows = []
    for label, name in pairs:
        use = np.flatnonzero(np.isin(labels, [label, CONTROL]) & ((contexts == name) | (name == "")))
        try:
            test = energy_test(x[use], labels[use] == label, contexts[use], batches[use], permutations, rng)
        except DataError:  # a small group is told in the table and ends nothing
            test = EffectTest(float("nan"), float("nan"), 0)
        rows.append((f"fold {prepared.fold}", label, name, test.distance, test.p_value))
    table = pd.DataFrame(rows, columns=["split", "perturbation", "cell_context", "distance", "p"])
    tested = table["p"].notna().to_numpy()
    table["called"] = False
    if tested.any():
        table.loc[tested, "called"] = called(table.loc[tested, "p"].to_numpy())
    return table


def sham_labels(cells: AnnData, rng: np.random.Generator) -> AnnData:
    """Return canonical cells [n, G] in which no label means anything, for a null panel.

    Half of the controls are dealt to disjoint sham labels of the median label's size, or smaller so that
    there are at least `SHAMS`; the other half are their controls. Where no context holds
    `ENOUGH_CONTROLS`, the labels of all cells are permuted within context and batch instead.
    """
    labels = cells.obs["perturbation"].astype(str).to_numpy()
    control = np.flatnonzero(labels == CONTROL)
    if cells.obs["cell_context"].iloc[control].value_counts().max() < ENOUGH_CONTROLS:
        return _permuted_labels(cells, rng)
    median = int(cells.obs["perturbation"][labels != CONTROL].value_counts().loc[lambda n: n > 0].median())
    half = len(control) // 2
    size = min(median, half // SHAMS)
    sham = np.full(len(control), CONTROL, dtype=object)
    dealt = rng.permutation(len(control))[: half // size * size]
    sham[dealt] = np.repeat([f"sham {i + 1}" for i in range(half // size)], size)
    chosen = cells[control].copy()
    chosen.obs["perturbation"] = sham.astype(str)
    types = cells.obs["perturbation_type"].astype(str)[labels != CONTROL]
    chosen.obs["perturbation_type"] = np.where(sham == CONTROL, "none", types.iloc[0])
    chosen.obs["dose"] = np.where(sham == CONTROL, chosen.obs["dose"].to_numpy(dtype=float), 1.0)
    return _renamed(chosen)


def _permuted_labels(cells: AnnData, rng: np.random.Generator) -> AnnData:
    """Permute what was done to the cells within context and batch."""
    done = ["perturbation", "perturbation_type", "dose", "target_measured"]
    order = np.arange(cells.n_obs)
    strata = cells.obs.groupby([cells.obs[name].astype(str) for name in ("cell_context", "batch")])
    for rows in strata.indices.values():
        order[np.sort(rows)] = rng.permutation(np.sort(rows))
    permuted = cells.copy()
    permuted.obs[done] = cells.obs[done].iloc[order].set_axis(cells.obs_names)
    return _renamed(permuted)


def _renamed(cells: AnnData) -> AnnData:
    """Name the dataset after what was done to it."""
    facts = dict(cells.uns["twinlib"])
    cells.uns["twinlib"] = facts | {"dataset": f"{facts['dataset']} sham"}
    return cells

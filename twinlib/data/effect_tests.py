"""Which perturbations have an effect: an energy test against controls of the same context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinlib.errors import DataError

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Groups in which labels are permuted need this many cells in each arm; smaller ones are merged.
MIN_ARM = 5
#: Permutations drawn at once, so that the indicator matrix stays small.
_CHUNK = 512


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
    strata: Sequence[object],
    permutations: int,
    rng: np.random.Generator,
) -> EffectTest:
    """Test whether perturbed cells differ from controls; labels are permuted inside each stratum.

    Parameters
    ----------
    x
        Cells [n, G] in log1p units, both arms.
    perturbed
        Which cells [n] are perturbed.
    strata
        Context and batch of each cell [n]; a stratum with under `MIN_ARM` cells in an arm joins the next.
    permutations
        Number of permutations; p is at least 1 / (permutations + 1).
    rng
        Draws the permutations.

    Raises
    ------
    DataError
        One sentence where no stratum holds `MIN_ARM` cells of both arms.
    """
    groups = merged_strata(np.asarray(perturbed, dtype=bool), strata)
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


def merged_strata(perturbed: NDArray[np.bool_], strata: Sequence[object]) -> list[Integers]:
    """Return the rows of each stratum; too small ones are merged, in order, until both arms suffice."""
    names = np.asarray([str(name) for name in strata])
    groups: list[Integers] = []
    waiting: list[int] = []
    for name in sorted(set(names.tolist())):
        waiting += np.flatnonzero(names == name).tolist()
        if _suffices(perturbed[waiting]):
            groups.append(np.asarray(waiting))
            waiting = []
    if waiting and groups:
        groups[-1] = np.concatenate([groups[-1], waiting])
    if not groups:
        raise DataError(
            f"The effect test needs {MIN_ARM} perturbed cells and {MIN_ARM} controls of one context, got "
            f"{int(perturbed.sum())} and {int((~perturbed).sum())}: take more cells or leave the label out."
        )
    return groups


def _suffices(arm: NDArray[np.bool_]) -> bool:
    return bool(min(arm.sum(), (~arm).sum()) >= MIN_ARM)


def _distances(x: Array) -> Array:
    """Return the Euclidean distances [n, n] of cells [n, G]."""
    from scipy.spatial.distance import cdist

    distances: Array = cdist(x, x)
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
    parts = []
    for low in range(0, number, _CHUNK):
        table = np.repeat(labels[:, None], min(_CHUNK, number - low), axis=1)
        parts.append(_energy(distances, rng.permuted(table, axis=0)))
    return np.concatenate(parts)


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

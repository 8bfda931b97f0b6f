"""What a twin is for (the paper's Section 2): noticing a failed experiment, with few false alarms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from twinlib.checks import finite_arrays, require_number
from twinlib.errors import InputError
from twinlib.evaluation.trajectories import RealCells, do_nothing, trajectory_distance

Array = NDArray[np.float64]
#: Maps a twin's trajectory [H + 1, D] and real cells to a number that is large when they agree.
Agreement = Callable[[Array, RealCells], float]


def spoiled(
    cells: RealCells, share: float, rng: np.random.Generator, by: RealCells | None = None
) -> RealCells:
    """Return a draw of the cells in which a share of the perturbed ones is replaced: a failed experiment.

    By default controls are put in their place and still called perturbed, as when a guide does not cut. With
    `by` the perturbed cells of another experiment are: a swapped label. m controls are set aside for it, m
    being the number of perturbed cells or half of the controls, and m perturbed cells are kept, so that the
    arms share no cell and have the same sizes whatever the share.
    """
    require_number("share", share, 0, 1)
    if by is not None:
        finite_arrays(cells=(cells.latent, "n D"), by=(by.latent, "m D"))
    perturbed, controls = (rng.permutation(np.flatnonzero(cells.perturbed == kind)) for kind in (True, False))
    size = min(len(perturbed), len(controls) // 2)
    if not size:
        raise InputError("An alarm needs a perturbed cell and two controls; give more cells.")
    lost = round(share * size)
    pool = controls[:size] if by is None else rng.choice(np.flatnonzero(by.perturbed), size)
    source = cells if by is None else by
    kept = np.concatenate([controls[size:], perturbed[lost:size]])
    latent = np.concatenate([cells.latent[kept], source.latent[pool[:lost]]])
    time = np.concatenate([cells.time[kept], source.time[pool[:lost]]])
    called = np.arange(len(latent)) >= len(controls) - size
    return replace(cells, latent=latent, time=time, perturbed=called)


def gain(twin: ArrayLike, cells: RealCells, distance: str = "dtw") -> float:
    """Return how much nearer a twin's trajectory [T, D] is to the real one than doing nothing is.

    The numerator of the twin score; its denominator does not depend on the twin.
    """
    real = cells.trajectory
    still = do_nothing(cells.start, len(real) - 1)
    return trajectory_distance(still, real, distance) - trajectory_distance(twin, real, distance)


def realised(twin: ArrayLike, cells: RealCells) -> float:
    """Return the share of the twin's predicted shift that the perturbed cells show, 1 where they agree.

    The shift of the mean perturbed cell from the mean control, projected on the twin's shift from its first
    to its last point. It uses no pseudotime. A twin that predicts no shift agrees with nothing: 0.
    """
    path, _ = finite_arrays(twin=(twin, "T D"), cells=(cells.latent, "n D"))
    predicted = path[-1] - path[0]
    observed = cells.latent[cells.perturbed].mean(axis=0) - cells.start
    size = float(predicted @ predicted)
    return float(observed @ predicted) / size if size > 0 else 0.0


def threshold(
    twin: ArrayLike,
    sound: RealCells,
    asked: RealCells,
    rng: np.random.Generator,
    agreement: Agreement = realised,
    rounds: int = 200,
    false_alarms: float = 0.05,
) -> float:
    """Return the agreement below which an experiment is flagged, so that few sound ones are.

    `sound` is an experiment of the same perturbation that went well and that the twin has not been fitted
    to; `asked` is the one to judge, of which only the number of cells is used. Both means are uncertain: the
    threshold is the agreement of `sound` plus the `false_alarms` quantile of the difference of two draws, one
    of each size.
    """
    path, _ = finite_arrays(twin=(twin, "T D"), sound=(sound.latent, "n D"))
    require_number("rounds", rounds, 1, whole=True)
    require_number("false_alarms", false_alarms, 0, 1)
    sizes = (~asked.perturbed).sum(), asked.perturbed.sum()
    drawn = np.array([agreement(path, _of_size(sound, sizes, rng)) for _ in range(rounds)])
    own = np.array([agreement(path, sound.resampled(rng)) for _ in range(rounds)])
    return agreement(path, sound) + float(np.quantile(drawn - own, false_alarms))


def _of_size(cells: RealCells, sizes: tuple[int, int], rng: np.random.Generator) -> RealCells:
    """Return a draw with so many controls and perturbed cells."""
    kinds = (~cells.perturbed, cells.perturbed)
    drawn = [rng.choice(np.flatnonzero(kind), size) for kind, size in zip(kinds, sizes, strict=True)]
    return cells.rows(np.concatenate(drawn))


def alarm_rates(
    twin: ArrayLike,
    sound: RealCells,
    asked: RealCells,
    rng: np.random.Generator,
    agreement: Agreement = realised,
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    rounds: int = 50,
    false_alarms: float = 0.05,
    by: RealCells | None = None,
) -> pd.DataFrame:
    """Return how often an experiment is flagged when a share of its perturbed cells is not what it should be.

    The threshold comes from `sound` (`threshold`, 4 x `rounds` draws); at share 0 the flagged are false
    alarms. The `rounds` draws of `asked` are no independent experiments: a rate and its interval come from
    many perturbations and folds. Columns: share, flagged, agreement (median), threshold.
    """
    path, _ = finite_arrays(twin=(twin, "T D"), asked=(asked.latent, "n D"))
    low = threshold(path, sound, spoiled(asked, 0.0, rng), rng, agreement, 4 * rounds, false_alarms)
    rows = []
    for share in shares:
        trials = [spoiled(asked, share, rng, by) for _ in range(rounds)]
        agreements = np.array([agreement(path, cells) for cells in trials])
        rows.append((share, float((agreements < low).mean()), float(np.median(agreements)), low))
    return pd.DataFrame(rows, columns=["share", "flagged", "agreement", "threshold"])

"""What a twin is for: noticing a failed experiment, at a known rate of false alarms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from twinlib.checks import finite_arrays, require_number
from twinlib.evaluation.statistics import wilson_interval
from twinlib.evaluation.trajectories import RealCells, do_nothing, trajectory_distance

Array = NDArray[np.float64]
#: Maps a twin's trajectory [H + 1, D] and real cells to a number that is large when they agree.
Agreement = Callable[[Array, RealCells], float]


def spoiled(
    cells: RealCells, share: float, rng: np.random.Generator, by: RealCells | None = None
) -> RealCells:
    """Return the cells with a share of the perturbed ones replaced: a failed experiment.

    By default unperturbed cells (other draws of the controls) are put in their place and still called
    perturbed, as when a guide does not cut. With `by` the perturbed cells of another experiment are: a
    swapped label.
    """
    require_number("share", share, 0, 1)
    if by is not None:
        finite_arrays(cells=(cells.latent, "n D"), by=(by.latent, "m D"))
    perturbed = np.flatnonzero(cells.perturbed)
    lost = rng.permutation(perturbed)[: round(share * len(perturbed))]
    source = cells if by is None else by
    pool = np.flatnonzero(~source.perturbed if by is None else source.perturbed)
    drawn = rng.choice(pool, len(lost))
    latent, time = cells.latent.copy(), cells.time.copy()
    latent[lost], time[lost] = source.latent[drawn], source.time[drawn]
    return RealCells(latent, time, cells.perturbed, cells.horizon)


def gain(twin: ArrayLike, cells: RealCells, distance: str = "dtw") -> float:
    """Return how much nearer a twin's trajectory [H + 1, D] is to the real one than doing nothing is.

    The numerator of the twin score; its denominator does not depend on the twin.
    """
    real = cells.trajectory
    still = do_nothing(cells.start, cells.horizon)
    return trajectory_distance(still, real, distance) - trajectory_distance(twin, real, distance)


def realised(twin: ArrayLike, cells: RealCells) -> float:
    """Return the share of the twin's predicted shift that the perturbed cells show, 1 where they agree.

    The shift of the mean perturbed cell from the mean control, projected on the twin's shift from its first
    to its last point. It uses no pseudotime.
    """
    path, _ = finite_arrays(twin=(twin, "T D"), cells=(cells.latent, "n D"))
    predicted = path[-1] - path[0]
    observed = cells.latent[cells.perturbed].mean(axis=0) - cells.start
    size = float(predicted @ predicted)
    return float(observed @ predicted) / size if size > 0 else 0.0


def alarm_rates(
    twin: ArrayLike,
    cells: RealCells,
    rng: np.random.Generator,
    agreement: Agreement = realised,
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    rounds: int = 200,
    false_alarms: float = 0.05,
    by: RealCells | None = None,
) -> pd.DataFrame:
    """Return how often an experiment is flagged when a share of its perturbed cells is not what it should be.

    An experiment is flagged when its agreement with the twin falls below the `false_alarms` quantile of sound
    experiments, of which `rounds` are drawn first; the row of share 0 comes from fresh draws, so that it
    shows the rate of false alarms in truth. Every round draws the cells anew. Columns: share, flagged,
    low, high (Wilson, 95 %), agreement (median).
    """
    path, _ = finite_arrays(twin=(twin, "T D"), cells=(cells.latent, "n D"))
    require_number("rounds", rounds, 1, whole=True)
    require_number("false_alarms", false_alarms, 0, 1)

    def draws(share: float) -> Array:
        return np.array(
            [agreement(path, spoiled(cells.resampled(rng), share, rng, by)) for _ in range(rounds)]
        )

    threshold = float(np.quantile(draws(0.0), false_alarms))
    rows = []
    for share in shares:
        agreements = draws(share)
        flagged = int((agreements < threshold).sum())
        low, high = wilson_interval(flagged, rounds)
        rows.append((share, flagged / rounds, low, high, float(np.median(agreements))))
    return pd.DataFrame(rows, columns=["share", "flagged", "low", "high", "agreement"])

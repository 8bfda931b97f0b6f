"""Trajectories of real cells, the references they are judged beside, and the twin score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinlib.checks import finite_arrays, log1p_cells, require_number
from twinlib.errors import InputError
from twinlib.evaluation import similarity

if TYPE_CHECKING:
    from torch import Tensor

    from twinlib.data.preparation import Prepared

Array = NDArray[np.float64]
Distance = Callable[[ArrayLike, ArrayLike], Array]

#: Distances of two trajectories by the name they carry in tables; each maps [..., T] pairs to [...].
DISTANCES: dict[str, Distance] = {
    "dtw": similarity.dtw_distances,
    "mean_absolute_difference": similarity.mean_absolute_difference,
    "w1": similarity.wasserstein_1,
}

#: A diffusion map of fewer distinct cells has too few components.
MIN_DISTINCT = 5


class Encoder(Protocol):
    """What a trajectory needs of an embedding."""

    def encode(self, scaled: Tensor) -> Tensor:
        """Latent cells [n, D] of z-scores [n, G]."""
        ...


def encode(prepared: Prepared, embedding: Encoder, x_log1p: ArrayLike, batch: int = 2048) -> Array:
    """Return the latent cells [n, D] of log1p cells [n, G] in the space fitted on training cells."""
    import torch

    (cells,) = log1p_cells(f"n G={len(prepared.genes)}", x_log1p=x_log1p)
    scaled = torch.as_tensor(prepared.scale(cells.astype(np.float32)))
    with torch.no_grad():
        parts = [embedding.encode(block).cpu().numpy() for block in torch.split(scaled, batch)]
    return np.concatenate(parts).astype(np.float64)


def medoid(cells: ArrayLike) -> int:
    """Return the row of the cell [n, D] whose summed distance to all others is least."""
    from scipy.spatial.distance import cdist

    (cells,) = finite_arrays(cells=(cells, "n D"))
    return int(cdist(cells, cells).sum(axis=1).argmin())


def diffusion_pseudotime(latent: ArrayLike, root: int, neighbours: int = 15) -> Array:
    """Return the diffusion pseudotime [n] of latent cells [n, D] from the cell `root` (Haghverdi 2016).

    Scanpy's implementation on a Gaussian k-nearest-neighbour graph. Equal cells share one time: the kernel's
    width is a median distance to neighbours, which many equal cells would make 0. Cells that the graph does
    not connect to the root come last, at the largest finite time.
    """
    (cells,) = finite_arrays(latent=(latent, "n D"))
    require_number("root", root, 0, len(cells) - 1, whole=True)
    rounded = np.round(cells, 6)
    _, first, inverse = np.unique(rounded, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # distinct cells in the order of the file, so that all distinct means as given
    place = np.argsort(order)[inverse.reshape(-1)]
    return _distinct_pseudotime(cells[first[order]], int(place[root]), neighbours)[place]


def _distinct_pseudotime(latent: Array, root: int, neighbours: int) -> Array:
    """Return the diffusion pseudotime [n] of cells [n, D] no two of which are equal."""
    import warnings

    import scanpy as sc
    from anndata import AnnData

    if len(latent) < MIN_DISTINCT:
        raise InputError(
            f"Pseudotime needs {MIN_DISTINCT} distinct cells, and there are {len(latent)}; add cells."
        )
    cells = AnnData(latent.astype(np.float32))
    cells.uns["iroot"] = root
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy warns of its own coming defaults
        sc.pp.neighbors(cells, n_neighbors=min(neighbours, cells.n_obs - 1), use_rep="X", method="gauss")
        sc.tl.diffmap(cells, n_comps=min(15, cells.n_obs - 2))
        sc.tl.dpt(cells, n_dcs=min(10, cells.n_obs - 2))
    time = np.asarray(cells.obs["dpt_pseudotime"], dtype=np.float64)
    return np.where(np.isfinite(time), time, time[np.isfinite(time)].max())


def binned(latent: ArrayLike, time: ArrayLike, horizon: int = 15) -> Array:
    """Return the means [H + 1, D] of H + 1 equal-count bins of cells [n, D] sorted by time [n].

    Bin sizes differ by one at most; ties in time keep the order of the cells.
    """
    latent, time = finite_arrays(latent=(latent, "n D"), time=(time, "n"))
    require_number("horizon", horizon, 0, whole=True)
    if len(latent) < horizon + 1:
        raise InputError(
            f"{len(latent)} cells cannot fill {horizon + 1} bins; lower the horizon or add cells."
        )
    order = np.argsort(time, kind="stable")
    return np.stack([latent[rows].mean(axis=0) for rows in np.array_split(order, horizon + 1)])


def means_at_times(latent: ArrayLike, time: ArrayLike) -> Array:
    """Return the means [T, D] of the cells [n, D] harvested at each of T measured times [n], in order."""
    latent, time = finite_arrays(latent=(latent, "n D"), time=(time, "n"))
    return np.stack([latent[time == t].mean(axis=0) for t in np.unique(time)])


@dataclass(frozen=True, eq=False)
class RealCells:
    """Held-out controls and cells of one perturbation, in the latent space, each with its time."""

    #: Latent cells [n, D].
    latent: Array
    #: Time of each cell [n]: diffusion pseudotime, or the measured time of its harvest.
    time: Array
    #: Which cells [n] carry the perturbation; the others are controls.
    perturbed: NDArray[np.bool_]
    #: H: a trajectory in pseudotime has H + 1 points.
    horizon: int = 15
    #: Whether `time` was measured: the trajectory then has one point for each measured time.
    measured: bool = False

    def __post_init__(self) -> None:
        finite_arrays(latent=(self.latent, "n D"), time=(self.time, "n"), perturbed=(self.perturbed, "n"))
        if np.asarray(self.perturbed).dtype.kind != "b":
            raise InputError("perturbed must hold True or False for each cell, not numbers or names.")

    @property
    def trajectory(self) -> Array:
        """The real trajectory [T, D]: means at the measured times, or of H + 1 equal-count bins."""
        if self.measured:
            return means_at_times(self.latent, self.time)
        return binned(self.latent, self.time, self.horizon)

    @property
    def positions(self) -> Array:
        """Where each point [T] of the trajectory lies between its first (0) and its last (1)."""
        if not self.measured:
            return np.linspace(0.0, 1.0, self.horizon + 1)
        times = np.unique(self.time)
        return np.asarray((times - times[0]) / (times[-1] - times[0]))

    @property
    def start(self) -> Array:
        """The mean control [D], where both twins and do-nothing start."""
        if np.all(self.perturbed):
            raise InputError("There is no control among these cells; give controls, too.")
        return self.latent[~self.perturbed].mean(axis=0)

    def rows(self, index: NDArray[np.int64]) -> RealCells:
        """Return the chosen cells, with repeats where the index repeats."""
        return replace(
            self, latent=self.latent[index], time=self.time[index], perturbed=self.perturbed[index]
        )

    def _groups(self) -> list[NDArray[np.int64]]:
        """Return the rows of controls and perturbed cells, of each measured time where there is one."""
        groups = [np.flatnonzero(~self.perturbed), np.flatnonzero(self.perturbed)]
        if not self.measured:
            return groups
        return [rows[self.time[rows] == t] for rows in groups for t in np.unique(self.time[rows])]

    def halves(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Return the trajectories [T, D] of two disjoint random halves of each kind (and time) of cell."""
        sides: list[list[NDArray[np.int64]]] = [[], []]
        for group in self._groups():
            for side, part in zip(sides, np.array_split(rng.permutation(group), 2), strict=True):
                side.append(part)
        first, second = (self.rows(np.concatenate(side)).trajectory for side in sides)
        return first, second

    def resampled(self, rng: np.random.Generator) -> RealCells:
        """Return a bootstrap sample, drawn with replacement within each kind (and time) of cell."""
        return self.rows(np.concatenate([rng.choice(group, len(group)) for group in self._groups()]))


def real_cells(
    prepared: Prepared,
    embedding: Encoder,
    perturbation: str,
    horizon: int = 15,
    split: str = "test",
    measured: bool = False,
    context: str | None = None,
) -> RealCells:
    """Return the controls and the cells of a perturbation of one split, with their time.

    Pseudotime is rooted at the control medoid and computed on these cells alone, in the latent space of the
    encoder, which saw training cells only. `measured` takes obs["time"], for cells harvested at several
    times; `context` the cells of one context.
    """
    rows = [prepared.rows(split, name, context) for name in ("control", perturbation)]
    if min(map(len, rows)) < 2:
        raise InputError(
            f"{perturbation} or its controls have fewer than 2 {split} cells; choose another one."
        )
    expression = [prepared.expression(split, name, context) for name in ("control", perturbation)]
    latent = encode(prepared, embedding, np.concatenate(expression))
    perturbed = np.repeat([False, True], [len(part) for part in rows])
    if measured:
        time = _harvest_times(prepared, np.concatenate(rows), perturbation)
    else:
        time = diffusion_pseudotime(latent, medoid(latent[~perturbed]))
    return RealCells(latent, time, perturbed, horizon, measured)


def _harvest_times(prepared: Prepared, rows: NDArray[np.int64], perturbation: str) -> Array:
    """Return the measured times [n] of rows of the cells; each needs two cells, so that it can be halved."""
    if "time" not in prepared.cells.obs:
        raise InputError(f"{prepared.dataset} holds no harvest times; take pseudotime.")
    time = prepared.cells.obs["time"].to_numpy(dtype=np.float64)[rows]
    known, number = np.unique(time, return_counts=True)
    if len(known) < 2:
        raise InputError(
            f"All cells of {perturbation} have one harvest time; take pseudotime, or simulate snapshots."
        )
    if number.min() < 2:
        few = known[number < 2][0]
        raise InputError(f"Time {few:g} of {perturbation} has one cell, and two are needed; leave it out.")
    return time


def straight_line(start: ArrayLike, end: ArrayLike, horizon: int = 15) -> Array:
    """Return the path [H + 1, D] from the control mean [D] to the training mean of p [D] in H equal steps."""
    start, end = finite_arrays(start=(start, "D"), end=(end, "D"))
    require_number("horizon", horizon, 0, whole=True)
    return start + np.linspace(0.0, 1.0, horizon + 1)[:, None] * (end - start)


def do_nothing(start: ArrayLike, horizon: int = 15) -> Array:
    """Return the path [H + 1, D] that stays at the control mean [D]."""
    return straight_line(start, start, horizon)


def at_positions(path: ArrayLike, positions: ArrayLike) -> Array:
    """Return a path [H + 1, D] at positions [T] between its first step (0) and its last (1), linearly.

    So a twin's path is compared with the real one at the times that were measured.
    """
    path, positions = finite_arrays(path=(path, "H D"), positions=(positions, "T"))
    if positions.min() < 0 or positions.max() > 1:
        raise InputError("A position lies outside of 0 to 1; divide the times by the last one.")
    steps = np.linspace(0.0, 1.0, len(path))
    return np.stack([np.interp(positions, steps, column) for column in path.T], axis=1)


def random_line(start: ArrayLike, length: float, horizon: int, rng: np.random.Generator) -> Array:
    """Return a straight path [H + 1, D] of a given Euclidean length in a random direction."""
    (start,) = finite_arrays(start=(start, "D"))
    direction = rng.normal(size=len(start))
    return straight_line(start, start + length * direction / np.linalg.norm(direction), horizon)


def reversed_time(trajectory: ArrayLike) -> Array:
    """Return a trajectory [T, D] run backwards: its W1 to the original is 0, its DTW and Eq. 12 are not."""
    (path,) = finite_arrays(trajectory=(trajectory, "T D"))
    return path[::-1].copy()


def halves(cells: RealCells, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the trajectories [H + 1, D] of two random halves of the cells: the floor of a distance."""
    return cells.halves(rng)


def per_dimension(a: ArrayLike, b: ArrayLike, distance: str = "dtw") -> Array:
    """Return the distance of two trajectories [..., T, D] in each latent dimension [..., D]."""
    if distance not in DISTANCES:
        raise InputError(f"There is no distance {distance!r}; choose one of {', '.join(DISTANCES)}.")
    first, second = finite_arrays(a=(a, "... T D"), b=(b, "... S D"))
    return np.asarray(DISTANCES[distance](first.swapaxes(-1, -2), second.swapaxes(-1, -2)))


def trajectory_distance(a: ArrayLike, b: ArrayLike, distance: str = "dtw") -> float:
    """Return the mean over dimensions of the distance of two trajectories [T, D] (Tables 3, 6, 9)."""
    first, second = finite_arrays(a=(a, "T D"), b=(b, "S D"))
    return float(per_dimension(first, second, distance).mean())


def path_length(trajectory: ArrayLike) -> float:
    """Return the summed absolute steps of a trajectory [T, D], averaged over dimensions: its scale."""
    (path,) = finite_arrays(trajectory=(trajectory, "T D"))
    return float(np.abs(np.diff(path, axis=0)).sum(axis=0).mean())


@dataclass(frozen=True)
class TwinScore:
    """Where a twin stands between doing nothing (0) and the real cells' own noise (1)."""

    #: (d(do-nothing) - d) / (d(do-nothing) - d(real halves)).
    score: float
    #: Lower end of the bootstrap interval of the score.
    low: float
    #: Upper end of the bootstrap interval of the score.
    high: float
    #: d: distance of the twin from the real trajectory.
    distance: float
    #: Distance of doing nothing from the real trajectory.
    do_nothing: float
    #: Mean distance of two real halves.
    halves: float
    #: False where the interval of the denominator holds 0: the data cannot tell the score.
    resolvable: bool

    def __str__(self) -> str:
        if not self.resolvable:
            return "not resolvable"
        return f"{self.score:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Real cells resampled once, so that many twins are scored against the same draws."""

    #: The real trajectory [H + 1, D].
    real: Array
    #: Bootstrap draws of it [B, H + 1, D].
    draws: Array
    #: Do-nothing [H + 1, D].
    still: Array
    #: Distance of do-nothing from each draw [B].
    do_nothing: Array
    #: Distance of two fresh real halves in each round [B].
    halves: Array
    #: Name of the distance in `DISTANCES`.
    distance: str
    #: Level of the intervals.
    level: float

    def score(self, twin: ArrayLike) -> TwinScore:
        """Score a twin's trajectory [H + 1, D].

        A resampled trajectory is noisier than the real one, because every bin draws its cells once more, so
        each bootstrapped distance lies above the distance it stands for. Each is therefore moved by its mean
        excess before the score is taken: the draws give the spread, the real cells the place.
        """
        twin, _ = finite_arrays(twin=(twin, "T D"), real=(self.real, "S D"))
        d, ceiling = (trajectory_distance(path, self.real, self.distance) for path in (twin, self.still))
        floor = float(self.halves.mean())
        drawn = per_dimension(np.broadcast_to(twin, self.draws.shape), self.draws, self.distance).mean(
            axis=-1
        )
        near, nothing = _moved_to(drawn, d), _moved_to(self.do_nothing, ceiling)
        gaps = nothing - self.halves
        gap_low, gap_high = self._interval(gaps)
        low, high = self._interval((nothing - near) / np.where(gaps == 0, np.nan, gaps))
        score = (ceiling - d) / (ceiling - floor)
        return TwinScore(score, low, high, d, ceiling, floor, bool(gap_low > 0 or gap_high < 0))

    def _interval(self, values: Array) -> tuple[float, float]:
        low, high = np.nanquantile(values, [(1 - self.level) / 2, (1 + self.level) / 2])
        return float(low), float(high)


def _moved_to(draws: Array, place: float) -> Array:
    """Return bootstrap draws [B] moved so that their mean is `place`."""
    return draws - draws.mean() + place


def yardstick(
    cells: RealCells,
    rng: np.random.Generator,
    distance: str = "dtw",
    resamples: int = 200,
    level: float = 0.95,
) -> Yardstick:
    """Draw what twin scores are measured with: resampled real trajectories, and two fresh halves a round."""
    still = do_nothing(cells.start, len(cells.positions) - 1)
    draws = np.stack([cells.resampled(rng).trajectory for _ in range(resamples)])
    pairs = [cells.halves(rng) for _ in range(resamples)]
    first, second = (np.stack(side) for side in zip(*pairs, strict=True))
    floor = per_dimension(first, second, distance).mean(axis=-1)
    nothing = per_dimension(np.broadcast_to(still, draws.shape), draws, distance).mean(axis=-1)
    return Yardstick(cells.trajectory, draws, still, nothing, floor, distance, level)


def twin_score(
    twin: ArrayLike,
    cells: RealCells,
    rng: np.random.Generator,
    distance: str = "dtw",
    resamples: int = 200,
    level: float = 0.95,
) -> TwinScore:
    """Score a twin's trajectory [H + 1, D] between do-nothing (0) and the real cells' own noise (1).

    The point estimate uses all real cells; each bootstrap round draws the cells anew, and two fresh halves.
    The twin itself is held fixed. A twin has skill only if it also beats `straight_line`.
    """
    return yardstick(cells, rng, distance, resamples, level).score(twin)

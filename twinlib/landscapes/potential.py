"""The quasi-potential of the toggle switch on a grid, and the barriers between its states."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from twinlib.errors import DataError
from twinlib.landscapes.myeloid import Array
from twinlib.landscapes.toggle_switch import Input, ToggleSwitch

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix


@dataclass(frozen=True)
class QuasiPotential:
    """U = -ln P_ss on a square grid; differences of U are what noise has to climb, in units of nothing."""

    #: Centres of the grid's cells along each axis, [M].
    grid: Array
    #: Quasi-potential [M, M], smallest value 0; first axis gene 1, second axis gene 2.
    u: Array
    #: The circuit it belongs to.
    switch: ToggleSwitch
    #: Control [2] that tilts it, or None.
    tilt: Input = None
    #: Production multiplier [2] of a knock-down, or None.
    multiplier: Input = None

    def index(self, x: npt.ArrayLike) -> tuple[int, int]:
        """Grid cell (i, j) that holds the state x [2]."""
        i, j = (int(np.abs(self.grid - value).argmin()) for value in np.asarray(x))
        return i, j

    def height(self, x: npt.ArrayLike) -> float:
        """U at the grid cell that holds the state x [2]."""
        return float(self.u[self.index(x)])

    def pass_height(self, start: npt.ArrayLike, others: Sequence[npt.ArrayLike]) -> float:
        """Highest point, in U, of the lowest path from `start` [2] to any of `others`.

        Dijkstra on the grid with the largest height in place of the sum.
        """
        targets = {self.index(x) for x in others}
        queue = [(self.height(start), self.index(start))]
        seen: set[tuple[int, int]] = set()
        while queue:
            height, (i, j) = heapq.heappop(queue)
            if (i, j) in targets:
                return height
            if (i, j) in seen:
                continue
            seen.add((i, j))
            for near in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if min(near) >= 0 and max(near) < len(self.grid) and near not in seen:
                    heapq.heappush(queue, (max(height, float(self.u[near])), near))
        raise DataError("No path leads from the start to the other states on this grid.")

    def barriers(self) -> dict[tuple[float, float], float]:
        """Barrier out of each attractor: U at its lowest neighbouring saddle minus U at the attractor itself.

        Keys are the attractors' states; attractors and saddles alternate along the first gene.
        """
        points = self.switch.fixed_points(self.tilt, self.multiplier)
        heights = [self.height(p.x) for p in points]
        return {
            p.x: min(heights[k] for k in (i - 1, i + 1) if 0 <= k < len(points)) - heights[i]
            for i, p in enumerate(points)
            if p.kind == "attractor" and len(points) > 1
        }


def quasi_potential(
    switch: ToggleSwitch, u: Input = None, multiplier: Input = None, size: int = 140, upper: float = 2.8
) -> QuasiPotential:
    """Stationary -ln P of the noisy switch on [0, upper]^2, `size` cells a side, walls reflecting (Figure 1).

    Finite volumes with exponentially fitted fluxes (Scharfetter & Gummel 1969), one sparse solve of the
    stationary Fokker-Planck equation. The switch is no gradient system, so U is a quasi-potential
    (Zhou et al. 2012, J R Soc Interface). `u` [2] and `multiplier` [2] tilt the landscape.
    """
    if switch.noise <= 0 or size < 10:
        raise DataError("A quasi-potential needs noise > 0 and at least 10 grid cells a side.")
    h = upper / size
    grid: Array = ((np.arange(size) + 0.5) * h).astype(np.float64)
    density = _stationary(_generator(switch, grid, h, u, multiplier))
    potential: Array = -np.log(np.maximum(density, 1e-300)).reshape(size, size)
    return QuasiPotential(grid, potential - potential.min(), switch, u, multiplier)


def _bernoulli(z: Array) -> Array:
    """z / (exp(z) - 1), finite at 0 and for large |z|."""
    z = np.clip(z, -500, 500)
    small = np.abs(z) < 1e-5
    return np.where(small, 1 - z / 2, z / np.expm1(np.where(small, 1.0, z)))


def _rates(velocity: Array, noise: float, h: float) -> tuple[Array, Array]:
    """Rates of hopping up and down across faces with this velocity (exponential fitting)."""
    peclet = velocity * h / noise
    return noise / h**2 * _bernoulli(-peclet), noise / h**2 * _bernoulli(peclet)


def _generator(switch: ToggleSwitch, grid: Array, h: float, u: Input, multiplier: Input) -> csc_matrix:
    """Sparse matrix Q [M^2, M^2] of dP/dt = Q P on the grid."""
    from scipy import sparse

    size, faces = len(grid), (grid[:-1] + grid[1:]) / 2
    cell = np.arange(size * size).reshape(size, size)
    origins, targets, rates = [], [], []
    for axis in (0, 1):
        points = [grid, grid]
        points[axis] = faces
        x = np.stack(np.meshgrid(*points, indexing="ij"), -1)
        up, down = _rates(switch.drift(x, u, multiplier)[..., axis], switch.noise, h)
        low, high = (cell[:-1], cell[1:]) if axis == 0 else (cell[:, :-1], cell[:, 1:])
        origins += [low.ravel(), high.ravel()]
        targets += [high.ravel(), low.ravel()]
        rates += [up.ravel(), down.ravel()]
    i, j, rate = (np.concatenate(part) for part in (targets, origins, rates))
    gain = sparse.coo_matrix((rate, (i, j)), shape=(size**2, size**2)).tocsc()
    return gain - sparse.diags(np.asarray(gain.sum(0)).ravel()).tocsc()


def _stationary(generator: csc_matrix) -> Array:
    """Null vector of Q, scaled to sum 1: one equation is replaced by P[k] = 1."""
    from scipy.sparse import linalg

    size = generator.shape[0]
    k = size // 2
    keep = np.delete(np.arange(size), k)
    reduced, right = generator[keep][:, keep].tocsc(), -generator[keep][:, [k]].toarray().ravel()
    density = np.ones(size)
    density[keep] = linalg.spsolve(reduced, right, permc_spec="COLAMD")
    if not np.isfinite(density).all() or density.sum() <= 0:
        raise DataError("The stationary density could not be solved; take more noise or a finer grid.")
    return density / density.sum()


def mean_exit_time(
    switch: ToggleSwitch,
    start: npt.ArrayLike,
    inside: Callable[[Array], npt.NDArray[np.bool_]],
    u: Input = None,
    multiplier: Input = None,
    size: int = 140,
    upper: float = 2.8,
) -> float:
    """Mean time until a noisy cell started at `start` [2] first leaves the region where `inside(x)` holds.

    `inside` takes states [..., 2] and returns booleans [...]. One sparse solve of the backward equation
    Q^T t = -1 on the grid of `quasi_potential`; no simulation enters.
    """
    from scipy.sparse import linalg

    h = upper / size
    grid: Array = ((np.arange(size) + 0.5) * h).astype(np.float64)
    states = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    keep = np.flatnonzero(inside(states))
    i, j = (int(np.abs(grid - value).argmin()) for value in np.asarray(start))
    if i * size + j not in keep or len(keep) == len(states):
        raise DataError("The start must lie in the region, and the region must leave out a part of the grid.")
    backward = _generator(switch, grid, h, u, multiplier).T.tocsc()[keep][:, keep]
    times = linalg.spsolve(backward, -np.ones(len(keep)))
    return float(times[np.searchsorted(keep, i * size + j)])

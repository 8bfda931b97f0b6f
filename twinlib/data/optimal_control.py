"""The best that any controller of the toggle switch can do: shortest pulse, and value iteration on a grid."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twinlib.data.toggle_switch import ToggleSwitch

Array = npt.NDArray[np.float64]


def shortest_pulse(
    switch: ToggleSwitch,
    u: float,
    start: str = "A",
    target: str = "B",
    direction: tuple[float, float] = (-1.0, 1.0),
    rtol: float = 1e-8,
    longest: float = 200.0,
) -> float:
    """Shortest time for which the constant control u x direction must be held to move from start to target.

    After the pulse the cell is let go; it must settle in the basin of `target`. Infinity when a pulse of
    `longest` time units does not do it. The ODE is integrated at relative tolerance `rtol`, clipped at 0, and
    the boundary of the basin is bisected to 1e-7.
    """
    path = _held_path(switch, switch.attractors[start], u * np.asarray(direction, dtype=float), longest, rtol)
    goal = switch.attractors[target]
    if not _arrives(switch, path(longest), goal, rtol):
        return float("inf")
    # The switch is monotone in this direction: the path crosses the edge of the target's basin once, and the
    # scan only narrows the bracket for the bisection.
    times = np.linspace(0, longest, 2001)
    inside = switch.basin(np.stack([path(t) for t in times])) == target
    first = int(inside.argmax())
    low, high = max(times[first] - 2 * times[1], 0.0), min(times[first] + times[1], longest)
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (low, middle) if _arrives(switch, path(middle), goal, rtol) else (middle, high)
    return float(high)


def _clipped_drift(switch: ToggleSwitch, u: Any) -> Any:
    """Right-hand side f(t, x) for an ODE solver, with expression held at 0 from below."""

    def velocity(_t: float, x: Array) -> Array:
        v = switch.drift(np.maximum(x, 0), u)
        return np.where((x <= 0) & (v < 0), 0.0, v)

    return velocity


def _held_path(switch: ToggleSwitch, start: Array, u: Array, time: float, rtol: float) -> Any:
    """Interpolant x(t) [2] of the path under a constant control."""
    from scipy.integrate import solve_ivp

    run = solve_ivp(
        _clipped_drift(switch, u), (0, time), start, rtol=rtol, atol=1e-10, dense_output=True, max_step=0.1
    )
    return lambda t: np.maximum(run.sol(t), 0)


def _arrives(switch: ToggleSwitch, x: Array, goal: Array, rtol: float) -> bool:
    """Whether the free flow from x [2] ends at the attractor `goal` [2]."""
    from scipy.integrate import solve_ivp

    end = solve_ivp(_clipped_drift(switch, None), (0, 200), x, rtol=rtol, atol=1e-10).y[:, -1]
    return bool(np.linalg.norm(end - goal) < 0.05)


@dataclass(frozen=True)
class ValueGrid:
    """Least time to the target's basin from every state of a square grid, under bounded control."""

    #: Grid points along each axis, [M].
    grid: Array
    #: Least time [M, M]; infinity where the target cannot be reached.
    time: Array
    #: Index of the best control at each state, [M, M].
    best: npt.NDArray[np.int_]
    #: The controls that were tried, [C, 2].
    controls: Array
    #: Time step of the recursion.
    dt: float

    def at(self, x: Any) -> Array:
        """Least time [...] at states x [..., 2], by linear interpolation."""
        i, j, wi, wj = _corners(np.asarray(x, dtype=float), self.grid)
        t = self.time
        low = t[i, j] * (1 - wj) + t[i, j + 1] * wj
        return low * (1 - wi) + (t[i + 1, j] * (1 - wj) + t[i + 1, j + 1] * wj) * wi

    def policy(self, x: Any) -> Array:
        """Best control [..., 2] at states x [..., 2], by the nearest grid point."""
        step = self.grid[1] - self.grid[0]
        index = np.clip(np.rint(np.asarray(x) / step).astype(int), 0, len(self.grid) - 1)
        return self.controls[self.best[index[..., 0], index[..., 1]]]


def bounded_controls(u: float) -> Array:
    """The nine controls [9, 2] with each gene at -u, 0 or u; for a time optimum none else is needed."""
    return np.array(list(itertools.product((-u, 0.0, u), repeat=2)))


def value_iteration(
    switch: ToggleSwitch,
    u: float,
    target: str = "B",
    size: int = 161,
    upper: float = 3.2,
    dt: float = 0.1,
    controls: Array | None = None,
    longest: float = 200.0,
) -> ValueGrid:
    """Least time to the basin of `target` with |u_i| <= u, from every state of a grid, without noise.

    Semi-Lagrangian recursion V <- min over controls of dt + V(flow(x, control, dt)) from V = 0, held at 0 in
    the target's basin; the flow is RK4, V is interpolated linearly. After k sweeps V is the least of
    min(T, k dt), so it stops when nothing changes or when k dt is `longest`; states near that cap count as
    infinite. Interpolation blurs the state by up to a grid cell: just below a threshold a coarse grid leaks.
    Source: Bellman's principle; Falcone & Ferretti 2013, chapter 8.
    """
    from scipy import sparse

    controls = bounded_controls(u) if controls is None else np.asarray(controls, dtype=float)
    grid = np.linspace(0, upper, size)
    states = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    open_ = np.flatnonzero(switch.basin(states) != target)
    moves = sparse.vstack(
        [_interpolation(_flow(switch, states[open_], c, dt), grid) for c in controls]
    ).tocsr()
    value = np.zeros(len(states))
    for _ in range(round(longest / dt)):
        new = dt + (moves @ value).reshape(len(controls), -1).min(0)
        change, value[open_] = np.abs(new - value[open_]).max(), new
        if change < 1e-7:
            break
    best = np.full(len(states), len(controls) // 2)
    best[open_] = (moves @ value).reshape(len(controls), -1).argmin(0)
    time = np.where(value < 0.9 * longest, value, np.inf)
    return ValueGrid(grid, time.reshape(size, size), best.reshape(size, size), controls, dt)


def _flow(switch: ToggleSwitch, states: Array, control: Array, dt: float) -> Array:
    """States [m, 2] after dt under one control, in RK4 steps of at most 0.05."""
    pieces = max(1, round(dt / 0.05))
    for _ in range(pieces):
        states = switch.advance(states, control, None, dt / pieces)
    return states


def _corners(x: Array, grid: Array) -> tuple[Any, Any, Array, Array]:
    """Lower corner (i, j) and weights of the upper one, for states x [..., 2] clipped to the grid."""
    step = grid[1] - grid[0]
    place = np.clip(x / step, 0, len(grid) - 1 - 1e-9)
    corner = place.astype(int)
    weight = place - corner
    return corner[..., 0], corner[..., 1], weight[..., 0], weight[..., 1]


def _interpolation(x: Array, grid: Array) -> Any:
    """Sparse matrix [m, M^2] that interpolates a grid function linearly at states x [m, 2]."""
    from scipy import sparse

    i, j, wi, wj = _corners(x, grid)
    size, rows = len(grid), np.arange(len(x))
    columns = np.concatenate([(i + a) * size + j + b for a in (0, 1) for b in (0, 1)])
    weights = np.concatenate([(wi if a else 1 - wi) * (wj if b else 1 - wj) for a in (0, 1) for b in (0, 1)])
    return sparse.csr_matrix((weights, (np.tile(rows, 4), columns)), shape=(len(x), size**2))

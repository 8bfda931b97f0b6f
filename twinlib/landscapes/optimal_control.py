"""The best that any controller of the toggle switch can do: shortest pulse, and value iteration on a grid."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from twinlib.landscapes.myeloid import Array
from twinlib.landscapes.toggle_switch import Input, ToggleSwitch

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

#: Right-hand side f(t, x) of an ODE.
Velocity = Callable[[float, Array], Array]
#: Whole numbers.
Index = npt.NDArray[np.int_]


def shortest_pulse(
    switch: ToggleSwitch,
    u: float,
    start: str = "A",
    target: str = "B",
    direction: tuple[float, float] = (-1.0, 1.0),
    knockdown: tuple[float, float] = (0.0, 0.0),
    rtol: float = 1e-8,
    longest: float = 200.0,
) -> float:
    """Shortest time for which a constant tilt of strength u must be held to move from start to target.

    The tilt is the control u x direction together with the CRISPRi efficacy u x knockdown (at most 1). After
    the pulse the cell is let go; it must settle in the basin of `target`. Infinity when a pulse of `longest`
    time units does not do it. The ODE is integrated at relative tolerance `rtol`, clipped at 0, and the time
    at which the path enters the basin is bisected to 1e-7.
    """
    tilt = (u * np.asarray(direction, dtype=float), 1 - u * np.asarray(knockdown, dtype=float))
    path = _held_path(switch, switch.attractors[start], tilt, longest, rtol)
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


def _clipped_drift(switch: ToggleSwitch, u: Input = None, multiplier: Input = None) -> Velocity:
    """Right-hand side f(t, x) for an ODE solver, with expression held at 0 from below."""

    def velocity(_t: float, x: Array) -> Array:
        v = switch.drift(np.maximum(x, 0), u, multiplier)
        return np.where((x <= 0) & (v < 0), 0.0, v)

    return velocity


def _held_path(
    switch: ToggleSwitch, start: Array, tilt: tuple[Array, Array], time: float, rtol: float
) -> Callable[[float], Array]:
    """Interpolant x(t) [2] of the path under a constant control and multiplier."""
    from scipy.integrate import solve_ivp

    run = solve_ivp(
        _clipped_drift(switch, *tilt),
        (0, time),
        start,
        rtol=rtol,
        atol=1e-10,
        dense_output=True,
        max_step=0.1,
    )
    return lambda t: np.maximum(run.sol(t), 0)


def _arrives(switch: ToggleSwitch, x: Array, goal: Array, rtol: float) -> bool:
    """Whether the free flow from x [2] ends at the attractor `goal` [2]."""
    from scipy.integrate import solve_ivp

    end = solve_ivp(_clipped_drift(switch), (0, 200), x, rtol=rtol, atol=1e-10).y[:, -1]
    return bool(np.linalg.norm(end - goal) < 0.05)


@dataclass(frozen=True)
class Actions:
    """What a controller may choose from at each step: pairs of a control and a production multiplier."""

    #: Additive controls, [C, 2].
    controls: Array
    #: Production multipliers (1 - CRISPRi efficacy), [C, 2].
    multipliers: Array

    @staticmethod
    def bounded(u: float) -> Actions:
        """The nine controls with each gene at -u, 0 or u; a time optimum needs none between."""
        controls = np.array(list(itertools.product((-u, 0.0, u), repeat=2)))
        return Actions(controls, np.ones_like(controls))

    @staticmethod
    def knockdowns(efficacy: float) -> Actions:
        """No knock-down, either gene, or both, at this efficacy."""
        multipliers = 1 - np.array(list(itertools.product((0.0, efficacy), repeat=2)))
        return Actions(np.zeros_like(multipliers), multipliers)

    def __len__(self) -> int:
        return len(self.controls)


@dataclass(frozen=True)
class ValueGrid:
    """The best that can be reached from every state of a square grid, and the action that reaches it."""

    #: Grid points along each axis, [M].
    grid: Array
    #: Least time to the target's basin, or greatest probability of success, [M, M].
    value: Array
    #: Index of the best action, [M, M], or [K, M, M] with K steps to go on the first axis (0 = one step).
    best: npt.NDArray[np.int8]
    #: The actions that were tried.
    actions: Actions
    #: Time step of the recursion.
    dt: float

    def at(self, x: npt.ArrayLike) -> Array:
        """Value [...] at states x [..., 2], by linear interpolation."""
        i, j, wi, wj = _corners(np.asarray(x, dtype=float), self.grid)
        v = self.value
        low = v[i, j] * (1 - wj) + v[i, j + 1] * wj
        return low * (1 - wi) + (v[i + 1, j] * (1 - wj) + v[i + 1, j + 1] * wj) * wi

    def choose(self, x: npt.ArrayLike, steps_to_go: int = 1) -> npt.NDArray[np.int8]:
        """Index of the best action [...] at states x [..., 2], by the nearest grid point."""
        index = np.clip(np.rint(np.asarray(x) / self.grid[1]).astype(int), 0, len(self.grid) - 1)
        best = self.best if self.best.ndim == 2 else self.best[steps_to_go - 1]
        return best[index[..., 0], index[..., 1]]

    def policy(self, x: npt.ArrayLike, steps_to_go: int = 1) -> Array:
        """Best additive control [..., 2] at states x [..., 2], by the nearest grid point."""
        return self.actions.controls[self.choose(x, steps_to_go)]


def value_iteration(
    switch: ToggleSwitch,
    actions: Actions | float,
    target: str = "B",
    size: int = 161,
    upper: float = 3.2,
    dt: float = 0.1,
    longest: float = 200.0,
) -> ValueGrid:
    """Least time to the basin of `target` from every state of a grid, without noise.

    `actions` are the choices at each step; a number u stands for `Actions.bounded(u)`, that is |u_i| <= u.
    Semi-Lagrangian recursion V <- min over actions of dt + V(flow(x, action, dt)) from V = 0, held at 0 in
    the target's basin; the flow is RK4, V is interpolated linearly. After k sweeps V is the least of
    min(T, k dt), so it stops when nothing changes or when k dt is `longest`; states near that cap count as
    infinite. Interpolation blurs the state by up to a grid cell: just below a threshold a coarse grid leaks.
    Source: Bellman's principle; Falcone & Ferretti 2013.
    """
    actions = Actions.bounded(actions) if isinstance(actions, int | float) else actions
    grid, states = _square(size, upper)
    away = np.flatnonzero(switch.basin(states) != target)
    moves = _moves(switch, states[away], grid, actions, dt, noise=0.0)
    value = np.zeros(len(states))
    for _ in range(round(longest / dt)):
        new = dt + (moves @ value).reshape(len(actions), -1).min(0)
        change, value[away] = np.abs(new - value[away]).max(), new
        if change < 1e-7:
            break
    best = np.full(len(states), _nothing(actions), dtype=np.int8)
    best[away] = (moves @ value).reshape(len(actions), -1).argmin(0)
    time = np.where(value < 0.9 * longest, value, np.inf)
    return ValueGrid(grid, time.reshape(size, size), best.reshape(size, size), actions, dt)


def best_success(
    switch: ToggleSwitch,
    actions: Actions | float,
    horizon: float,
    target: str = "B",
    size: int = 161,
    upper: float = 3.2,
    dt: float = 0.1,
) -> ValueGrid:
    """Greatest probability of being in the basin of `target` at the horizon, under the switch's noise.

    This is the yardstick for a policy's success rate: no controller that sees the whole state does better, up
    to the error of the grid. The recursion runs backwards over horizon / dt steps from the indicator of the
    basin; the noise of a step is replaced by its four corners x +- sqrt(2 D dt), of equal mean and variance.
    Source: Bellman 1957; Kushner & Dupuis 2001.
    """
    actions = Actions.bounded(actions) if isinstance(actions, int | float) else actions
    grid, states = _square(size, upper)
    moves = _moves(switch, states, grid, actions, dt, noise=switch.noise)
    value = (switch.basin(states) == target).astype(float)
    best = []
    for _ in range(round(horizon / dt)):
        outcomes = (moves @ value).reshape(len(actions), -1)
        best.append(outcomes.argmax(0).astype(np.int8).reshape(size, size))
        value = outcomes.max(0)
    return ValueGrid(grid, value.reshape(size, size), np.array(best), actions, dt)


def best_return(
    switch: ToggleSwitch,
    u: float,
    horizon: float,
    l1: float = 0.0,
    target: str = "B",
    size: int = 161,
    upper: float = 3.2,
    dt: float = 0.5,
) -> ValueGrid:
    """Greatest expected fall of the mean squared error to `target`, less the cost of the controls.

    A step costs `l1` times the mean of |u_i| / u; the rewards of an episode add up to the error at its start
    less the error at its end, so the recursion runs backwards from minus the error at the horizon. `value` is
    what is still to be gained [M, M]; controls are -u, 0 or u, and noise enters as in `best_success`.
    Source: Bellman 1957.
    """
    actions = Actions.bounded(u)
    grid, states = _square(size, upper)
    moves = _moves(switch, states, grid, actions, dt, noise=switch.noise)
    price = l1 * np.abs(actions.controls).mean(1, keepdims=True) / max(u, 1e-12)
    error = ((states - switch.attractors[target]) ** 2).mean(1)
    value, best = -error, []
    for _ in range(round(horizon / dt)):
        outcomes = (moves @ value).reshape(len(actions), -1) - price
        best.append(outcomes.argmax(0).astype(np.int8).reshape(size, size))
        value = outcomes.max(0)
    return ValueGrid(grid, (error + value).reshape(size, size), np.array(best), actions, dt)


def _square(size: int, upper: float) -> tuple[Array, Array]:
    """Grid points [M] along one axis and all states [M^2, 2]."""
    grid = np.linspace(0, upper, size)
    return grid, np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)


def _nothing(actions: Actions) -> int:
    """Index of the action that does least."""
    return int((np.abs(actions.controls) + np.abs(1 - actions.multipliers)).sum(1).argmin())


def _moves(
    switch: ToggleSwitch, states: Array, grid: Array, actions: Actions, dt: float, noise: float
) -> csr_matrix:
    """Sparse matrix [C m, M^2]: where each action takes each of the states [m, 2] in one step."""
    from scipy import sparse

    kick = np.sqrt(2 * noise * dt)
    signs = [(0, 0)] if noise == 0 else list(itertools.product((-1, 1), repeat=2))
    blocks = []
    for u, multiplier in zip(actions.controls, actions.multipliers, strict=True):
        x = _flow(switch, states, u, multiplier, dt)
        kicked = [np.maximum(x + kick * np.array(sign), 0) for sign in signs]
        blocks.append(sum(_interpolation(k, grid) for k in kicked) / len(kicked))
    return sparse.vstack(blocks).tocsr()


def _flow(switch: ToggleSwitch, states: Array, u: Array, multiplier: Array, dt: float) -> Array:
    """States [m, 2] after dt under one action, in RK4 steps of at most 0.05."""
    pieces = max(1, round(dt / 0.05))
    for _ in range(pieces):
        states = switch.advance(states, u, multiplier, dt / pieces)
    return states


def _corners(x: Array, grid: Array) -> tuple[Index, Index, Array, Array]:
    """Lower corner (i, j) and weights of the upper one, for states x [..., 2] clipped to the grid."""
    step = grid[1] - grid[0]
    place = np.clip(x / step, 0, len(grid) - 1 - 1e-9)
    corner = place.astype(int)
    weight = place - corner
    return corner[..., 0], corner[..., 1], weight[..., 0], weight[..., 1]


def _interpolation(x: Array, grid: Array) -> csr_matrix:
    """Sparse matrix [m, M^2] that interpolates a grid function linearly at states x [m, 2]."""
    from scipy import sparse

    i, j, wi, wj = _corners(x, grid)
    size, rows = len(grid), np.arange(len(x))
    columns = np.concatenate([(i + a) * size + j + b for a in (0, 1) for b in (0, 1)])
    weights = np.concatenate([(wi if a else 1 - wi) * (wj if b else 1 - wj) for a in (0, 1) for b in (0, 1)])
    return sparse.csr_matrix((weights, (np.tile(rows, 4), columns)), shape=(len(x), size**2))

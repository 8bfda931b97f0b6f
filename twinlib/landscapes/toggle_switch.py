"""The two-gene toggle switch: a landscape small enough to know everything about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twinlib.errors import DataError
from twinlib.landscapes.myeloid import Array, Values, power, stack

#: A control or a multiplier [..., 2], or None for none.
Input = npt.ArrayLike | None


@dataclass(frozen=True)
class FixedPoint:
    """A state at which the deterministic velocity is zero."""

    #: Expression of the two genes.
    x: tuple[float, float]
    #: "attractor", "saddle" or "repeller".
    kind: str


@dataclass(frozen=True)
class ToggleSwitch:
    """Two genes that activate themselves and repress each other, with noise sqrt(2 D) dW and x >= 0.

    dx1 = a x1^n / (S^n + x1^n) + b S^n / (S^n + x2^n) - k x1 + u1, and gene 2 with 1 and 2 exchanged.
    Source: circuit of Huang 2007 (Dev Biol), parameters of Wells, Kath & Motter 2015 (PRX 5:031036).
    """

    #: Strength of self-activation; lowering it below 0.7745 removes the progenitor state.
    a: float = 1.0
    #: Strength of production that the other gene represses.
    b: float = 1.0
    #: Degradation rate, per time unit.
    k: float = 1.0
    #: Half-activation expression.
    s: float = 0.5
    #: Hill exponent.
    n: float = 4.0
    #: Noise intensity D.
    noise: float = 0.02

    def __post_init__(self) -> None:
        if min(self.a, self.b, self.noise) < 0 or min(self.k, self.s, self.n) <= 0:
            raise DataError("ToggleSwitch needs a, b, noise >= 0 and k, s, n > 0.")

    def drift(self, x: Values, u: Input = None, multiplier: Input = None) -> Values:
        """Velocity dx/dt [..., 2] at x [..., 2] under additive control u [..., 2] (numpy or torch).

        `multiplier` [..., 2] is 1 - CRISPRi efficacy: it scales the production of each gene, not its decay.
        """
        s_n, x_n = self.s**self.n, power(x, self.n)
        activated, repressed = self.a * x_n / (s_n + x_n), self.b * s_n / (s_n + x_n)
        production = stack([activated[..., 0] + repressed[..., 1], activated[..., 1] + repressed[..., 0]])
        if multiplier is not None:
            production = production * multiplier
        velocity = production - self.k * x
        return velocity if u is None else velocity + u

    def jacobian(self, x: npt.ArrayLike, multiplier: Input = None) -> Array:
        """Derivative of the drift, [..., 2, 2], at x [..., 2]; a constant control does not enter."""
        x = np.asarray(x, dtype=np.float64)
        s_n = self.s**self.n
        slope = self.n * s_n * x ** (self.n - 1) / (s_n + x**self.n) ** 2
        production = np.stack(
            [
                np.stack([self.a * slope[..., 0], -self.b * slope[..., 1]], -1),
                np.stack([-self.b * slope[..., 0], self.a * slope[..., 1]], -1),
            ],
            -2,
        )
        if multiplier is not None:
            production = production * np.asarray(multiplier)[..., None]
        return production - self.k * np.eye(2)

    def fixed_points(self, u: Input = None, multiplier: Input = None, upper: float = 3.0) -> list[FixedPoint]:
        """All fixed points in [0, upper]^2, sorted by the first gene from high to low.

        Newton's method from a 25 x 25 grid of starts; roots closer than 1e-6 are one.
        """
        grid = np.linspace(0, upper, 25)
        x = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
        for _ in range(60):
            x = np.clip(x - _newton_step(self, x, u, multiplier), -0.5, 2 * upper)
        solved = np.abs(self.drift(x, u, multiplier)).max(-1) < 1e-10
        inside = (x > -1e-9).all(-1) & (x <= upper + 1e-9).all(-1)
        roots = x[solved & inside]
        roots = roots[np.unique(np.round(roots, 6), axis=0, return_index=True)[1]]
        kinds = [self._kind(root, multiplier) for root in roots]
        order = np.argsort(-roots[:, 0]).tolist()
        return [FixedPoint((float(roots[i, 0]), float(roots[i, 1])), kinds[i]) for i in order]

    def _kind(self, x: Array, multiplier: Input) -> str:
        positive = int((np.linalg.eigvals(self.jacobian(x, multiplier)).real > 0).sum())
        return ("attractor", "saddle", "repeller")[positive]

    @property
    def attractors(self) -> dict[str, Array]:
        """Attractors without control by name: "A" (gene 1 high), "progenitor" where it exists, "B"."""
        states = [np.array(p.x) for p in self.fixed_points() if p.kind == "attractor"]
        names = {1: ["progenitor"], 2: ["A", "B"], 3: ["A", "progenitor", "B"]}[len(states)]
        return dict(zip(names, states, strict=True))

    def settle(
        self, x: npt.ArrayLike, u: Input = None, multiplier: Input = None, time: float = 60.0
    ) -> Array:
        """States [..., 2] after `time` without noise, from x [..., 2] (RK4, steps of 0.1, clipped at 0)."""
        x = np.array(x, dtype=float)
        for _ in range(round(time / 0.1)):
            before, x = x, self.advance(x, u, multiplier, 0.1)
            if np.array_equal(before, x):  # at rest to the last bit: no later step moves it
                break
        return x

    def advance(self, x: Array, u: Input = None, multiplier: Input = None, dt: float = 0.1) -> Array:
        """States [..., 2] one Runge-Kutta step of length `dt` later, without noise, clipped at 0."""
        k1 = self.drift(x, u, multiplier)
        k2 = self.drift(np.maximum(x + dt / 2 * k1, 0), u, multiplier)
        k3 = self.drift(np.maximum(x + dt / 2 * k2, 0), u, multiplier)
        k4 = self.drift(np.maximum(x + dt * k3, 0), u, multiplier)
        return np.maximum(x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4), 0)

    def basin(self, x: npt.ArrayLike) -> npt.NDArray[np.str_]:
        """Name of the attractor that each state [..., 2] reaches without noise and without control."""
        names, places = list(self.attractors), np.array(list(self.attractors.values()))
        settled: Array = np.array(x, dtype=float).reshape(-1, 2)
        moving = np.arange(len(settled))
        while len(moving):
            settled[moving] = self.settle(settled[moving], time=5.0)
            moving = moving[np.abs(self.drift(settled[moving])).max(-1) > 1e-6]
        settled = settled.reshape(np.shape(x))
        return np.array(names)[np.linalg.norm(settled[..., None, :] - places, axis=-1).argmin(-1)]

    def simulate(
        self,
        start: npt.ArrayLike,
        time: float,
        generator: np.random.Generator,
        u: Input = None,
        multiplier: Input = None,
        dt: float = 0.02,
        every: int = 1,
    ) -> Array:
        """Noisy trajectories [steps + 1, ..., 2] from start [..., 2] (Euler-Maruyama, clipped at 0).

        Every `every`-th step is kept; `time` and `dt` in time units; noise intensity is `noise`.
        """
        x = np.array(start, dtype=float)
        kept, scale = [x], np.sqrt(2 * self.noise * dt)
        for step in range(1, round(time / dt) + 1):
            x = x + dt * self.drift(x, u, multiplier) + scale * generator.standard_normal(x.shape)
            x = np.maximum(x, 0)
            if step % every == 0:
                kept.append(x)
        return np.stack(kept)

    def escape_threshold(
        self,
        start: npt.ArrayLike,
        control: npt.ArrayLike = (0.0, 0.0),
        knockdown: npt.ArrayLike = (0.0, 0.0),
        largest: float = 10.0,
    ) -> float:
        """Smallest strength at which the attractor `start` [2] vanishes without noise, or infinity.

        The strength scales the control u = strength x control [2] and the CRISPRi efficacy strength x
        knockdown [2] (at most 1). The attractor is followed upwards; where it is lost, the saddle-node
        (drift = 0, det of the Jacobian = 0) is solved for exactly.
        """
        if np.any(np.asarray(knockdown) > 0):
            largest = min(largest, 1.0)
        x, step = np.array(start, dtype=float), 0.01
        for strength in np.arange(0, largest + step / 2, step):
            tilt = _tilt(strength, control, knockdown)
            followed = _newton(self, x, *tilt)
            if followed is None or not self._same_attractor(x, followed, tilt[1]):
                return _saddle_node(self, x, strength - step, control, knockdown)
            x = followed
        return float("inf")

    def _same_attractor(self, before: Array, after: Array, multiplier: Array) -> bool:
        """Whether a root found one step of strength later continues the attractor."""
        return bool(np.abs(after - before).max() < 0.25) and self._kind(after, multiplier) == "attractor"


def _tilt(strength: float, control: npt.ArrayLike, knockdown: npt.ArrayLike) -> tuple[Array, Array]:
    """Control u [2] and production multiplier [2] at one strength."""
    return strength * np.asarray(control, dtype=float), 1 - strength * np.asarray(knockdown, dtype=float)


def _newton_step(switch: ToggleSwitch, x: Array, u: Input, multiplier: Input) -> Array:
    """Newton step [..., 2] of the drift's roots; a singular Jacobian is nudged."""
    jacobian = switch.jacobian(x, multiplier) - 1e-12 * np.eye(2)
    return np.linalg.solve(jacobian, switch.drift(x, u, multiplier)[..., None])[..., 0]


def _newton(switch: ToggleSwitch, x: Array, u: Input, multiplier: Input) -> Array | None:
    """Root of the drift near x [2], or None when 50 steps do not find it."""
    for _ in range(50):
        step = _newton_step(switch, x, u, multiplier)
        x = x - np.clip(step, -0.2, 0.2)
        if np.abs(step).max() < 1e-13:
            return x
    return None


def _saddle_node(
    switch: ToggleSwitch, x: Array, strength: float, control: npt.ArrayLike, knockdown: npt.ArrayLike
) -> float:
    """Strength at which drift = 0 and det J = 0, searched near x [2] and `strength`."""
    from scipy.optimize import root

    def residual(v: Array) -> Array:
        u, multiplier = _tilt(v[2], control, knockdown)
        det = np.linalg.det(switch.jacobian(v[:2], multiplier))
        return np.array([*switch.drift(v[:2], u, multiplier), det])

    solution = root(residual, [*x, strength], tol=1e-13)
    if np.abs(residual(solution.x)).max() > 1e-9:
        raise DataError(
            f"No saddle-node was found near strength {strength:.3g}; try another control direction."
        )
    return float(solution.x[2])

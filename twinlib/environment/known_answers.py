"""Environments whose answer is known: the two-gene toggle switch and the eleven-gene myeloid network."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from twinlib.checks import require_number, require_type
from twinlib.environment.batched import BatchedDynamics, Outcome, State
from twinlib.errors import InputError
from twinlib.landscapes.myeloid import FATES, GENES, MyeloidNetwork, fate, gene_vector
from twinlib.landscapes.toggle_switch import ToggleSwitch
from twinlib.policy.contracts import Step

_REWARDS = ("mse", "arrival")
_GRID = 121


def _require(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{name}={value!r} is unknown: choose from {', '.join(allowed)}.")


@dataclass(frozen=True)
class ToggleConfig:
    """Settings of the toggle switch environment."""

    #: The circuit: self-activation a (the tilt of the landscape), noise D, and the rest.
    switch: ToggleSwitch = field(default_factory=ToggleSwitch)
    #: "both": additive control of each gene in +-strength; "crispri": knock-down with efficacy 0..strength.
    controls: str = "both"
    #: Largest additive control, or largest efficacy (at most 1).
    strength: float = 0.3
    #: Attractor in which the cell starts: "A", "progenitor" or "B".
    start: str = "A"
    #: Attractor it should reach.
    target: str = "B"
    #: "mse": fall of the mean squared distance to the target, as in the paper; "arrival": 1 at the end if in
    #: the target's basin.
    reward: str = "mse"
    #: Steps of an episode; its end is a termination, because time is observed.
    horizon: int = 40
    #: Time units for which an action is held.
    interval: float = 0.5
    #: Time units of one integration step.
    dt: float = 0.1
    #: Cost of the mean absolute action of a step, subtracted from either reward, as in the gene environment.
    l1: float = 0.0

    def __post_init__(self) -> None:
        _require("controls", self.controls, ("both", "crispri"))
        _require("reward", self.reward, _REWARDS)
        for name in ("start", "target"):
            _require(name, getattr(self, name), tuple(self.switch.attractors))
        require_number("strength", self.strength, 0, 1 if self.controls == "crispri" else np.inf)
        require_number("horizon", self.horizon, 1, whole=True)
        require_number("interval", self.interval, 0)
        require_number("dt", self.dt, 0, self.interval)
        require_number("l1", self.l1, 0)
        if self.dt == 0:
            raise InputError("dt=0 is no step of time: give a number above 0.")


@functools.lru_cache(maxsize=16)
def basin_map(switch: ToggleSwitch, upper: float) -> np.ndarray:
    """Number of the attractor (in the order of `switch.attractors`) reached from each point of a square grid.

    Shape `[121, 121]`, first axis gene 1, both genes from 0 to `upper`, without noise and control.
    """
    ticks = np.linspace(0, upper, _GRID)
    points = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1)
    names = list(switch.attractors)
    reached = switch.basin(points)
    return np.select([reached == name for name in names], range(len(names)))


class ToggleDynamics(BatchedDynamics):
    """R x N cells on the toggle switch: observation `[x1, x2, t / H]`, action `[2]`, expression >= 0.

    Between two actions the velocity is integrated by Runge-Kutta steps of length dt, each followed by noise
    sqrt(2 D dt) and the cut at 0. Rewards as in `ToggleConfig.reward`; info `success`: in the target's basin.
    """

    observation_dim, action_dim = 3, 2

    def __init__(
        self,
        config: ToggleConfig | None = None,
        replicas: int = 1,
        n_cells: int = 64,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        super().__init__(replicas, n_cells, dtype, torch.device(device))
        self.config = config = ToggleConfig() if config is None else config
        require_type("config", config, ToggleConfig)
        self.horizon = config.horizon
        self.action_low = 0.0 if config.controls == "crispri" else -1.0
        places = config.switch.attractors
        self.start, self.target = (self._tensor(places[name]) for name in (config.start, config.target))
        self._target_number = list(places).index(config.target)
        self._upper = (config.switch.a + config.switch.b + config.strength) / config.switch.k + 0.5
        self._basins = torch.from_numpy(basin_map(config.switch, self._upper)).to(self.device)

    def _tensor(self, value: np.ndarray) -> Tensor:
        return torch.as_tensor(value, dtype=self.dtype, device=self.device)

    def _fresh(self) -> State:
        zero = torch.zeros(self.replicas, self.n_cells, dtype=self.dtype, device=self.device)
        return {"z": self.start.expand(self.replicas, self.n_cells, 2), "t": zero}

    @torch.no_grad()
    def _advance(self, state: State, action: Tensor) -> Outcome:
        config, x = self.config, state["z"]
        steps = round(config.interval / config.dt)
        control = config.strength * action
        for _ in range(steps):
            x = self._substep(x, control)
        after = {"z": x, "t": state["t"] + 1}
        ended = after["t"] >= self.horizon
        reward = self._reward(state["z"], x, ended) - config.l1 * action.abs().mean(-1)
        return Outcome(after, reward, ended, torch.zeros_like(ended))

    def _substep(self, x: Tensor, control: Tensor) -> Tensor:
        """One Runge-Kutta step, then noise, then the cut at 0."""
        switch, dt = self.config.switch, self.config.dt
        additive = self.config.controls == "both"

        def velocity(at: Tensor) -> Tensor:
            moved: Tensor = switch.drift(at, control) if additive else switch.drift(at, None, 1 - control)
            return moved

        k1 = velocity(x)
        k2 = velocity((x + dt / 2 * k1).clamp(min=0))
        k3 = velocity((x + dt / 2 * k2).clamp(min=0))
        k4 = velocity((x + dt * k3).clamp(min=0))
        x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if switch.noise > 0:
            x = x + (2 * switch.noise * dt) ** 0.5 * self._normal(2)
        return x.clamp(min=0)

    def _reward(self, before: Tensor, after: Tensor, ended: Tensor) -> Tensor:
        if self.config.reward == "arrival":
            return (ended & self.success(after)).to(self.dtype)
        errors = [(x - self.target).square().mean(-1) for x in (before, after)]
        return errors[0] - errors[1]

    def basin(self, x: Tensor) -> Tensor:
        """Number `[...]` of the basin, in the order of `switch.attractors`, of states `[..., 2]`."""
        cell = (x / self._upper * (_GRID - 1)).round().long().clamp(0, _GRID - 1)
        return self._basins[cell[..., 0], cell[..., 1]]

    def success(self, x: Tensor) -> Tensor:
        """Whether states `[..., 2]` lie in the target's basin."""
        return self.basin(x) == self._target_number

    def _observe(self, state: State) -> Tensor:
        return torch.cat([state["z"], (state["t"] / self.horizon).unsqueeze(-1)], dim=-1)

    def _info(self, state: State) -> dict[str, Tensor]:
        """Whether each cell is in the target's basin."""
        return {"success": self.success(state["z"])}


class WatchedToggle(ToggleDynamics):
    """The toggle switch that notes, for each finished episode, where the cells of each replica ended.

    `ends` holds one pair a batch of episodes: share of cells outside the start's basin [R], share in the
    target's basin [R].
    """

    def __init__(self, config: ToggleConfig, replicas: int, n_cells: int) -> None:
        super().__init__(config, replicas, n_cells)
        self.ends: list[tuple[Tensor, Tensor]] = []

    def step(self, action: Tensor) -> Step:
        """Step as usual; all cells end together, because all episodes have the same length."""
        step = super().step(action)
        if bool(step.terminated.any()):
            basin = self.basin(self.final_latent)
            home = int(self.basin(self.start))
            self.ends.append(
                ((basin != home).float().mean(1), self.success(self.final_latent).float().mean(1))
            )
        return step


class ConstantToggle(WatchedToggle):
    """The toggle switch seen blindfold: the observation is 0, so that a policy is two constant controls.

    `pushes` holds the mean control, in units of the strength, of each episode [R, 2]: the policy's path.
    """

    observation_dim = 1

    def __init__(self, config: ToggleConfig, replicas: int, n_cells: int) -> None:
        super().__init__(config, replicas, n_cells)
        self.pushes: list[Tensor] = []
        self._sum = torch.zeros(replicas, 2)

    def _observe(self, state: State) -> Tensor:
        return torch.zeros(self.replicas, self.n_cells, 1)

    def step(self, action: Tensor) -> Step:
        """Step as usual and keep the mean control of the episode."""
        step = super().step(action)
        self._sum += action.mean(1) / self.horizon
        if bool(step.terminated.any()):
            self.pushes.append(self._sum)
            self._sum = torch.zeros_like(self._sum)
        return step


@dataclass(frozen=True)
class MyeloidConfig:
    """Settings of the myeloid network environment."""

    #: The network: noise, time constants.
    network: MyeloidNetwork = field(default_factory=MyeloidNetwork)
    #: Fate the cell starts in.
    start: str = "erythrocyte"
    #: Fate it should have when the control has been let go.
    target: str = "monocyte"
    #: "mse": fall of the mean squared distance to the target pattern; "arrival": 1 at the end if that is the
    #: fate.
    reward: str = "mse"
    #: Steps of an episode; its end is a termination, because time is observed.
    horizon: int = 20
    #: Time units for which an action is held.
    interval: float = 1.0
    #: Time units without control and noise after the last step, before the fate is read.
    release: float = 20.0

    def __post_init__(self) -> None:
        _require("reward", self.reward, _REWARDS)
        for name in ("start", "target"):
            _require(name, getattr(self, name), tuple(FATES))
        require_number("horizon", self.horizon, 1, whole=True)
        require_number("interval", self.interval, self.network.dt)
        require_number("release", self.release, 0)


class MyeloidDynamics(BatchedDynamics):
    """R x N cells of the myeloid network: observation `[x (11), t / H]`, one action in [-1, 1] a gene.

    A positive action adds to the production of its gene, a negative one knocks it down by that efficacy; -1
    and 1 are the clamps of the Boolean rules. Info `success` at the end of an episode: the fate after
    release is the target, whatever the squared error says.
    """

    observation_dim, action_dim = len(GENES) + 1, len(GENES)

    def __init__(
        self,
        config: MyeloidConfig | None = None,
        replicas: int = 1,
        n_cells: int = 64,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        super().__init__(replicas, n_cells, dtype, torch.device(device))
        self.config = config = MyeloidConfig() if config is None else config
        require_type("config", config, MyeloidConfig)
        self.horizon = config.horizon
        self.start, self.target = (self._pattern(name) for name in (config.start, config.target))
        self._amplitude = self._tensor(
            config.network.sigma * config.network.dt**0.5 / config.network.time_constants
        )

    def _tensor(self, value: np.ndarray) -> Tensor:
        return torch.as_tensor(value, dtype=self.dtype, device=self.device)

    def _pattern(self, name: str) -> Tensor:
        """The state `[11]` in which a fate settles without noise."""
        pattern = self._tensor(gene_vector(dict.fromkeys(FATES[name], 1.0)))
        return self.released(pattern, 40.0)

    def _fresh(self) -> State:
        zero = torch.zeros(self.replicas, self.n_cells, dtype=self.dtype, device=self.device)
        return {"z": self.start.expand(self.replicas, self.n_cells, len(GENES)), "t": zero}

    @torch.no_grad()
    def _advance(self, state: State, action: Tensor) -> Outcome:
        x, network = state["z"], self.config.network
        multiplier, boost = 1 + action.clamp(max=0), action.clamp(min=0)
        for _ in range(round(self.config.interval / network.dt)):
            noise = self._normal(len(GENES)) if network.sigma > 0 else torch.zeros_like(x)
            drift: Tensor = network.drift(x, multiplier, boost)
            x = (x + network.dt * drift + self._amplitude * (x + 1e-3).sqrt() * noise).clamp(min=0)
        after = {"z": x, "t": state["t"] + 1}
        ended = after["t"] >= self.horizon
        return Outcome(after, self._reward(state["z"], x, ended), ended, torch.zeros_like(ended))

    def _reward(self, before: Tensor, after: Tensor, ended: Tensor) -> Tensor:
        if self.config.reward == "arrival":
            hit = self.success(after) if bool(ended.any()) else torch.zeros_like(ended)
            return (ended & hit).to(self.dtype)
        errors = [(x - self.target).square().mean(-1) for x in (before, after)]
        return errors[0] - errors[1]

    @torch.no_grad()
    def released(self, x: Tensor, time: float) -> Tensor:
        """States `[..., 11]` after `time` without control and noise."""
        for _ in range(round(time / self.config.network.dt)):
            x = (x + self.config.network.dt * self.config.network.drift(x)).clamp(min=0)
        return x

    def fates(self, x: Tensor) -> np.ndarray:
        """Names `[...]` of the fates that states `[..., 11]` settle in after release."""
        return fate(self.released(x, self.config.release).cpu().numpy())

    def success(self, x: Tensor) -> Tensor:
        """Whether the fate of states `[..., 11]` after release is the target."""
        return torch.from_numpy(self.fates(x) == self.config.target).to(self.device)

    def _observe(self, state: State) -> Tensor:
        return torch.cat([state["z"], (state["t"] / self.horizon).unsqueeze(-1)], dim=-1)

    def _info(self, state: State) -> dict[str, Tensor]:
        """Whether each cell, let go now, would have the target fate; read at the end of an episode only."""
        if not bool((state["t"] >= self.horizon).any()):
            return {}
        return {"success": self.success(state["z"])}

"""Where cells can be trapped: the toggle switch, the myeloid network, the density of real cells.

Each landscape gives a task for training and a judge: one episode of the mean action on noise, or on cells,
that no training saw; `validation` and `test` share none of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from twinlib.data.preparation import prepare, standard
from twinlib.data.sources import dataset as entry
from twinlib.data.sources import load
from twinlib.environment.assembly import make_world
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.known_answers import MyeloidConfig, MyeloidDynamics, ToggleConfig, WatchedToggle
from twinlib.environment.world import encode_blocks
from twinlib.experimental.fold_rows import embedding_of
from twinlib.landscapes.optimal_control import ValueGrid, best_return, best_success
from twinlib.landscapes.toggle_switch import ToggleSwitch
from twinlib.policy.training import make_generators

if TYPE_CHECKING:
    from anndata import AnnData

    from twinlib.environment.batched import BatchedDynamics
    from twinlib.environment.world import World
    from twinlib.policy.contracts import Policy, Step

#: Episodes by which a policy is judged, on each part.
EPISODES = 200
#: Cells of each seed whose paths are drawn.
SHOWN = 3
#: Seeds of the noise by which policies are judged.
NOISE = {"validation": 50_000, "test": 60_000}
#: What an outcome is, each [R].
Outcome = dict[str, Tensor]


class Landscape(ABC):
    """A task with something to escape from."""

    #: Cells stepped side by side for each seed.
    n_cells: ClassVar[int] = 25
    #: Environment steps of each seed.
    timesteps: ClassVar[int] = 60_000
    #: Environment steps between two updates: whole episodes.
    steps_per_iteration: ClassVar[int] = 1000
    #: Widths of the hidden layers of actor and critic.
    hidden: ClassVar[tuple[int, ...]] = (16, 16)
    #: Does a task note in `ends` where its episodes ended?
    watched: ClassVar[bool] = True

    @abstractmethod
    def task(self, replicas: int) -> BatchedDynamics:
        """Return the task that R replicas train on."""

    @abstractmethod
    def judge(self, policy: Policy | None, seeds: Sequence[int], part: str) -> Outcome:
        """Return `return`, `success` and `left` [R] of the mean action; None does nothing."""

    def ground(self) -> dict[str, int]:
        """Return `basins`, `cells` and how many have their target in another one, `apart`; {}: all."""
        return {}

    def optimum(self) -> dict[str, float]:
        """Return the greatest expected return and success; {} where they are not known."""
        return {}

    def optimal(self, seeds: Sequence[int]) -> Policy | None:
        """Return the policy of greatest expected return; None where it is not known."""
        return None

    def crossing(self, policy: Policy, seeds: Sequence[int]) -> Tensor | None:
        """Return the path [T + 1, cells, 2] of a few judged cells; None where there is nothing to draw."""
        return None


@dataclass(frozen=True)
class Toggle(Landscape):
    """From A over the progenitor to B on the toggle switch; every control costs."""

    #: Self-activation a: the tilt; the larger it is, the deeper the progenitor.
    a: float
    #: Noise intensity D.
    noise: float = 0.005
    #: Largest control on each gene.
    strength: float = 0.3
    #: Cost of the mean absolute action of a step: the L1 weight of the released reward.
    l1: float = 0.05

    @property
    def config(self) -> ToggleConfig:
        """The environment: 40 actions of half a time unit each."""
        switch = ToggleSwitch(a=self.a, noise=self.noise)
        return ToggleConfig(switch=switch, strength=self.strength, dt=0.25, l1=self.l1)

    def task(self, replicas: int) -> WatchedToggle:
        """Return the toggle switch, watched."""
        return WatchedToggle(self.config, replicas, self.n_cells)

    def judge(self, policy: Policy | None, seeds: Sequence[int], part: str) -> Outcome:
        """Success is the basin in which a cell ends."""
        task = WatchedToggle(self.config, len(seeds), EPISODES)
        total = _episode(task, policy, [seed + NOISE[part] for seed in seeds])
        left, success = task.ends[-1]
        return {"return": total.mean(1), "success": success, "left": left}

    @cached_property
    def values(self) -> ValueGrid:
        """The greatest expected return from every state, by value iteration."""
        config = self.config
        time = config.horizon * config.interval
        return best_return(config.switch, config.strength, time, config.l1, config.target)

    def optimum(self) -> dict[str, float]:
        """Return the best return by value iteration, and the best success where controls cost nothing."""
        config, switch = self.config, self.config.switch
        time, start = config.horizon * config.interval, switch.attractors[config.start]
        free = best_success(switch, config.strength, time, dt=config.interval)
        return {"return": float(self.values.at(start)), "success": float(free.at(start))}

    def optimal(self, seeds: Sequence[int]) -> Policy:
        """Return the policy of greatest expected return."""
        return Optimal(self.values, self.config, len(seeds))

    def crossing(self, policy: Policy, seeds: Sequence[int]) -> Tensor:
        """Return the path of three cells of each seed."""
        task = WatchedToggle(self.config, len(seeds), SHOWN)
        obs = task.reset(make_generators([seed + NOISE["test"] for seed in seeds], "environment"))
        path = [task.latent]
        for _ in range(task.horizon):
            obs = task.step(policy.act(obs)).obs
            path.append(task.final_latent)
        return torch.stack(path).flatten(1, 2)


class Optimal:
    """What value iteration would do: it reads the steps to go from the observed time."""

    def __init__(self, values: ValueGrid, config: ToggleConfig, replicas: int) -> None:
        self.values, self.config, self.replicas = values, config, replicas

    def act(self, obs: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Return actions [R, n, 2] for observations [R, n, 3]."""
        taken = round(float(obs.flatten()[2]) * self.config.horizon)
        control = self.values.policy(obs[..., :2].numpy(), self.config.horizon - taken)
        return torch.from_numpy(control / self.config.strength).to(obs.dtype)


class WatchedMyeloid(MyeloidDynamics):
    """The myeloid network that notes where the cells of each finished batch of episodes ended."""

    def __init__(self, config: MyeloidConfig, replicas: int, n_cells: int) -> None:
        super().__init__(config, replicas, n_cells)
        self.ends: list[tuple[Tensor, Tensor]] = []

    def step(self, action: Tensor) -> Step:
        """Step as usual; all cells end together, because all episodes have the same length."""
        step = super().step(action)
        if bool(step.terminated.any()):
            fates = self.fates(self.final_latent)
            shares = (fates != self.config.start, fates == self.config.target)
            left, reached = (torch.from_numpy(share).float().mean(1) for share in shares)
            self.ends.append((left, reached))
        return step


@dataclass(frozen=True)
class Myeloid(Landscape):
    """From erythrocyte to monocyte in the eleven-gene network."""

    def task(self, replicas: int) -> WatchedMyeloid:
        """Return the network, watched."""
        return WatchedMyeloid(MyeloidConfig(), replicas, self.n_cells)

    def judge(self, policy: Policy | None, seeds: Sequence[int], part: str) -> Outcome:
        """Success is the fate after release."""
        task = WatchedMyeloid(MyeloidConfig(), len(seeds), EPISODES)
        total = _episode(task, policy, [seed + NOISE[part] for seed in seeds])
        left, success = task.ends[-1]
        return {"return": total.mean(1), "success": success, "left": left}


@dataclass(frozen=True)
class Density(Landscape):
    """Real cells that slide towards where cells are dense; basins are the components of their density."""

    #: Name of the dataset.
    dataset: str
    #: The only context that is taken; "" for all.
    context: str = ""

    n_cells: ClassVar[int] = 64
    steps_per_iteration: ClassVar[int] = 1920
    hidden: ClassVar[tuple[int, ...]] = (64, 64)
    watched: ClassVar[bool] = False

    @property
    def config(self) -> EnvironmentConfig:
        """The environment whose cells slide."""
        return EnvironmentConfig(drift="density")

    @cached_property
    def world(self) -> World:
        """The training cells of fold 1, with their density."""
        prepared = standard(self.dataset)
        if self.context:
            cells = _of_context(load(self.dataset), self.context)
            prepared = prepare(cells, entry(self.dataset).panel)
        return make_world(prepared, embedding_of(prepared, 1)[0].embedding, density=True)

    @cached_property
    def basins(self) -> tuple[Tensor, Tensor]:
        """The basins of each cell and of its target [m]."""
        world = self.world
        assert world.density is not None
        goal = encode_blocks(world.embedding, world.scale(world.targets(self.config.target)))
        return world.density.component(world.z0), world.density.component(goal)

    def ground(self) -> dict[str, int]:
        """Count the basins and the cells; without cells apart there is nothing to escape from."""
        home, aim = self.basins
        assert self.world.density is not None
        basins = len(self.world.density.means)
        return {"basins": basins, "cells": len(home), "apart": int((home != aim).sum())}

    def task(self, replicas: int) -> Dynamics:
        """Return the training cells as a task."""
        return Dynamics(self.world, self.config, replicas, self.n_cells)

    def judge(self, policy: Policy | None, seeds: Sequence[int], part: str) -> Outcome:
        """Success is the basin of the target, over cells whose target lies in another basin than they do."""
        home, aim = self.basins
        apart = torch.nonzero(home != aim).squeeze(-1)
        half = apart[0::2] if part == "validation" else apart[1::2]
        chosen = half[:EPISODES]
        task = Dynamics(self.world, self.config.quiet(), len(seeds), len(chosen))
        obs = task.reset(make_generators(seeds, "environment"), cells=chosen)
        total = _steps(task, policy, obs)
        assert self.world.density is not None
        end = self.world.density.component(task.final_latent)
        success, left = (end == aim[chosen]).float().mean(1), (end != home[chosen]).float().mean(1)
        return {"return": total.mean(1), "success": success, "left": left}


def _of_context(cells: AnnData, context: str) -> AnnData:
    return cells[(cells.obs["cell_context"].astype(str) == context).to_numpy()].copy()


def _episode(task: BatchedDynamics, policy: Policy | None, seeds: Sequence[int]) -> Tensor:
    """Run one episode of all cells on fresh noise: returns [R, N]."""
    return _steps(task, policy, task.reset(make_generators(seeds, "environment")))


def _steps(task: BatchedDynamics, policy: Policy | None, obs: Tensor) -> Tensor:
    """Run an episode from observations [R, N, O] under the mean action: returns [R, N]."""
    total = torch.zeros(task.replicas, task.n_cells)
    for _ in range(task.horizon):
        action = torch.zeros(*obs.shape[:2], task.action_dim) if policy is None else policy.act(obs)
        step = task.step(action)
        total, obs = total + step.reward, step.obs
    return total


#: Every landscape by its name, in the order of tables.
LANDSCAPES: dict[str, Landscape] = {
    "toggle_low": Toggle(1.0),
    "toggle_middle": Toggle(1.1),
    "toggle_high": Toggle(1.2),
    "myeloid": Myeloid(),
    "kang2018_monocytes": Density("kang2018", "CD14+Mono"),
    "papalexi2021": Density("papalexi2021"),
    "chi11": Density("chi11"),
}

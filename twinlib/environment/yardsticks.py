"""The policies beside which every algorithm is scored: nothing, random, greedy, pathwise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twinlib.environment.dynamics import EnvironmentConfig
from twinlib.environment.greedy import GreedyLinear
from twinlib.environment.pathwise import train_pathwise
from twinlib.environment.world import World
from twinlib.policy.contracts import Policy


class Nothing:
    """The policy of one replica whose every action is 0."""

    replicas = 1

    def __init__(self, world: World) -> None:
        self.size = len(world.action_names)

    def act(self, obs: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Zeros `[..., A]` for observations `[..., O]`."""
        return obs.new_zeros(*obs.shape[:-1], self.size)


class RandomActions:
    """One policy a seed that draws every action uniformly from its box, by its own generator."""

    def __init__(self, world: World, seeds: Sequence[int] = (0,)) -> None:
        self.replicas = len(seeds)
        self.low = torch.where(world.action_gene < 0, 0.0, -1.0).to(world.z0)
        self.generators = [torch.Generator(world.z0.device).manual_seed(int(seed)) for seed in seeds]

    def act(self, obs: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Draws `[R, n, A]` for observations `[R, n, O]`."""
        shape = (*obs.shape[1:-1], len(self.low))
        draws = [torch.rand(shape, generator=g, device=obs.device) for g in generators or self.generators]
        return self.low + torch.stack(draws).to(obs) * (1 - self.low)


def yardstick_policies(
    world: World,
    config: EnvironmentConfig | None = None,
    seeds: Sequence[int] = (0,),
    timesteps: int = 150_000,
) -> dict[str, Policy]:
    """The four yardsticks by the name of their row; random and pathwise have one replica a seed."""
    return {
        "do_nothing": Nothing(world),
        "random": RandomActions(world, seeds),
        "greedy": GreedyLinear(world, config),
        "pathwise": train_pathwise(world, config, seeds, timesteps),
    }

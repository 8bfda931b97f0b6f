"""What the environment is measured in: standardised observations, rewards in units of the attainable."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.greedy import ConstantActions, GreedyLinear
from twinlib.environment.pathwise import train_pathwise
from twinlib.environment.world import TARGETS, Units, World, encode_blocks
from twinlib.policy.contracts import Policy

#: Cells of each label by whose returns its best constant action is found.
LABEL_CELLS = 32
#: Steps of Adam from the greedy action to the best one.
STEPS = 60
#: Their length, in units of the action.
RATE = 0.02
#: Cells that go through an episode together where a return is measured.
_CHUNK = 1024


def measured(world: World) -> World:
    """A world with its own numbers as units: where its cells lie, and what can be attained on them."""
    matches = encode_blocks(world.embedding, world.scale(world.y))
    distance = float((matches - world.z0).norm(dim=-1).mean())
    plain = Units(*observation_scale(world, matches), distance, dict.fromkeys(TARGETS, 1.0))
    world = dataclasses.replace(world, units=plain)
    gain = {target: attainable_gain(world, target) for target in TARGETS}
    return dataclasses.replace(world, units=dataclasses.replace(plain, gain=gain))


def observation_scale(world: World, matches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and s.d. `[D + C]` of controls and encoded matches `[m, D]`, and of the labels' conditions.

    A constant column has s.d. 1.
    """
    tables = (torch.cat([world.z0, matches]), world.conditions[world.label.unique()])
    mean = torch.cat([table.mean(0) for table in tables])
    std = torch.cat([table.std(0, correction=0) for table in tables])
    return mean, torch.where(std > 1e-6, std, 1.0)


def attainable_gain(world: World, target: str) -> float:
    """Mean fall of the error, in squared z-scores, under the best constant action of each label; no cost."""
    config = dataclasses.replace(EnvironmentConfig(target=target).quiet(), l1=0.0, l2=0.0)
    policy = best_constant_actions(world, config)
    return float(mean_return(policy, world, config)[0]) * world.units.gain[target]


def best_constant_actions(world: World, config: EnvironmentConfig) -> ConstantActions:
    """The best constant action of each label, by gradient from the greedy one; the better of both is kept."""
    greedy = GreedyLinear(world, config)
    refined = ConstantActions(greedy.dynamics, _ascended(world, config, greedy.actions))
    returns = [_label_returns(policy, world, config) for policy in (greedy, refined)]
    better = (returns[1] > returns[0]).unsqueeze(-1)
    return ConstantActions(greedy.dynamics, torch.where(better, refined.actions, greedy.actions))


def _ascended(world: World, config: EnvironmentConfig, actions: Tensor) -> Tensor:
    """Actions `[L, A]` after `STEPS` steps of Adam up the mean return of their labels, kept in the box."""
    cells = _cells_by_label(world)
    dynamics, label = Dynamics(world, config, n_cells=len(cells)), world.label[cells]
    dynamics.reset([torch.Generator(dynamics.device).manual_seed(0)], cells=cells)
    moving = actions.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([moving], RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.zero_grad()
        total = dynamics.episode(lambda _: moving[label].unsqueeze(0)).sum()
        (moving.grad,) = torch.autograd.grad(-total, moving)
        optimizer.step()
        with torch.no_grad():
            moving.copy_(torch.maximum(moving, dynamics.action.low).clamp(max=1.0))
    return moving.detach()


def _cells_by_label(world: World) -> Tensor:
    """Indices of at most `LABEL_CELLS` cells of each label, in random order."""
    order = torch.randperm(len(world), generator=torch.Generator().manual_seed(0)).to(world.label.device)
    members = [order[world.label[order] == i][:LABEL_CELLS] for i in range(len(world.labels))]
    return torch.cat(members)


def _label_returns(policy: Policy, world: World, config: EnvironmentConfig) -> Tensor:
    """Mean return `[L]` of each label; 0 where a label has no cell."""
    returns = cell_returns(policy, world, config)[0]
    total = torch.zeros(len(world.labels)).to(returns).index_add(0, world.label, returns)
    return total / torch.bincount(world.label, minlength=len(world.labels)).clamp(min=1)


@torch.no_grad()
def cell_returns(policy: Policy, world: World, config: EnvironmentConfig) -> Tensor:
    """Return `[R, m]` of every cell of a world under the mean action, process noise and kick off."""
    returns, quiet = [], config.quiet()
    for cells in torch.split(torch.arange(len(world)), _CHUNK):
        dynamics = Dynamics(world, quiet, policy.replicas, len(cells))
        dynamics.reset([torch.Generator(dynamics.device)] * policy.replicas, cells=cells)
        returns.append(dynamics.episode(policy.act))
    return torch.cat(returns, dim=1)


def mean_return(policy: Policy, world: World, config: EnvironmentConfig) -> Tensor:
    """Mean return `[R]` over the cells of a world, in units of the attainable gain; mean action, no noise."""
    return cell_returns(policy, world, config).mean(1)


def without_responses(world: World) -> World:
    """The world with every label's mean change taken out of the matched cells: only their noise is left."""
    change = world.y - world.x
    member = torch.nn.functional.one_hot(world.group).to(change).T
    mean = member @ change / member.sum(1, keepdim=True).clamp(min=1)
    return dataclasses.replace(world, y=world.y - mean[world.group])


def blur_share(world: World, seeds: Sequence[int] = (0,), timesteps: int = 50_000) -> float:
    """Share of the cell target's attainable return that has nothing to do with the perturbation.

    The return of a network trained by the exact gradient, with every label's mean change taken out of the
    matched cells, over the same with the changes left in.
    """
    config, returns = EnvironmentConfig(target="cell").quiet(), []
    for each in (without_responses(world), world):
        policy = train_pathwise(each, config, seeds, timesteps)
        returns.append(float(mean_return(policy, each, config).mean()))
    return returns[0] / returns[1]

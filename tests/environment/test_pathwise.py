"""The exact gradient through the environment: right to finite differences, and it finds the optimum."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from toy_world import toy_world

from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.pathwise import PathwiseConfig, train_pathwise
from twinlib.environment.units import mean_return, measured
from twinlib.environment.yardsticks import yardstick_policies
from twinlib.errors import InputError, RunError


@pytest.mark.parametrize("settings", [{}, {"mode": "exact"}, {"target": "cell"}])
def test_the_gradient_of_an_episode_is_its_finite_difference(settings: dict) -> None:
    config = EnvironmentConfig(process_noise=0.0, **settings)
    dynamics = Dynamics(toy_world(dtype=torch.float64), config, n_cells=4)
    dynamics.reset([torch.Generator().manual_seed(0)])
    action = torch.linspace(-0.4, 0.5, 6, dtype=torch.float64).requires_grad_(True)

    def total(chosen: torch.Tensor) -> torch.Tensor:
        return dynamics.episode(lambda obs: chosen.expand(1, 4, 6)).mean()

    (gradient,) = torch.autograd.grad(total(action), action)
    for axis in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[axis] = 1e-6
        slope = (total(action + step) - total(action - step)) / 2e-6
        assert float(gradient[axis]) == pytest.approx(float(slope.detach()), rel=1e-5, abs=1e-9)


def test_an_episode_returns_what_its_steps_pay() -> None:
    dynamics = Dynamics(toy_world(dtype=torch.float64), EnvironmentConfig(process_noise=0.0), n_cells=5)
    dynamics.reset([torch.Generator().manual_seed(0)])
    action = torch.full((1, 5, 6), 0.2, dtype=torch.float64)
    at_once = dynamics.episode(lambda obs: action)
    assert torch.allclose(sum(dynamics.step(action).reward for _ in range(15)), at_once, atol=1e-12)


def test_pathwise_finds_what_can_be_attained() -> None:
    world, config = measured(toy_world(m=80)), EnvironmentConfig()
    rows = yardstick_policies(world, config, seeds=[0, 1], timesteps=30_000)
    returns = {name: mean_return(policy, world, config) for name, policy in rows.items()}
    assert list(rows) == ["do_nothing", "random", "greedy", "pathwise"]
    assert rows["pathwise"].replicas == 2 and float(returns["pathwise"].min()) > 0.95
    assert float(returns["random"].max()) < 0.1 and float(returns["do_nothing"]) == 0.0


def test_a_seed_beside_others_is_the_seed_alone() -> None:
    world = toy_world(dtype=torch.float64)
    both = train_pathwise(world, seeds=[0, 1], timesteps=1000)
    alone = train_pathwise(world, seeds=[1], timesteps=1000)
    assert torch.allclose(both.theta[1], alone.theta[0], atol=1e-12)
    assert not torch.equal(both.theta[0], both.theta[1])


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(InputError, match="n_cells"):
        PathwiseConfig(n_cells=0)
    world = toy_world()
    huge = dataclasses.replace(world, y=world.y * 1e25, changes=world.changes * 1e25)
    with pytest.raises(RunError, match="not finite"):
        train_pathwise(huge, timesteps=1000)

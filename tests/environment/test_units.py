"""What the environment is measured in: observations, gains, targets, blur; and what its door refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from toy_world import toy_world

from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.greedy import GreedyLinear
from twinlib.environment.units import best_constant_actions, mean_return, measured, without_responses
from twinlib.environment.world import Units, World
from twinlib.environment.yardsticks import Nothing, RandomActions
from twinlib.errors import InputError, WorldError

FREE = dataclasses.replace(EnvironmentConfig().quiet(), l1=0.0, l2=0.0)


@pytest.fixture(scope="module")
def world() -> World:
    return measured(toy_world(m=80))


def test_observations_of_the_training_world_have_mean_0_and_sd_1(world: World) -> None:
    dynamics = Dynamics(world, FREE, n_cells=len(world))
    obs = [dynamics.reset([torch.Generator()], cells=torch.arange(len(world)))]
    obs += [dynamics.step(torch.zeros(1, len(world), 6)).obs for _ in range(14)]
    time = torch.stack(obs)[..., -1]
    assert torch.allclose(time.mean(), torch.zeros(()), atol=1e-6)
    assert torch.allclose(time.std(correction=0), torch.ones(()), atol=1e-5)
    labels = obs[0][0, :, 3:5].unique(dim=0)
    assert torch.allclose(labels.mean(0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(labels.std(0, correction=0), torch.ones(2), atol=1e-6)
    matches = world.embedding.encode(world.scale(world.y)).detach()
    latent = (torch.cat([world.z0, matches]) - world.units.mean[:3]) / world.units.std[:3]
    assert torch.allclose(latent.std(0, correction=0), torch.ones(3), atol=1e-5)
    assert torch.allclose(obs[0][0, :, :3], latent[: len(world)], atol=1e-5)


def test_the_policy_s_condition_is_read_back_from_the_observation(world: World) -> None:
    dynamics = Dynamics(world, n_cells=10)
    obs = dynamics.reset([torch.Generator()], cells=torch.arange(10))
    assert torch.allclose(dynamics.conditions(obs)[0], world.condition[:10], atol=1e-6)


@pytest.mark.parametrize("target", ["population", "cell"])
def test_the_best_constant_action_of_each_label_returns_one(world: World, target: str) -> None:
    config = dataclasses.replace(FREE, target=target)
    best = best_constant_actions(world, config)
    assert float(mean_return(best, world, config)) == pytest.approx(1.0, abs=1e-4)
    near = torch.randn(20, *best.actions.shape, generator=torch.Generator().manual_seed(0))
    for step in near:
        best_now, best.actions = best.actions, (best.actions + 0.2 * step).clamp(-1, 1)
        assert float(mean_return(best, world, config)) < 1.0
        best.actions = best_now
    assert float(mean_return(GreedyLinear(world, config), world, config)) <= 1.0 + 1e-4


def test_nothing_returns_0_and_random_actions_stay_in_their_box(world: World) -> None:
    assert float(mean_return(Nothing(world), world, FREE)) == 0.0
    action = RandomActions(world, [3, 4]).act(torch.zeros(2, 500, 6))
    assert action.shape == (2, 500, 6) and not torch.equal(action[0], action[1])
    assert float(action.min()) < -0.9 and float(action.max()) > 0.9 and float(action.abs().max()) <= 1
    again = RandomActions(world, [3, 4]).act(torch.zeros(2, 500, 6))
    assert torch.equal(action, again)


def test_the_population_target_is_the_control_and_its_group_s_mean_change() -> None:
    world = toy_world()
    start = world.starts(torch.arange(20), "population")
    change = (world.y - world.x)[world.label == 1].mean(0)
    assert torch.allclose((start.y - start.x)[1], change / world.std, atol=1e-5)
    assert torch.allclose(world.starts(torch.arange(20), "cell").y, world.scale(world.y))
    assert torch.allclose(world.mean_changes()[1], change, atol=1e-6)


def test_blur_is_what_is_left_without_any_label_s_mean(world: World) -> None:
    blurred = without_responses(world)
    assert torch.allclose(blurred.mean_changes("cell"), torch.zeros(2, 6), atol=1e-6)
    noise = world.y - world.x - world.mean_changes("cell")[world.label]
    assert torch.allclose(blurred.y - blurred.x, noise, atol=1e-6)


def test_a_world_of_broken_numbers_is_refused() -> None:
    world = toy_world()
    for name in ("x", "y", "changes", "effects", "conditions", "std"):
        wrong = getattr(world, name).clone()
        wrong.reshape(-1)[0] = torch.nan
        with pytest.raises(InputError, match=f"{name} holds NaN"):
            dataclasses.replace(world, **{name: wrong})
    with pytest.raises(InputError, match="z0 has shape"):
        dataclasses.replace(world, z0=world.z0[:5])
    with pytest.raises(InputError, match="units.mean has shape"):
        dataclasses.replace(world, units=Units.plain(4))
    with pytest.raises(WorldError, match="attainable gain of the population target is 0"):
        measured(dataclasses.replace(world, changes=0 * world.changes))


def test_a_start_of_broken_numbers_is_refused() -> None:
    world = toy_world()
    start = world.starts(torch.arange(4).expand(1, 4))
    dynamics = Dynamics(world, n_cells=4)
    with pytest.raises(InputError, match="start's y holds NaN"):
        dynamics.reset([torch.Generator()], start=dataclasses.replace(start, y=start.y * torch.nan))

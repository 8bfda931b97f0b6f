"""The greedy linear optimum: the best constant action where everything is linear."""

from __future__ import annotations

import torch
from toy_world import toy_world

from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.greedy import GreedyLinear, box_least_squares, decoder_jacobian
from twinlib.environment.prediction import predict


def test_box_least_squares_is_the_optimum_inside_the_box() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    wanted = 2 * torch.randn(3, 7, generator=generator, dtype=torch.float64)
    action = box_least_squares(matrix, wanted, 0.01)
    slope = 2 * ((action @ matrix - wanted) @ matrix.T / 7 + 0.01 * action)
    inside = action.abs() < 1 - 1e-9
    assert float(slope[inside].abs().max()) < 1e-8
    assert bool((slope[action >= 1 - 1e-9] <= 1e-8).all()) and bool(
        (slope[action <= -1 + 1e-9] >= -1e-8).all()
    )
    assert bool(inside.any()) and not bool(inside.all())


def test_the_jacobian_is_the_finite_difference_of_the_decoder() -> None:
    world = toy_world(dtype=torch.float64)
    step = torch.zeros(3, dtype=torch.float64)
    step[1] = 1e-6
    by_hand = (world.embedding.decode(world.z0 + step) - world.embedding.decode(world.z0 - step)).mean(
        0
    ) / 2e-6
    assert torch.allclose(decoder_jacobian(world)[1], by_hand.detach(), atol=1e-7)


def test_the_greedy_policy_earns_more_than_nothing_and_more_than_its_neighbours() -> None:
    world = toy_world(m=200, dtype=torch.float64)
    config = EnvironmentConfig(process_noise=0.0, kick=False, action_scale=0.02, l1=0.0)
    policy = GreedyLinear(world, config)

    def earned(actions: torch.Tensor) -> float:
        dynamics = Dynamics(world, config, n_cells=200)
        dynamics.reset([torch.Generator()], cells=torch.arange(200))
        return float(sum(dynamics.step(actions[world.label].unsqueeze(0)).reward for _ in range(15)).mean())

    best = earned(policy.actions)
    assert best > 0
    assert best > earned(0.5 * policy.actions) and best > earned(-policy.actions)
    labels = [world.labels[i] for i in world.label.tolist()]
    assert predict(policy, world, config, world.x, labels).shape == (1, 200, 6)

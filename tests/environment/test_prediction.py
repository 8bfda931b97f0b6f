"""What a policy predicts: the control itself for a policy that does nothing, else the environment's path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_world import toy_world

from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.prediction import predict, profiles, rollout_cells
from twinlib.errors import WorldError


class Constant:
    """A policy of R replicas with one mean action a replica; it must never be asked for a draw."""

    def __init__(self, actions: Tensor) -> None:
        self.actions, self.replicas = actions, len(actions)

    def act(self, obs: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        assert generators is None, "a prediction draws no action"
        return self.actions.unsqueeze(1).expand(-1, obs.shape[1], -1).to(obs)


@pytest.mark.parametrize("n", [1, 5, 20])
def test_a_policy_that_does_nothing_predicts_the_control_exactly(n: int) -> None:
    world = toy_world()
    x = world.x[:n].numpy()
    got = predict(Constant(torch.zeros(3, 6)), world, EnvironmentConfig(), x, ["g0"] * n)
    assert got.shape == (3, n, 6) and np.array_equal(got, np.broadcast_to(x, got.shape))


def test_the_path_starts_at_the_encoded_control_and_steps_by_s_a_E() -> None:
    world = toy_world(dtype=torch.float64)
    actions = torch.rand(2, 6, dtype=torch.float64)
    config = EnvironmentConfig(action_scale=0.2, horizon=4)
    path = rollout_cells(Constant(actions), world, config, world.x[:7], ["g1"] * 7)
    assert path.shape == (2, 7, 5, 3)
    assert torch.allclose(path[1, :, 0], world.embedding.encode(world.scale(world.x[:7])))
    assert torch.allclose(path[1, 3, 4] - path[1, 3, 0], 4 * 0.2 * actions[1] @ world.effects)


def test_the_prediction_is_what_the_environment_rewards() -> None:
    world = toy_world(dtype=torch.float64)
    config = EnvironmentConfig(process_noise=0.0, kick=False, l1=0.0, l2=0.0, horizon=3)
    actions = torch.rand(1, 6, dtype=torch.float64) - 0.5
    dynamics = Dynamics(world, config, n_cells=20)
    dynamics.reset([torch.Generator()], cells=torch.arange(20))
    gained = sum(dynamics.step(actions.expand(1, 20, 6)).reward for _ in range(3))
    labels = [world.labels[i] for i in world.label.tolist()]
    got = torch.as_tensor(predict(Constant(actions), world, config, world.x, labels))
    before = (world.scale(world.x) - world.scale(world.targets())).square().mean(-1)
    after = (world.scale(got) - world.scale(world.targets())).square().mean(-1)
    assert torch.allclose(before - after, gained[0], atol=1e-5)


def test_profiles_are_in_log1p_units() -> None:
    world = toy_world()
    z = world.z0[:4].unsqueeze(0)
    got = profiles(world, world.x[:4], z, z + 0.1)
    change = world.embedding.decode(z + 0.1) - world.embedding.decode(z)
    assert np.allclose(got - world.x[:4].numpy(), (change * world.std).detach().numpy(), atol=1e-6)


def test_an_unknown_label_or_a_wrong_shape_is_refused() -> None:
    world = toy_world()
    with pytest.raises(WorldError, match="nobody"):
        predict(Constant(torch.zeros(1, 6)), world, EnvironmentConfig(), world.x[:1], ["nobody"])
    with pytest.raises(ValueError, match="labels"):
        predict(Constant(torch.zeros(1, 6)), world, EnvironmentConfig(), world.x[:2], ["g0"])

"""Carry weights and buffers of Stable-Baselines3 over, so that both libraries can take the same step."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from torch import Tensor

from twinlib.policy.actor_critic import ActorCritic
from twinlib.policy.distributions import Gaussian
from twinlib.policy.rollout import Buffer


class PointMass(gymnasium.Env):
    """Five coordinates, four actions; the reward is the fall of the squared distance. Cut after 7 steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (5,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.normal(size=5).astype(np.float32), 0
        return self.x, {}

    def step(self, action):
        before = (self.x**2).mean()
        self.x = (self.x + 0.3 * np.append(action, 0.1)).astype(np.float32)
        self.t += 1
        return self.x, float(before - (self.x**2).mean()), self.t % 9 == 8, self.t >= 7, {}


def actor_pieces(policy) -> list[Tensor]:
    """The actor of an SB3 policy in twinlib's order: weight and bias of each layer, then log_std."""
    layers = [policy.mlp_extractor.policy_net[0], policy.mlp_extractor.policy_net[2], policy.action_net]
    return [p for layer in layers for p in (layer.weight, layer.bias)] + [policy.log_std]


def critic_pieces(policy) -> list[Tensor]:
    layers = [policy.mlp_extractor.value_net[0], policy.mlp_extractor.value_net[2], policy.value_net]
    return [p for layer in layers for p in (layer.weight, layer.bias)]


def vector(pieces: list[Tensor]) -> Tensor:
    """Flatten parameters as twinlib does: SB3 keeps weights as [out, in], twinlib as [in, out]."""
    return torch.cat([p.detach().T.reshape(-1) if p.ndim == 2 else p.detach().reshape(-1) for p in pieces])


def from_sb3(policy) -> ActorCritic:
    generator = [torch.Generator().manual_seed(0)]
    ours = ActorCritic(policy.observation_space.shape[0], policy.action_space.shape[0], 1, generator)
    ours.theta = vector(actor_pieces(policy) + critic_pieces(policy)).unsqueeze(0).clone()
    return ours


def rows_of(x: np.ndarray) -> Tensor:
    """SB3 keeps [T, N, ...] and flattens cell by cell; one environment makes both orders the same."""
    return torch.as_tensor(x).squeeze(1).unsqueeze(0)


def from_rollout_buffer(buffer, policy: ActorCritic) -> Buffer:
    obs, action = rows_of(buffer.observations), rows_of(buffer.actions)
    value, advantage = rows_of(buffer.values), rows_of(buffer.advantages)
    with torch.no_grad():
        mean, log_std = policy.distribution(obs)
    return Buffer(
        obs=obs,
        action=action,
        log_prob=rows_of(buffer.log_probs),
        advantage=advantage,
        return_=rows_of(buffer.returns),
        value=value,
        behaviour=Gaussian(mean, log_std.clone()),
        reward=rows_of(buffer.rewards).mean(1),
        episode_return=torch.full((1,), torch.nan),
    )


def epoch_orders(seed: int, rows: int, epochs: int) -> list[Tensor]:
    """The row orders that SB3's buffer will draw after np.random.seed(seed)."""
    state = np.random.RandomState(seed)
    return [torch.as_tensor(state.permutation(rows)) for _ in range(epochs)]

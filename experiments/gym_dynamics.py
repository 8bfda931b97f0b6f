"""Gymnasium's own tasks behind the protocol that the trainer talks to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor


class Step(NamedTuple):
    """What one step of R x N environments returns."""

    obs: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    final_obs: Tensor


class GymDynamics:
    """R x N copies of one gymnasium task, stepped one after the other, each restarted when it ends."""

    def __init__(self, name: str, replicas: int, n_cells: int) -> None:
        self.envs: list[list[Any]] = [[gymnasium.make(name) for _ in range(n_cells)] for _ in range(replicas)]
        space = self.envs[0][0].action_space
        self.discrete = isinstance(space, gymnasium.spaces.Discrete)
        self.action_dim = int(space.n) if self.discrete else space.shape[0]
        self.action_range = (0, 0) if self.discrete else (float(space.low[0]), float(space.high[0]))
        self.observation_dim = self.envs[0][0].observation_space.shape[0]

    def reset(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Seed and start every environment; observations [R, N, O]."""
        rows = []
        for envs, generator in zip(self.envs, generators, strict=True):
            seeds = torch.randint(2**31 - 1, (len(envs),), generator=generator).tolist()
            rows.append([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
        return torch.as_tensor(np.array(rows, dtype=np.float32))

    def step(self, action: Tensor) -> Step:
        """Act in every environment; one that has finished starts anew."""
        results = [
            [self._one(env, a) for env, a in zip(envs, row, strict=True)]
            for envs, row in zip(self.envs, action.numpy(), strict=True)
        ]
        columns = [np.array([[cell[k] for cell in row] for row in results]) for k in range(5)]
        obs, reward, final = (torch.as_tensor(columns[k].astype(np.float32)) for k in (0, 1, 4))
        return Step(obs, reward, torch.as_tensor(columns[2]), torch.as_tensor(columns[3]), final)

    def _one(self, env: gymnasium.Env, action: np.ndarray) -> tuple[Any, ...]:
        final, reward, terminated, truncated, _ = env.step(int(action) if self.discrete else action)
        obs = env.reset()[0] if terminated or truncated else final
        return obs, float(reward), bool(terminated), bool(truncated), final

    def state_dict(self) -> dict[str, Any]:
        """Refused."""
        raise NotImplementedError(
            "gymnasium's tasks cannot be saved in mid-episode: train without a checkpoint."
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Refused."""
        raise NotImplementedError

"""Linear quadratic toy environment: x' = x + 0.3 a, reward = fall of |x|^2, horizon H."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from twinlib.policy.contracts import Box, Step


class Quadratic:
    """R x N points in A dimensions; an episode ends (or is cut, with `cut`) after `horizon` steps."""

    device, resumable = torch.device("cpu"), True

    def __init__(
        self, replicas: int = 1, n_cells: int = 8, action_dim: int = 3, horizon: int = 5, cut: bool = False
    ) -> None:
        self.replicas, self.n_cells, self.action_dim = replicas, n_cells, action_dim
        self.observation_dim, self.horizon, self.cut = action_dim + 1, horizon, cut
        self.action = Box(-torch.ones(action_dim), torch.ones(action_dim))
        self.dtype = torch.float64

    def reset(self, generators: Sequence[torch.Generator]) -> Tensor:
        self.generators = generators
        self.x = self.fresh()
        self.t = torch.zeros(self.replicas, self.n_cells, dtype=self.dtype)
        return self.obs()

    def fresh(self) -> Tensor:
        draws = [
            torch.randn(self.n_cells, self.action_dim, generator=g, dtype=self.dtype) for g in self.generators
        ]
        return torch.stack(draws)

    def obs(self) -> Tensor:
        return torch.cat([self.x, (self.t / self.horizon).unsqueeze(-1)], -1)

    def step(self, action: Tensor) -> Step:
        before = self.x.square().mean(-1)
        self.x = self.x + 0.3 * action
        self.t = self.t + 1
        final, end = self.obs(), self.t >= self.horizon
        reward = before - self.x.square().mean(-1)
        self.x = torch.where(end.unsqueeze(-1), self.fresh(), self.x)
        self.t = torch.where(end, torch.zeros_like(self.t), self.t)
        never = torch.zeros_like(end)
        return Step(self.obs(), reward, *((never, end) if self.cut else (end, never)), final)

    def state_dict(self) -> dict[str, Any]:
        return {"x": self.x, "t": self.t}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.x, self.t = state["x"], state["t"]

"""Collecting experience of R x N cells side by side, and its worth: generalized advantage estimation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from twinlib.policy.actor_critic import ActorCritic, Gaussian


class StepLike(Protocol):
    """What one step of the dynamics returns; `final_obs` [R, N, O] is the observation before any reset."""

    @property
    def obs(self) -> Tensor: ...  # noqa: D102
    @property
    def reward(self) -> Tensor: ...  # noqa: D102
    @property
    def terminated(self) -> Tensor: ...  # noqa: D102
    @property
    def truncated(self) -> Tensor: ...  # noqa: D102
    @property
    def final_obs(self) -> Tensor: ...  # noqa: D102


class DynamicsLike(Protocol):
    """What the trainer needs of an environment: R x N cells, stepped together, that reset themselves."""

    @property
    def observation_dim(self) -> int: ...  # noqa: D102
    @property
    def action_dim(self) -> int: ...  # noqa: D102
    def reset(self, generators: Sequence[torch.Generator]) -> Tensor: ...  # noqa: D102
    def step(self, action: Tensor) -> StepLike: ...  # noqa: D102
    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102
    def load_state_dict(self, state: dict[str, Any]) -> None: ...  # noqa: D102


def generalized_advantage(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimates and the returns the critic learns (Schulman 2016).

    All arguments [R, T, N]. `next_value` is the value of the observation the step led to, **before** any
    reset. A terminated step has no future; a truncated one has, so its next value counts, but nothing flows
    back over the seam of two episodes. Returns advantage and return_ = advantage + value, both [R, T, N].

    >>> one = torch.ones(1, 1, 1)
    >>> last = torch.tensor([[[True]]])
    >>> generalized_advantage(one, one * 0, one * 5, terminated=last, truncated=~last)[0].item()
    1.0
    >>> round(generalized_advantage(one, one * 0, one * 5, ~last, truncated=last)[0].item(), 2)
    5.95
    """
    delta = reward + gamma * next_value * (~terminated) - value
    carry = gamma * gae_lambda * (~(terminated | truncated))
    advantage, running = torch.empty_like(delta), torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        running = delta[:, t] + carry[:, t] * running
        advantage[:, t] = running
    return advantage, advantage + value


@dataclass(frozen=True)
class Buffer:
    """One iteration's experience, time and cells flattened to n = T N rows a replica."""

    #: observations [R, n, O]
    obs: Tensor
    #: actions as drawn, unclipped [R, n, A]
    action: Tensor
    #: log-probability of the actions under the policy that drew them [R, n]
    log_prob: Tensor
    #: advantage estimates [R, n]
    advantage: Tensor
    #: targets of the critic [R, n]
    return_: Tensor
    #: the critic's estimates when the data was collected [R, n]
    value: Tensor
    #: the policy that collected the data, in these states
    behaviour: Gaussian
    #: mean reward per step [R]
    reward: Tensor
    #: mean undiscounted return of the episodes that ended in this iteration [R], nan if none did
    episode_return: Tensor

    @property
    def rows(self) -> int:
        """n = T N, environment steps of one replica in the buffer."""
        return self.obs.shape[1]


def explained_variance(value: Tensor, return_: Tensor) -> Tensor:
    """1 - Var(return_ - value) / Var(return_) [R] from [R, n]; nan where the returns are constant."""
    spread = return_.var(1, correction=0)
    left = (return_ - value).var(1, correction=0)
    return torch.where(spread > 0, 1.0 - left / spread, torch.full_like(spread, torch.nan))


def _flat(x: Tensor) -> Tensor:
    """[R, T, N, ...] -> [R, T N, ...]."""
    return x.flatten(1, 2)


def _joined(parts: list[Gaussian]) -> Gaussian:
    """The policies of T steps as one over T N states; log_std is cloned, since updates write into theta."""
    states, *shared = zip(*parts, strict=True)
    return type(parts[0])(torch.cat(states, 1), *(x[0].clone() for x in shared))


class _Moment(NamedTuple):
    """One time step of all cells; `seam` is the value where an episode was cut, None without a cut."""

    obs: Tensor
    action: Tensor
    policy: Gaussian
    step: StepLike
    seam: Tensor | None


class Collector:
    """Steps the dynamics with the policy and keeps what must survive between iterations.

    Clipping to the action range happens on the way to the environment only: the log-probability belongs to
    the action that was drawn.
    """

    def __init__(
        self,
        dynamics: DynamicsLike,
        environment_generators: Sequence[torch.Generator],
        action_generators: Sequence[torch.Generator],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dynamics, self.generators, self.dtype = dynamics, action_generators, dtype
        self.obs = dynamics.reset(environment_generators)
        self.running = torch.zeros(self.obs.shape[:2], dtype=dtype, device=self.obs.device)
        bounds: tuple[float, float] = getattr(dynamics, "action_range", (-1.0, 1.0))
        self.low, self.high = bounds

    def _act(self, policy: ActorCritic) -> tuple[Tensor, Gaussian, StepLike]:
        distribution = policy.distribution(self.obs.to(self.dtype))
        action = distribution.sample(self.generators)
        sent = action if policy.discrete else action.clamp(self.low, self.high).to(self.obs.dtype)
        return action, distribution, self.dynamics.step(sent)

    def _finish(self, step: StepLike, returns: Tensor, episodes: Tensor) -> None:
        """Add up episode returns: running sums [R, N], totals over finished episodes [R]."""
        done = step.terminated | step.truncated
        self.running += step.reward.to(self.dtype)
        returns += (self.running * done).sum(1)
        episodes += done.sum(1)
        self.running *= ~done

    @torch.no_grad()
    def collect(self, policy: ActorCritic, steps: int, gamma: float, gae_lambda: float) -> Buffer:
        """Run `steps` time steps T of every cell and return the buffer with advantages."""
        moments: list[_Moment] = []
        returns, episodes = torch.zeros_like(self.running[:, 0]), torch.zeros_like(self.running[:, 0])
        for _ in range(steps):
            action, distribution, step = self._act(policy)
            moments.append(
                _Moment(self.obs.to(self.dtype), action, distribution, step, self._seam(policy, step))
            )
            self._finish(step, returns, episodes)
            self.obs = step.obs
        return self._buffer(policy, moments, returns / episodes, gamma, gae_lambda)

    def _buffer(
        self,
        policy: ActorCritic,
        moments: list[_Moment],
        episode_return: Tensor,
        gamma: float,
        gae_lambda: float,
    ) -> Buffer:
        obs = torch.stack([m.obs for m in moments], 1)
        action = torch.stack([m.action for m in moments], 1)
        reward = torch.stack([m.step.reward.to(self.dtype) for m in moments], 1)
        terminated = torch.stack([m.step.terminated for m in moments], 1)
        truncated = torch.stack([m.step.truncated for m in moments], 1)
        value, next_value = self._values(policy, obs, truncated, [m.seam for m in moments])
        ends = (terminated, truncated, gamma, gae_lambda)
        advantage, return_ = generalized_advantage(reward, value, next_value, *ends)
        behaviour = _joined([m.policy for m in moments])
        return Buffer(
            obs=_flat(obs),
            action=_flat(action),
            log_prob=behaviour.log_prob(_flat(action)),
            advantage=_flat(advantage),
            return_=_flat(return_),
            value=_flat(value),
            behaviour=behaviour,
            reward=reward.mean((1, 2)),
            episode_return=episode_return,
        )

    def _seam(self, policy: ActorCritic, step: StepLike) -> Tensor | None:
        """Value [R, N] of the last observation of truncated episodes; None where no episode was cut."""
        if not bool(step.truncated.any()):
            return None
        return policy.value(step.final_obs.to(self.dtype))

    def _values(
        self, policy: ActorCritic, obs: Tensor, truncated: Tensor, seams: list[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """Value and next value [R, T, N]; at a cut the latter belongs to the observation before the reset."""
        obs = torch.cat([obs, self.obs.to(self.dtype).unsqueeze(1)], 1)
        value = policy.value(_flat(obs)).view(obs.shape[:3])
        next_value = value[:, 1:].clone()
        for t, seam in enumerate(seams):
            if seam is not None:
                next_value[:, t] = torch.where(truncated[:, t], seam, next_value[:, t])
        return value[:, :-1], next_value

    def state_dict(self) -> dict[str, Any]:
        """The environment in mid-episode, for a bit-identical resume."""
        return {"obs": self.obs, "running": self.running, "dynamics": self.dynamics.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.obs, self.running = state["obs"], state["running"]
        self.dynamics.load_state_dict(state["dynamics"])

"""Collecting experience of R x N cells side by side, and its worth: generalized advantage estimation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from twinlib.errors import Divergence, InputError
from twinlib.policy.actor_critic import ActorCritic
from twinlib.policy.contracts import Box, Distribution, Saved, Step, Task

#: What mends a quantity that is not finite, where the task made it and where the policy did.
MEND_TASK = "mend the task, or scale it down"
MEND_POLICY = "lower the learning rate, or scale the reward down"


def generalized_advantage(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float | Tensor = 0.99,
    gae_lambda: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimates and the returns the critic learns (Schulman 2016).

    All arguments [R, T, N]; gamma is one number, or one a replica [R, 1, 1]. `next_value` is the value of the
    observation the step led to, **before** any reset. A terminated step has no future; a truncated one has,
    so its next value counts, but nothing flows back over the seam of two episodes. Returns advantage and
    return_ = advantage + value, both [R, T, N].

    >>> one = torch.ones(1, 1, 1)
    >>> last = torch.tensor([[[True]]])
    >>> generalized_advantage(one, one * 0, one * 5, terminated=last, truncated=~last)[0].item()
    1.0
    >>> round(generalized_advantage(one, one * 0, one * 5, ~last, truncated=last)[0].item(), 2)
    5.95
    """
    discount = torch.as_tensor(gamma, dtype=torch.float64, device=reward.device)
    delta = reward + discount.to(reward) * next_value * (~terminated) - value
    carry = (discount * gae_lambda).to(reward) * (~(terminated | truncated))
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
    behaviour: Distribution
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


class Moment(NamedTuple):
    """One time step of all cells."""

    #: what the policy saw [R, N, O]
    obs: Tensor
    #: the action as drawn, unclipped [R, N, A]
    action: Tensor
    #: the policy that drew it
    behaviour: Distribution
    #: what the task answered
    step: Step
    #: value of the last observation where an episode was cut [R, N]; None without a cut
    seam: Tensor | None


def require_finite(mend: str, **quantities: Tensor) -> None:
    """Stop a training where a quantity [R, ...] is not finite: one sentence with replica and mend."""
    for name, values in quantities.items():
        if bool(values.sum().isfinite()) or bool(values.isfinite().all()):
            continue  # a finite sum, which costs a tenth, has finite terms only
        lost = (~values.isfinite().reshape(len(values), -1).all(1)).nonzero().flatten().tolist()
        raise Divergence(f"the {name.replace('_', ' ')} of replica {lost[0]} is not finite; {mend}.", lost)


def _require_sound(obs: Tensor, action: Tensor, reward: Tensor) -> None:
    """Name the first link that broke: a policy that sees nan draws nan, and a task pays nan for it.

    obs [R, T + 1, N, O], action [R, T, N, ...], reward [R, T, N].
    """
    if bool((obs.sum() + action.sum() + reward.sum()).isfinite()):
        return
    seen = obs[:, :-1].isfinite().all(-1)
    drawn = action.reshape(*seen.shape, -1).isfinite().all(-1) | ~seen
    require_finite(MEND_POLICY, action=drawn.float().masked_fill(~drawn, torch.nan))
    require_finite(MEND_TASK, observation=obs, reward=reward)


class Collector:
    """Steps the task with the policy and keeps what must survive between iterations.

    Clipping to the action's bounds happens on the way to the task only: the log-probability belongs to the
    action that was drawn.
    """

    def __init__(
        self,
        task: Task,
        environment_generators: Sequence[torch.Generator],
        action_generators: Sequence[torch.Generator],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.task, self.action, self.generators, self.dtype = task, task.action, action_generators, dtype
        self.obs = task.reset(environment_generators)
        self.running = torch.zeros(self.obs.shape[:2], dtype=dtype, device=self.obs.device)

    @torch.no_grad()
    def step(self, policy: ActorCritic) -> Moment:
        """Act once in every cell."""
        obs = self.obs.to(self.dtype)
        if not isinstance(self.action, Box):
            require_finite(MEND_TASK, observation=obs)  # no choice can be drawn from weights of NaN
        behaviour = policy.distribution(obs)
        action = sent = behaviour.sample(self.generators)
        if isinstance(self.action, Box):
            sent = action.clamp(self.action.low.to(action), self.action.high.to(action)).to(self.obs.dtype)
        try:
            step = self.task.step(sent)
        except InputError:
            # a task may refuse nan: name the first link that broke, as `_require_sound` does
            require_finite(MEND_TASK, observation=obs)
            require_finite(MEND_POLICY, action=action)
            raise
        seam = policy.value(step.final_obs.to(self.dtype)) if bool(step.truncated.any()) else None
        self.obs = step.obs
        return Moment(obs, action, behaviour, step, seam)

    @torch.no_grad()
    def collect(self, policy: ActorCritic, steps: int, gamma: float | Tensor, gae_lambda: float) -> Buffer:
        """Run `steps` time steps T of every cell and return the buffer with advantages; gamma one, or [R]."""
        moments = [self.step(policy) for _ in range(steps)]
        reward = torch.stack([m.step.reward.to(self.dtype) for m in moments], 1)
        terminated = torch.stack([m.step.terminated for m in moments], 1)
        truncated = torch.stack([m.step.truncated for m in moments], 1)
        obs = torch.stack([*(m.obs for m in moments), self.obs.to(self.dtype)], 1)
        action = torch.stack([m.action for m in moments], 1)
        _require_sound(obs, action, reward)
        value = policy.value(_flat(obs)).view(obs.shape[:3])
        next_value = value[:, 1:].clone()
        for t, moment in enumerate(moments):
            if moment.seam is not None:
                next_value[:, t] = torch.where(truncated[:, t], moment.seam, next_value[:, t])
        value = value[:, :-1]
        discount = gamma.view(-1, 1, 1) if isinstance(gamma, Tensor) else gamma
        ends = (terminated, truncated, discount, gae_lambda)
        advantage, return_ = generalized_advantage(reward, value, next_value, *ends)
        first, *_ = behaviours = [m.behaviour for m in moments]
        behaviour = first.joined(behaviours)
        action = _flat(action)
        return Buffer(
            obs=_flat(obs[:, :-1]),
            action=action,
            log_prob=behaviour.log_prob(action),
            advantage=_flat(advantage),
            return_=_flat(return_),
            value=_flat(value),
            behaviour=behaviour,
            reward=reward.mean((1, 2)),
            episode_return=self._episode_return(reward, terminated | truncated),
        )

    def _episode_return(self, reward: Tensor, done: Tensor) -> Tensor:
        """Mean return [R] of the episodes that ended, from [R, T, N]; the running ones are kept."""
        total = torch.zeros_like(self.running[:, 0])
        for now, ended in zip(reward.unbind(1), done.unbind(1), strict=True):
            self.running += now
            total += (self.running * ended).sum(1)
            self.running *= ~ended
        return total / done.sum((1, 2))

    def state_dict(self) -> Saved:
        """The task in mid-episode, for a bit-identical resume."""
        return {"obs": self.obs, "running": self.running, "task": self.task.state_dict()}

    def load_state_dict(self, state: Saved) -> None:
        """Continue where `state_dict` was taken."""
        self.obs, self.running = state["obs"], state["running"]
        self.task.load_state_dict(state["task"])

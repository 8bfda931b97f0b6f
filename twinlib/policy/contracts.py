"""What training asks of a task, of a policy and of its actions; any object that has these can be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

#: The state of a task or a run as torch.save writes it: tensors, numbers, words, lists and dicts of them.
Saved = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Box:
    """Actions that are vectors of A numbers between bounds."""

    #: smallest value of each action [A]
    low: Tensor
    #: largest value of each action [A]
    high: Tensor

    @property
    def size(self) -> int:
        """Outputs that the policy needs: A."""
        return len(self.low)


@dataclass(frozen=True)
class Discrete:
    """Actions that are one of `size` numbers: 0, 1, ..."""

    #: number of actions, as many as the policy needs outputs
    size: int


class Step(NamedTuple):
    """What one step of R x N cells returns; `final_obs` is what a finished cell saw before its new start."""

    #: the observation the next action is chosen from [R, N, O]; of a finished cell, the new start
    obs: Tensor
    #: reward of this step [R, N]
    reward: Tensor
    #: the episode ended inside the task [R, N] bool
    terminated: Tensor
    #: the episode was cut from outside, so that its value must be bootstrapped [R, N] bool
    truncated: Tensor
    #: the observation before a finished cell was replaced [R, N, O]; elsewhere equal to `obs`
    final_obs: Tensor


class Task(Protocol):
    """R x N cells stepped together, each starting anew by itself when its episode ends."""

    @property
    def observation_dim(self) -> int:
        """Length O of an observation."""

    @property
    def action(self) -> Box | Discrete:
        """What an action is."""

    @property
    def device(self) -> torch.device:
        """Where the cells live."""

    @property
    def resumable(self) -> bool:
        """Can `state_dict` save the cells in mid-episode?"""

    def reset(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Start all cells anew, one generator a replica: R is their number; observations [R, N, O]."""

    def step(self, action: Tensor) -> Step:
        """Act on all cells: [R, N, A] numbers, or [R, N] indices where the action is discrete."""

    def state_dict(self) -> Saved:
        """The cells in mid-episode and their generators."""

    def load_state_dict(self, state: Saved) -> None:
        """Go on where `state_dict` was taken."""


class Policy(Protocol):
    """R replicas that choose actions."""

    @property
    def replicas(self) -> int:
        """R."""

    def act(self, obs: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Actions [R, N, A] in the states obs [R, N, O]: the most probable ones, or draws."""


class Distribution(Protocol):
    """Actions of R replicas in B states; iterating gives its parameters, the network's outputs."""

    def __iter__(self) -> Iterator[Tensor]: ...

    @property
    def events(self) -> int:
        """Number of independent choices that a log-probability sums up."""

    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw one action a state; replica r draws from generator r only."""

    def mode(self) -> Tensor:
        """The most probable action of each state."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability [R, B] of one action a state."""

    def entropy(self) -> Tensor:
        """Entropy [R] in nats, averaged over states."""

    def kl(self, other: Self) -> Tensor:
        """KL(self || other) [R, B], state by state (Eq. 4)."""

    def fisher(self, tangent: Self) -> Self:
        """Apply the Fisher matrix of the distribution's own parameters to a tangent, averaged over states."""

    def detach(self) -> Self:
        """A copy of the numbers, without the graph, that later updates leave alone."""

    def minibatches(self, order: Tensor, size: int) -> list[Self]:
        """The states in the order [R, B], in groups of `size`."""

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The states of several parts as one [R, sum of B]; what the states share comes from the first."""

"""What a policy says about actions: independent normals, or one of K; both satisfy `Distribution`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LOG_TWO_PI = math.log(2.0 * math.pi)


class Gaussian(NamedTuple):
    """Independent normal actions: `mean` [R, B, A] and `log_std` [R, A] (one per action, not per state)."""

    mean: Tensor
    log_std: Tensor

    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw one action [R, B, A] per state; replica r draws from generator r only."""
        noise = [
            torch.randn(m.shape, generator=g, dtype=m.dtype, device=m.device)
            for m, g in zip(self.mean, generators, strict=True)
        ]
        return torch.addcmul(self.mean, torch.stack(noise), self.log_std.exp().unsqueeze(1))

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density [R, B] of unclipped actions [R, B, A], summed over action dimensions."""
        score = (action - self.mean) * torch.exp(-self.log_std).unsqueeze(1)
        constant = self.log_std.sum(-1, keepdim=True) + 0.5 * LOG_TWO_PI * self.mean.shape[-1]
        # score * score, not square(): the backward pass of a power costs four times as much.
        return -0.5 * (score * score).sum(-1) - constant

    def entropy(self) -> Tensor:
        """Differential entropy [R] in nats; it depends on log_std only, so it is the same in every state."""
        return self.log_std.sum(-1) + 0.5 * (1.0 + LOG_TWO_PI) * self.log_std.shape[-1]

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) [R, B], state by state, summed over action dimensions (Eq. 4)."""
        precision = torch.exp(-2.0 * other.log_std)
        scale = other.log_std - self.log_std + 0.5 * torch.exp(2.0 * self.log_std) * precision - 0.5
        gap = self.mean - other.mean
        shift = 0.5 * (gap * gap * precision.unsqueeze(1)).sum(-1)
        return scale.sum(-1, keepdim=True) + shift

    def fisher(self, tangent: Gaussian) -> Gaussian:
        """Apply the Fisher matrix of the distribution's own parameters to a tangent, averaged over states.

        In (mean, log_std) the Fisher matrix of a normal is diagonal: 1 / std^2 and 2.
        """
        states = self.mean.shape[1]
        mean = tangent.mean * torch.exp(-2.0 * self.log_std).unsqueeze(1) / states
        return Gaussian(mean, 2.0 * tangent.log_std)

    def mode(self) -> Tensor:
        """The most probable action [R, B, A]."""
        return self.mean

    def detach(self) -> Gaussian:
        """A copy of the numbers, without the graph, that later updates leave alone."""
        return Gaussian(self.mean.detach().clone(), self.log_std.detach().clone())

    def minibatches(self, order: Tensor, size: int) -> list[Gaussian]:
        """The states in the order [R, B], in groups of `size`."""
        return [Gaussian(mean, self.log_std) for mean in torch.split(take(self.mean, order), size, dim=1)]

    @classmethod
    def joined(cls, parts: Sequence[Gaussian]) -> Gaussian:
        """The states of several parts as one [R, sum of B, A]; log_std is a copy of the first part's."""
        first, *_ = parts
        return cls(torch.cat([part.mean for part in parts], 1), first.log_std.clone())

    @property
    def events(self) -> int:
        """Number of summed action dimensions A."""
        return self.mean.shape[-1]


class Categorical(NamedTuple):
    """One of K actions: `logits` [R, B, K], normalised log-probabilities (for discrete tasks)."""

    logits: Tensor

    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw one action index [R, B] per state; replica r draws from generator r only."""
        draws = [
            torch.multinomial(p, 1, replacement=True, generator=g).squeeze(-1)
            for p, g in zip(self.logits.exp(), generators, strict=True)
        ]
        return torch.stack(draws)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability [R, B] of the action indices [R, B]."""
        return self.logits.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Entropy [R] in nats, averaged over states."""
        return -(self.logits.exp() * self.logits).sum(-1).mean(-1)

    def kl(self, other: Categorical) -> Tensor:
        """KL(self || other) [R, B] state by state."""
        return (self.logits.exp() * (self.logits - other.logits)).sum(-1)

    def fisher(self, tangent: Categorical) -> Categorical:
        """Apply the Fisher matrix of the log-probabilities to a tangent, averaged over states."""
        return Categorical(self.logits.exp() * tangent.logits / self.logits.shape[1])

    def mode(self) -> Tensor:
        """The most probable action [R, B]."""
        return self.logits.argmax(-1)

    def detach(self) -> Categorical:
        """A copy of the numbers, without the graph, that later updates leave alone."""
        return Categorical(self.logits.detach().clone())

    def minibatches(self, order: Tensor, size: int) -> list[Categorical]:
        """The states in the order [R, B], in groups of `size`."""
        return [Categorical(logits) for logits in torch.split(take(self.logits, order), size, dim=1)]

    @classmethod
    def joined(cls, parts: Sequence[Categorical]) -> Categorical:
        """The states of several parts as one [R, sum of B, K]."""
        return cls(torch.cat([part.logits for part in parts], 1))

    @property
    def events(self) -> int:
        """One event a state."""
        return 1


def take(x: Tensor, rows: Tensor) -> Tensor:
    """Rows `rows` [R, B'] of every replica of x [R, B, ...], as [R, B', ...]."""
    replicas, n = x.shape[:2]
    offset = torch.arange(replicas, device=rows.device).unsqueeze(1) * n
    flat = x.reshape(replicas * n, *x.shape[2:]).index_select(0, (rows + offset).reshape(-1))
    return flat.reshape(*rows.shape, *x.shape[2:])

"""Proximal policy optimization: clipped and KL-penalised objectives, value and entropy terms (Eq. 7-9)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from twinlib.policy.actor_critic import ActorCritic, Adam, Gaussian, clip_rows, take
from twinlib.policy.rollout import Buffer
from twinlib.policy.trust_region import normalized


@dataclass(frozen=True)
class ProximalConfig:
    """Settings of one PPO update; the defaults are those of Stable-Baselines3."""

    #: step size of Adam
    learning_rate: float = 3e-4
    #: rows of one minibatch B
    minibatch_size: int = 64
    #: passes over the buffer
    epochs: int = 10
    #: clip range of the ratio; None switches the clip off (Eq. 8 as printed)
    clip_range: float | None = 0.2
    #: weight of the KL penalty (Eq. 8); 0 switches it off
    beta: float = 0.0
    #: double / halve beta after an update whose KL left [target / 1.5, 1.5 target] (Schulman 2017)
    adaptive_beta: bool = False
    #: an update stops before a minibatch whose KL exceeds 1.5 times this; None: it never stops
    target_kl: float | None = None
    #: KL that decides the stop: "exact" (Eq. 4 on the minibatch) or "k3" (mean of ratio - 1 - log ratio)
    stop_estimate: str = "exact"
    #: c_v of Eq. 9, which multiplies half the squared error
    value_coefficient: float = 1.0
    #: c_e of Eq. 9
    entropy_coefficient: float = 0.0
    #: the joint gradient of actor and critic is scaled down to this norm
    max_gradient_norm: float = 0.5
    #: scale the advantages of each minibatch to mean 0 and standard deviation 1
    normalize_advantage: bool = True

    def __post_init__(self) -> None:
        if self.stop_estimate not in ("exact", "k3"):
            raise ValueError(f"ProximalConfig: stop_estimate is {self.stop_estimate!r}; use 'exact' or 'k3'.")
        if self.minibatch_size < 2 or self.epochs < 1:
            raise ValueError(
                "ProximalConfig: minibatch_size must be at least 2 and epochs at least 1; raise them."
            )
        if self.clip_range is not None and self.clip_range <= 0:
            raise ValueError("ProximalConfig: clip_range must be positive; use None to switch the clip off.")


def clipped_objective(ratio: Tensor, advantage: Tensor, clip_range: float | None) -> Tensor:
    """Mean of min(ratio A, clip(ratio) A) [R] (Schulman 2017); with clip_range None of ratio A (Eq. 8)."""
    plain = ratio * advantage
    if clip_range is None:
        return plain.mean(-1)
    return torch.minimum(plain, ratio.clamp(1.0 - clip_range, 1.0 + clip_range) * advantage).mean(-1)


def value_loss(value: Tensor, return_: Tensor) -> Tensor:
    """Half the mean squared error of the critic [R] (Eq. 9)."""
    return 0.5 * (value - return_).square().mean(-1)


class Minibatch(NamedTuple):
    """B rows of every replica, gathered from the buffer."""

    obs: Tensor
    action: Tensor
    #: log-probability in the denominator of the ratio
    log_prob: Tensor
    advantage: Tensor
    return_: Tensor
    #: theta' of Eq. 7-8 in these states; None where neither penalty nor stop needs it
    reference: Gaussian | None


class Losses(NamedTuple):
    """The terms of Eq. 9 on one minibatch, each [R]."""

    total: Tensor
    objective: Tensor
    value: Tensor
    entropy: Tensor
    kl: Tensor
    clip_fraction: Tensor


def proximal_losses(
    policy: ActorCritic, theta: Tensor, batch: Minibatch, config: ProximalConfig, beta: Tensor
) -> Losses:
    """Eq. 9 with clip, penalty, both or neither: theta [R, P], beta [R] -> losses [R] with their graph."""
    actor, critic = torch.split(theta, [policy.actor_size, theta.shape[1] - policy.actor_size], dim=1)
    new = policy.distribution(batch.obs, actor)
    log_ratio = new.log_prob(batch.action) - batch.log_prob
    ratio = log_ratio.exp()
    advantage = normalized(batch.advantage) if config.normalize_advantage else batch.advantage
    objective = clipped_objective(ratio, advantage, config.clip_range)
    kl = _kl(config, batch, new, log_ratio, ratio)
    value = value_loss(policy.value(batch.obs, critic), batch.return_)
    entropy = new.entropy()
    total = -objective + config.value_coefficient * value - config.entropy_coefficient * entropy
    if config.beta > 0:
        total = total + beta * kl
    clipped = (ratio.detach() - 1.0).abs() > (config.clip_range or torch.inf)
    return Losses(total, objective.detach(), value.detach(), entropy.detach(), kl, clipped.to(ratio).mean(-1))


def _kl(config: ProximalConfig, batch: Minibatch, new: Gaussian, log_ratio: Tensor, ratio: Tensor) -> Tensor:
    """KL(theta' || theta) of the minibatch [R]: exact where the update needs it, else the k3 estimate."""
    if batch.reference is not None:
        return batch.reference.kl(new).mean(-1)
    return (ratio.detach() - 1.0 - log_ratio.detach()).mean(-1)


class ProximalUpdate(NamedTuple):
    """What one PPO update did, one entry a replica [R]."""

    #: Eq. 4's KL(theta' || theta) over the whole buffer after the update
    kl: Tensor
    #: optimizer steps taken before the stop
    steps: Tensor
    #: means over the minibatches that were used
    objective: Tensor
    value_loss: Tensor
    clip_fraction: Tensor
    #: penalty weight for the next update
    beta: Tensor


def permuted(rows: int, generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """One epoch's order of the buffer's rows [R, n]; replica r's order comes from generator r."""
    return torch.stack([torch.randperm(rows, generator=g, device=g.device) for g in generators]).to(device)


def adapted(beta: Tensor, kl: Tensor, target: Tensor) -> Tensor:
    """Double beta [R] where the KL exceeds 1.5 target, halve it below target / 1.5 (Schulman 2017)."""
    factor = torch.where(kl > 1.5 * target, 2.0, torch.where(kl < target / 1.5, 0.5, 1.0))
    return beta * factor


def proximal_update(
    policy: ActorCritic,
    optimizer: Adam,
    buffer: Buffer,
    config: ProximalConfig,
    generators: Sequence[torch.Generator],
    beta: Tensor | None = None,
    target_kl: Tensor | None = None,
    reference: Gaussian | None = None,
    ratio_log_prob: Tensor | None = None,
) -> ProximalUpdate:
    """Epochs of minibatch steps on Eq. 9; writes `policy.theta`.

    beta, target_kl [R] default to the config's; `reference` is theta' in the buffer's states (default: the
    policy that collected them) and `ratio_log_prob` [R, n] the log-probability under the ratio's denominator
    (default: the collecting policy's). A replica whose minibatch KL exceeds 1.5 target_kl stops **before**
    that step: its parameters and its Adam state stand still for the rest of the update. The first minibatch
    is always used: there theta is theta' and its KL is rounding.
    """
    run = _Update(policy, optimizer, buffer, config, beta, target_kl, reference, ratio_log_prob)
    for _ in range(config.epochs):
        for batch in run.minibatches(generators):
            if not run.step(batch):
                return run.result()
    return run.result()


class _Update:
    """The state of one PPO update: which replicas are still moving, and the sums for the log."""

    def __init__(
        self,
        policy: ActorCritic,
        optimizer: Adam,
        buffer: Buffer,
        config: ProximalConfig,
        beta: Tensor | None,
        target_kl: Tensor | None,
        reference: Gaussian | None,
        ratio_log_prob: Tensor | None,
    ) -> None:
        self.policy, self.optimizer, self.buffer, self.config = policy, optimizer, buffer, config
        zero = torch.zeros_like(buffer.reward)
        self.beta = zero + config.beta if beta is None else beta
        self.target = (
            zero + config.target_kl if target_kl is None and config.target_kl is not None else target_kl
        )
        self.reference = buffer.behaviour if reference is None else reference
        self.log_prob = buffer.log_prob if ratio_log_prob is None else ratio_log_prob
        self.exact = config.beta > 0 or (self.target is not None and config.stop_estimate == "exact")
        self.active, self.steps = zero == 0, zero.clone()
        self.sums = torch.zeros(3, *zero.shape, dtype=zero.dtype, device=zero.device)

    def minibatches(self, generators: Sequence[torch.Generator]) -> Iterator[Minibatch]:
        """One epoch: the buffer is put into its new order at once, then handed out in slices of B rows."""
        b, size = self.buffer, self.config.minibatch_size
        order = permuted(b.rows, generators, b.obs.device)
        columns = (b.obs, b.action, self.log_prob, b.advantage, b.return_)
        slices = [torch.split(take(x, order), size, dim=1) for x in columns]
        reference = self.reference.pick(order).split(size) if self.exact else [None] * len(slices[0])
        yield from (Minibatch(*rows) for rows in zip(*slices, reference, strict=True))

    def step(self, batch: Minibatch) -> bool:
        """One minibatch; False when every replica has stopped."""
        theta = self.policy.theta.detach().requires_grad_()
        losses = proximal_losses(self.policy, theta, batch, self.config, self.beta)
        if self.target is not None:
            # Once stopped a replica stays stopped; at the first minibatch nobody has moved, so nobody stops.
            self.active = self.active & ((losses.kl.detach() <= 1.5 * self.target) | (self.steps == 0))
            if not bool(self.active.any()):
                return False
        (gradient,) = torch.autograd.grad(losses.total.sum(), theta)
        self.optimizer.step(clip_rows(gradient, self.config.max_gradient_norm), self.active)
        self.steps += self.active
        self.sums += torch.stack([losses.objective, losses.value, losses.clip_fraction]) * self.active
        return True

    @torch.no_grad()
    def result(self) -> ProximalUpdate:
        kl = self.reference.kl(self.policy.distribution(self.buffer.obs)).mean(-1)
        beta = self.beta
        if self.config.adaptive_beta and self.target is not None:
            beta = adapted(beta, kl, self.target)
        objective, value, clipped = self.sums / self.steps.clamp(min=1.0)
        return ProximalUpdate(kl, self.steps, objective, value, clipped, beta)


def critic_update(
    policy: ActorCritic,
    optimizer: Adam,
    buffer: Buffer,
    epochs: int,
    minibatch_size: int,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Fit the critics alone by minibatch Adam on the squared error (TRPO's value step); mean loss [R]."""
    active, losses = torch.ones_like(buffer.reward, dtype=torch.bool), []
    for _ in range(epochs):
        order = permuted(buffer.rows, generators, buffer.obs.device)
        slices = (torch.split(take(x, order), minibatch_size, dim=1) for x in (buffer.obs, buffer.return_))
        for obs, return_ in zip(*slices, strict=True):
            critic = policy.critic.detach().requires_grad_()
            error = 2.0 * value_loss(policy.value(obs, critic), return_)
            (gradient,) = torch.autograd.grad(error.sum(), critic)
            optimizer.step(gradient, active)
            losses.append(error.detach())
    return torch.stack(losses).mean(0)

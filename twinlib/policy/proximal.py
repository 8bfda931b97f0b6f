"""Proximal policy optimization: clipped and KL-penalised objectives, value and entropy terms (Eq. 7-9)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from twinlib.errors import InputError
from twinlib.policy.actor_critic import ActorCritic, Adam, clip_rows
from twinlib.policy.contracts import Distribution
from twinlib.policy.distributions import take
from twinlib.policy.gaussian_mlp import (
    AdamRow,
    Array,
    Network,
    Rows,
    array,
    clipped_gradient,
    mean_over_blocks,
    penalty_gradient,
    standardised,
    with_ones,
)
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
            raise InputError(f"ProximalConfig: stop_estimate is {self.stop_estimate!r}; use 'exact' or 'k3'.")
        if self.minibatch_size < 2 or self.epochs < 1:
            raise InputError(
                "ProximalConfig: minibatch_size must be at least 2 and epochs at least 1; raise them."
            )
        if self.clip_range is not None and self.clip_range <= 0:
            raise InputError("ProximalConfig: clip_range must be positive; use None to switch the clip off.")


def clipped_objective(ratio: Tensor, advantage: Tensor, clip_range: float | Tensor | None) -> Tensor:
    """Mean of min(ratio A, clip(ratio) A) [R] (Schulman 2017); with clip_range None of ratio A (Eq. 8).

    ratio, advantage [R, B]; clip_range is one number, or one a replica [R, 1].
    """
    plain = ratio * advantage
    if clip_range is None:
        return plain.mean(-1)
    width = torch.as_tensor(clip_range).to(ratio)
    return torch.minimum(plain, ratio.clamp(1.0 - width, 1.0 + width) * advantage).mean(-1)


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
    reference: Distribution | None


def permuted(rows: int, generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """One epoch's order of the buffer's rows [R, n]; replica r's order comes from generator r."""
    return torch.stack([torch.randperm(rows, generator=g, device=g.device) for g in generators]).to(device)


def minibatches(
    buffer: Buffer,
    epochs: int,
    size: int,
    exact: bool,
    generators: Sequence[torch.Generator],
    active: Tensor,
) -> Iterator[Minibatch]:
    """Every epoch the buffer's rows in a new order, `size` at a time; with `exact` they carry theta'.

    `active` [R] is read at the begin of an epoch: a stopped replica draws no order, as when it runs alone.
    """
    columns = (buffer.obs, buffer.action, buffer.log_prob, buffer.advantage, buffer.return_)
    for _ in range(epochs):
        drawing = [g for g, on in zip(generators, active.tolist(), strict=True) if on]
        order = torch.arange(buffer.rows, device=buffer.obs.device).repeat(len(generators), 1)
        order[active] = permuted(buffer.rows, drawing, buffer.obs.device)
        slices = [torch.split(take(x, order), size, dim=1) for x in columns]
        reference = buffer.behaviour.minibatches(order, size) if exact else [None] * len(slices[0])
        yield from (Minibatch(*rows) for rows in zip(*slices, reference, strict=True))


class Losses(NamedTuple):
    """The terms of Eq. 9 on one minibatch, each [R]."""

    total: Tensor
    objective: Tensor
    value: Tensor
    entropy: Tensor
    kl: Tensor
    clip_fraction: Tensor


def proximal_losses(
    policy: ActorCritic,
    theta: Tensor,
    batch: Minibatch,
    config: ProximalConfig,
    beta: Tensor,
    clip_range: Tensor | None = None,
) -> Losses:
    """Eq. 9 with clip, penalty, both or neither: theta [R, P], beta [R] -> losses [R] with their graph.

    clip_range [R] defaults to the config's. The KL is the exact KL(theta' || theta) where the minibatch
    carries theta', else the k3 estimate.
    """
    actor, critic = torch.split(theta, [policy.actor_size, theta.shape[1] - policy.actor_size], dim=1)
    new = policy.distribution(batch.obs, actor)
    log_ratio = new.log_prob(batch.action) - batch.log_prob
    ratio = log_ratio.exp()
    advantage = normalized(batch.advantage) if config.normalize_advantage else batch.advantage
    clip = config.clip_range if clip_range is None else clip_range.unsqueeze(1)
    objective = clipped_objective(ratio, advantage, clip)
    if batch.reference is None:
        kl = (ratio.detach() - 1.0 - log_ratio.detach()).mean(-1)
    else:
        kl = batch.reference.kl(new).mean(-1)
    value = value_loss(policy.value(batch.obs, critic), batch.return_)
    entropy = new.entropy()
    total = -objective + config.value_coefficient * value - config.entropy_coefficient * entropy
    if config.beta > 0:
        total = total + beta * kl
    clipped = (ratio.detach() - 1.0).abs() > (torch.inf if clip is None else clip)
    return Losses(total, objective.detach(), value.detach(), entropy.detach(), kl, clipped.to(ratio).mean(-1))


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
    clip_range: Tensor | None = None,
) -> ProximalUpdate:
    """Epochs of minibatch steps on Eq. 9, with the buffer's policy as theta'; writes `policy.theta`.

    beta, target_kl, clip_range [R] default to the config's. A replica whose minibatch KL exceeds 1.5
    target_kl stops **before** that step: its parameters and its Adam state stand still for the rest of the
    update. The first minibatch is always used: there theta is theta' and its KL is rounding.
    """
    zero = torch.zeros_like(buffer.reward)
    beta = zero + config.beta if beta is None else beta
    if target_kl is None and config.target_kl is not None:
        target_kl = zero + config.target_kl
    take_steps = _steps_by_hand if policy.by_hand else _steps_by_autograd
    own = Own(beta, target_kl, clip_range)
    steps, sums = take_steps(policy, optimizer, buffer, config, generators, own)
    with torch.no_grad():
        kl = buffer.behaviour.kl(policy.distribution(buffer.obs)).mean(-1)
    if config.adaptive_beta and target_kl is not None:
        beta = adapted(beta, kl, target_kl)
    objective, value, clipped = sums / steps.clamp(min=1.0)
    return ProximalUpdate(kl, steps, objective, value, clipped, beta)


class Own(NamedTuple):
    """What each replica has of its own in one PPO update, [R] each; None is the config's, or no target."""

    beta: Tensor
    target_kl: Tensor | None
    clip_range: Tensor | None


def _needs_reference(config: ProximalConfig, target_kl: Tensor | None) -> bool:
    """Is the exact KL from theta' part of the loss or of the stop?"""
    return config.beta > 0 or (target_kl is not None and config.stop_estimate == "exact")


def _steps_by_autograd(
    policy: ActorCritic,
    optimizer: Adam,
    buffer: Buffer,
    config: ProximalConfig,
    generators: Sequence[torch.Generator],
    own: Own,
) -> tuple[Tensor, Tensor]:
    """Steps taken [R], and sums [3, R] of objective, value loss and clip fraction over them."""
    zero, target_kl = torch.zeros_like(buffer.reward), own.target_kl
    active, steps, sums = zero == 0, zero.clone(), torch.stack([zero] * 3)
    plan = (config.epochs, config.minibatch_size, _needs_reference(config, target_kl), generators, active)
    for batch in minibatches(buffer, *plan):
        theta = policy.theta.detach().requires_grad_()
        losses = proximal_losses(policy, theta, batch, config, own.beta, own.clip_range)
        if target_kl is not None:
            # Once stopped a replica stays stopped; at the first minibatch nobody has moved, so nobody stops.
            active &= (losses.kl.detach() <= 1.5 * target_kl) | (steps == 0)
            if not bool(active.any()):
                break
        (gradient,) = torch.autograd.grad(losses.total.sum(), theta)
        optimizer.step(clip_rows(gradient, config.max_gradient_norm), active)
        steps += active
        sums += torch.stack([losses.objective, losses.value, losses.clip_fraction]) * active
    return steps, sums


def _steps_by_hand(
    policy: ActorCritic,
    optimizer: Adam,
    buffer: Buffer,
    config: ProximalConfig,
    generators: Sequence[torch.Generator],
    own: Own,
) -> tuple[Tensor, Tensor]:
    """The same as `_steps_by_autograd`, one replica after the other and without a graph."""
    target_kl = own.target_kl
    exact = _needs_reference(config, target_kl)
    limit = torch.full_like(own.beta, torch.inf) if target_kl is None else 1.5 * target_kl
    steps, sums = np.zeros(len(generators)), np.zeros((3, len(generators)))
    for r, generator in enumerate(generators):
        learner = _Learner(policy, optimizer, buffer, config, r, own, exact)
        for rows in _orders(buffer.rows, config.epochs, config.minibatch_size, generator):
            kl, *terms = learner.losses(rows)
            if target_kl is not None and steps[r] > 0 and not kl <= limit[r].item():
                break
            learner.adam.step(learner.gradient, config.max_gradient_norm)
            steps[r] += 1
            sums[:, r] += terms
    return torch.from_numpy(steps).to(buffer.reward), torch.from_numpy(sums).to(buffer.reward)


def _orders(rows: int, epochs: int, size: int, generator: torch.Generator) -> Iterator[Rows]:
    """Every epoch one replica's rows in a new order, `size` at a time."""
    for _ in range(epochs):
        (drawn,) = permuted(rows, [generator], torch.device("cpu"))
        order = drawn.numpy()
        yield from (order[at : at + size] for at in range(0, rows, size))


class _Learner:
    """One replica's networks, data and row of Adam as arrays; networks and Adam in the tensors' memory."""

    def __init__(
        self,
        policy: ActorCritic,
        optimizer: Adam,
        buffer: Buffer,
        config: ProximalConfig,
        index: int,
        own: Own,
        exact: bool,
    ) -> None:
        self.config, self.adam = config, optimizer.row(index)
        theta, k = self.adam.theta, policy.actor_size
        self.gradient, spread = np.zeros_like(theta), slice(k - policy.action_dim, k)
        self.actor = Network(theta[:k], self.gradient[:k], policy.actor_widths)
        self.critic = Network(theta[k:], self.gradient[k:], policy.critic_widths)
        self.log_std, self.log_std_gradient = theta[spread], self.gradient[spread]
        columns = (buffer.obs, buffer.action, buffer.log_prob, buffer.advantage, buffer.return_)
        obs, self.action, self.log_prob, self.advantage, self.return_ = (
            array(x[index], theta) for x in columns
        )
        self.obs = with_ones(obs)
        self.exact, self.old_mean, self.old_log_std = (
            exact,
            *(array(x[index], theta) for x in buffer.behaviour),
        )
        clip = config.clip_range if own.clip_range is None else own.clip_range[index].item()
        self.beta = theta.dtype.type(own.beta[index].item() if config.beta > 0 else 0.0)
        self.clip = theta.dtype.type(np.inf if clip is None else clip)

    def losses(self, rows: Rows) -> Array:
        """KL, objective, value and clip fraction as in `Losses` on the rows [B]; fills the gradient."""
        normalize = self.config.normalize_advantage
        advantage = standardised(self.advantage, rows) if normalize else self.advantage[rows]
        return mean_over_blocks(lambda at: self._block(rows[at], advantage[at]), len(rows), self.gradient)

    def _block(self, rows: Rows, advantage: Array) -> Array:
        """The same for so few rows that they stay in the cache; advantage [B] is scaled."""
        obs, f = self.obs[rows], self.gradient.dtype.type
        mean, log_std = self.actor.forward(obs), self.log_std
        slopes = (self.actor.deltas[-1], self.log_std_gradient)
        objective, clipped, kl = clipped_gradient(
            mean, log_std, self.action, self.log_prob, rows, advantage, self.clip, *slopes
        )
        if self.exact:
            kl = penalty_gradient(mean, log_std, self.old_mean, self.old_log_std, rows, self.beta, *slopes)
        self.log_std_gradient -= f(self.config.entropy_coefficient)
        error = self.critic.forward(obs).squeeze(1) - self.return_[rows]
        np.multiply(error, f(self.config.value_coefficient / len(rows)), out=self.critic.deltas[-1][:, 0])
        self.actor.backward()
        self.critic.backward()
        return np.array([kl, objective, 0.5 * (error @ error) / len(rows), clipped])


def critic_update(
    policy: ActorCritic,
    optimizer: Adam,
    buffer: Buffer,
    epochs: int,
    minibatch_size: int,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Fit the critics alone by minibatch Adam on the squared error (TRPO's value step); mean loss [R]."""
    if policy.by_hand:
        rows = zip(range(policy.replicas), buffer.obs, buffer.return_, generators, strict=True)
        plan = (policy.critic_widths, epochs, minibatch_size)
        fits = [_fit_by_hand(optimizer.row(r), obs, return_, *plan, g) for r, obs, return_, g in rows]
        return torch.tensor(fits, dtype=torch.float64).to(buffer.reward)
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


def _fit_by_hand(
    adam: AdamRow,
    obs: Tensor,
    return_: Tensor,
    widths: Sequence[int],
    epochs: int,
    minibatch_size: int,
    generator: torch.Generator,
) -> float:
    """`critic_update` of one replica: obs [n, O], return_ [n] -> mean loss."""
    gradient, losses = np.zeros_like(adam.theta), []
    network, states, target = (
        Network(adam.theta, gradient, widths),
        array(obs, gradient),
        array(return_, gradient),
    )
    states = with_ones(states)

    def fill(rows: Rows) -> Array:
        error = network.forward(states[rows])[:, 0] - target[rows]
        np.multiply(error, gradient.dtype.type(2.0 / len(rows)), out=network.deltas[-1][:, 0])
        network.backward()
        return np.array(error @ error / len(rows))

    for rows in _orders(len(states), epochs, minibatch_size, generator):
        block = functools.partial(lambda rows, at: fill(rows[at]), rows)
        losses.append(mean_over_blocks(block, len(rows), gradient))
        adam.step(gradient)
    return float(np.mean(losses))

"""Eq. 7-9: what clip, penalty and stop do, and that a stopped replica stands still."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_trust_region import experience

from twinlib.policy import proximal
from twinlib.policy.actor_critic import ActorCritic, Adam
from twinlib.policy.proximal import (
    Minibatch,
    ProximalConfig,
    adapted,
    clipped_objective,
    minibatches,
    permuted,
    proximal_losses,
    proximal_update,
    value_loss,
)
from twinlib.policy.training import make_generators


def whole(buffer) -> Minibatch:
    return Minibatch(
        buffer.obs, buffer.action, buffer.log_prob, buffer.advantage, buffer.return_, buffer.behaviour
    )


def updated(config, seeds=(0, 1), change=lambda buffer: buffer, **options):
    policy, buffer = experience(seeds=seeds)
    buffer = change(buffer)
    before = policy.theta.clone()
    adam = Adam(policy.theta, config.learning_rate)
    outcome = proximal_update(policy, adam, buffer, config, make_generators(seeds, "order"), **options)
    return policy, before, outcome, adam


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 1.0, 1.2), (0.5, 1.0, 0.5), (1.5, -1.0, -1.5), (0.5, -1.0, -0.8), (1.0, 2.0, 2.0)],
)
def test_clip_is_the_pessimistic_bound(ratio, advantage, expected):
    value = clipped_objective(torch.tensor([[ratio]]), torch.tensor([[advantage]]), 0.2)
    assert float(value) == pytest.approx(expected)
    unclipped = clipped_objective(torch.tensor([[ratio]]), torch.tensor([[advantage]]), None)
    assert float(unclipped) == pytest.approx(ratio * advantage) and float(value) <= float(unclipped)


def test_ratio_is_one_and_kl_zero_before_the_first_minibatch():
    policy, buffer = experience()
    config = ProximalConfig(beta=1.0, normalize_advantage=False)
    losses = proximal_losses(policy, policy.theta, whole(buffer), config, torch.ones(2, dtype=torch.float64))
    assert torch.allclose(losses.objective, buffer.advantage.mean(1), atol=1e-12)
    assert losses.kl.abs().max() < 1e-12 and torch.equal(losses.clip_fraction, torch.zeros_like(losses.kl))


def test_total_is_the_sum_of_its_terms():
    policy, buffer = experience()
    config = ProximalConfig(beta=1.0, value_coefficient=0.7, entropy_coefficient=0.3)
    beta = torch.tensor([0.5, 2.0], dtype=torch.float64)
    moved = policy.theta + 0.01
    losses = proximal_losses(policy, moved, whole(buffer), config, beta)
    expected = -losses.objective + beta * losses.kl + 0.7 * losses.value - 0.3 * losses.entropy
    assert torch.allclose(losses.total, expected, atol=1e-14) and bool((losses.kl > 0).all())


def test_value_loss_is_half_the_mean_squared_error():
    assert float(value_loss(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2))) == 2.5


def test_the_penalty_holds_the_policy_back():
    kls = [
        updated(ProximalConfig(clip_range=None, beta=b, learning_rate=3e-3))[2].kl.mean()
        for b in (0.01, 1, 100)
    ]
    assert kls[0] > kls[1] > kls[2] > 0


def test_the_clip_holds_the_policy_back():
    free = updated(ProximalConfig(clip_range=None, learning_rate=3e-3))[2]
    clipped = updated(ProximalConfig(clip_range=0.05, learning_rate=3e-3))[2]
    assert clipped.kl.mean() < free.kl.mean() and clipped.clip_fraction.mean() > 0
    assert free.clip_fraction.abs().max() == 0


def test_a_stop_on_kl_freezes_parameters_and_adam_of_that_replica_only():
    config = ProximalConfig(learning_rate=3e-3, minibatch_size=16)
    target = torch.tensor([1e-3, 1e9], dtype=torch.float64)
    policy, before, outcome, adam = updated(config, target_kl=target)
    free, _, free_outcome, free_adam = updated(config)
    steps = config.epochs * 6
    assert 1 <= outcome.steps[0] < steps and outcome.steps[1] == steps
    assert torch.allclose(policy.theta[1], free.theta[1], atol=1e-14)
    assert adam.steps.tolist() == outcome.steps.tolist()
    # The stopped replica is where a run of just that many steps ends.
    short = ProximalConfig(learning_rate=3e-3, minibatch_size=16, epochs=1)
    first_epoch, _, one, one_adam = updated(short, target_kl=target)
    if outcome.steps[0] <= 6:
        assert torch.equal(first_epoch.theta[0], policy.theta[0])
        assert torch.equal(one_adam.first[0], adam.first[0])
    assert (free.theta[0] - policy.theta[0]).abs().max() > 1e-3


def test_a_zero_target_takes_one_minibatch_and_stops():
    _, before, outcome, _ = updated(ProximalConfig(target_kl=0.0))
    assert outcome.steps.tolist() == [1.0, 1.0]
    k3 = updated(ProximalConfig(target_kl=0.0, stop_estimate="k3"))[2]
    assert k3.steps.tolist() == [1.0, 1.0]


def test_beta_doubles_and_halves_outside_the_band():
    beta, target = torch.ones(3), torch.full((3,), 0.01)
    kl = torch.tensor([0.02, 0.01, 0.001])
    assert adapted(beta, kl, target).tolist() == [2.0, 1.0, 0.5]
    config = ProximalConfig(clip_range=None, beta=1.0, adaptive_beta=True, target_kl=1e-9, learning_rate=3e-3)
    assert updated(config)[2].beta.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("beta", "target", "stop", "expected"),
    [
        (1.0, None, "k3", True),
        (0.0, None, "exact", False),
        (0.0, 0.1, "exact", True),
        (0.0, 0.1, "k3", False),
    ],
)
def test_the_exact_kl_is_worked_out_where_it_is_read(beta, target, stop, expected, monkeypatch):
    """By the loss, or by a stop on the exact KL; otherwise its estimate from the ratios is enough."""
    policy, buffer = experience()
    held, losses = [], proximal.proximal_losses

    def noted(policy, theta, batch, *others):
        held.append(batch.reference is not None)
        return losses(policy, theta, batch, *others)

    monkeypatch.setattr(proximal, "proximal_losses", noted)
    monkeypatch.setattr(ActorCritic, "by_hand", False)
    config = ProximalConfig(beta=beta, target_kl=target, stop_estimate=stop, epochs=1)
    proximal_update(policy, Adam(policy.theta, 1e-3), buffer, config, make_generators((0, 1), "order"))
    assert set(held) == {expected}


def test_another_denominator_changes_the_ratio():
    config = ProximalConfig(epochs=1)
    plain = updated(config)[0].theta
    shifted = updated(config, change=lambda b: dataclasses.replace(b, log_prob=b.log_prob - 0.3))[0].theta
    assert (plain - shifted).abs().max() > 1e-6


def test_minibatches_cover_every_row_once_in_each_replicas_own_order():
    order = permuted(10, make_generators((0, 1), "order"), torch.device("cpu"))
    assert torch.equal(order.sort(1).values, torch.arange(10).expand(2, 10))
    assert not torch.equal(order[0], order[1])


@pytest.mark.parametrize("exact", [False, True])
def test_a_minibatch_keeps_the_columns_of_a_row_together(exact):
    policy, buffer = experience()
    generators = make_generators(range(policy.replicas), "order")
    batches = list(minibatches(buffer, 1, 48, exact, generators, torch.ones(2, dtype=torch.bool)))
    assert sum(b.obs.shape[1] for b in batches) == buffer.rows
    for batch in batches:
        assert batch.obs.shape[1] <= 48
        new = policy.distribution(batch.obs)
        assert torch.allclose(new.log_prob(batch.action), batch.log_prob, atol=1e-10)
        assert torch.allclose(policy.value(batch.obs) + batch.advantage, batch.return_, atol=1e-10)
        assert (batch.reference is None) == (not exact)
        if batch.reference is not None:
            assert batch.reference.kl(new).abs().max() < 1e-12


@pytest.mark.parametrize(
    "bad", [{"stop_estimate": "k1"}, {"epochs": 0}, {"minibatch_size": 1}, {"clip_range": 0.0}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match="ProximalConfig"):
        ProximalConfig(**bad)

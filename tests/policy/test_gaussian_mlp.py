"""The derivatives by hand against autograd: same parameters, same steps, same nan."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from test_trust_region import experience
from toy import Quadratic

from twinlib.policy import gaussian_mlp, proximal
from twinlib.policy.actor_critic import ActorCritic, Adam
from twinlib.policy.algorithms import ALGORITHMS
from twinlib.policy.proximal import ProximalConfig, critic_update, proximal_update
from twinlib.policy.training import TrainingConfig, make_generators, train
from twinlib.policy.trust_region import TrustRegionConfig, normalized, policy_gradient, trust_region_update

SMALL = TrainingConfig(
    timesteps=4 * 96, steps_per_iteration=96, warm_start_steps=192, hidden=(8, 8), critic_epochs=2
)
PLAIN = ProximalConfig(minibatch_size=40)  # the last of three minibatches has 16 rows
SETTINGS = {
    "stop": dataclasses.replace(PLAIN, target_kl=1e-3, learning_rate=3e-3),
    "k3": dataclasses.replace(PLAIN, target_kl=1e-3, learning_rate=3e-3, stop_estimate="k3"),
    "penalty": dataclasses.replace(PLAIN, clip_range=None, beta=2.0, adaptive_beta=True, target_kl=1e-3),
    "raw advantage": dataclasses.replace(PLAIN, normalize_advantage=False),
    "entropy": dataclasses.replace(PLAIN, entropy_coefficient=0.02, value_coefficient=0.4),
    "two rows left": dataclasses.replace(PLAIN, minibatch_size=47),
    "one row left": dataclasses.replace(PLAIN, minibatch_size=19),
    "whole buffer": dataclasses.replace(PLAIN, minibatch_size=1000),
}


def both(config, task=lambda: Quadratic(2, 8), seeds=(3, 4)):
    """The same training by hand and by autograd."""
    ways = (dataclasses.replace(config, compute=compute) for compute in ("auto", "reference"))
    return [train(task(), way, seeds) for way in ways]


def assert_same(config, tolerance=1e-12, **options):
    hand, autograd = both(config, **options)
    assert (hand.policy.theta - autograd.policy.theta).abs().max() <= tolerance
    assert hand.history.optimizer_steps.equals(autograd.history.optimizer_steps)
    numbers = hand.history.select_dtypes("number").columns
    ours, theirs = hand.history[numbers].to_numpy(), autograd.history[numbers].to_numpy()
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-10, nan_ok=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_gives_autograds_parameters(algorithm):
    assert_same(dataclasses.replace(SMALL, algorithm=algorithm, dtype="float64"))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_ppo_gives_autograds_parameters(name):
    assert_same(dataclasses.replace(SMALL, algorithm="PPO", dtype="float64", proximal=SETTINGS[name]))


@pytest.mark.parametrize("hidden", [(), (5,), (6, 5, 4)])
@pytest.mark.parametrize("algorithm", ["PPO", "TRPO"])
def test_any_number_of_layers(algorithm, hidden):
    few = TrustRegionConfig(cg_iterations=4)  # each iteration makes rounding larger
    assert_same(
        dataclasses.replace(SMALL, algorithm=algorithm, dtype="float64", hidden=hidden, trust_region=few)
    )


def test_without_a_handed_over_target():
    assert_same(dataclasses.replace(SMALL, algorithm="alternating", dtype="float64", hand_over=False))


@pytest.mark.parametrize("algorithm", ["PPO_KL", "alternating"])
def test_large_minibatches_are_taken_in_blocks(monkeypatch, algorithm):
    monkeypatch.setattr(gaussian_mlp, "BLOCK", 7)
    cut = lambda: Quadratic(2, 8, horizon=7, cut=True)  # noqa: E731
    assert_same(dataclasses.replace(SMALL, algorithm=algorithm, dtype="float64"), task=cut)


def test_conjugate_gradients_start_where_told():
    outcomes = []
    for compute in ("auto", "reference"):
        policy, buffer = experience()
        policy.compute = compute
        start = 0.1 * torch.ones_like(policy.actor)
        trust_region_update(policy, buffer, TrustRegionConfig(cg_iterations=3), cg_start=start)
        outcomes.append(policy.theta)
    assert (outcomes[0] - outcomes[1]).abs().max() < 1e-12


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_the_policy_gradient_is_autograds(dtype, tolerance):
    policy, buffer = experience()
    policy.theta = policy.theta.to(dtype)
    columns = {name: getattr(buffer, name).to(dtype) for name in ("obs", "action", "log_prob", "advantage")}
    buffer = dataclasses.replace(buffer, **columns)
    by_hand = policy_gradient(policy, buffer, normalized(buffer.advantage))
    policy.compute = "reference"
    by_autograd = policy_gradient(policy, buffer, normalized(buffer.advantage))
    assert (by_hand - by_autograd).norm() <= tolerance * by_autograd.norm()


def ppo_step(compute, damage):
    config = ProximalConfig(epochs=1, minibatch_size=1000)
    policy, buffer = experience()
    policy.compute = compute
    buffer = dataclasses.replace(buffer, log_prob=damage(buffer.log_prob))
    outcome = proximal_update(
        policy, Adam(policy.theta, 1e-3), buffer, config, make_generators((0, 1), "order")
    )
    return policy.theta, outcome


@pytest.mark.parametrize("value", [torch.nan, -torch.inf, torch.inf])
def test_nan_and_infinity_spread_as_in_autograd(value):
    def damage(log_prob):
        changed = log_prob.clone()
        changed[0, 5] = value
        return changed

    (hand, mine), (autograd, theirs) = (ppo_step(compute, damage) for compute in ("auto", "reference"))
    assert torch.equal(hand.isnan(), autograd.isnan())
    assert torch.isfinite(hand[1]).all()
    assert torch.allclose(mine.objective, theirs.objective, equal_nan=True)
    assert bool(hand[0, 0].isnan()) == (value != torch.inf)


def test_a_row_of_adam_takes_adams_steps():
    torch.manual_seed(0)
    start = torch.randn(2, 6, dtype=torch.float64)
    whole, rows = Adam(start.clone(), 1e-2), Adam(start.clone(), 1e-2)
    for _ in range(4):
        gradient = torch.randn(2, 6, dtype=torch.float64)
        whole.step(gradient, torch.tensor([True, True]))
        for r in range(2):
            rows.row(r).step(gradient[r].numpy())
    for name, value in whole.state_dict().items():
        assert torch.allclose(rows.state_dict()[name], value, atol=1e-15)
    assert torch.allclose(rows.parameters, whole.parameters, atol=1e-15)


@pytest.mark.parametrize("length", [0.1, 40.0, np.nan])
def test_a_gradient_is_scaled_down_never_up(length):
    adam = Adam(torch.zeros(1, 4, dtype=torch.float64), 1.0)
    adam.row(0).step(np.full(4, length / 2), limit=0.5)
    expected = min(length, 0.5) / 2 if length == length else np.nan
    assert adam.first[0].numpy() / 0.1 == pytest.approx(np.full(4, expected), rel=1e-5, nan_ok=True)


def test_the_critics_fit_is_autograds():
    losses, thetas = [], []
    for compute in ("auto", "reference"):
        policy, buffer = experience()
        policy.compute = compute
        adam = Adam(policy.critic, 1e-3)
        losses.append(critic_update(policy, adam, buffer, 3, 40, make_generators((0, 1), "order")))
        thetas.append(torch.cat([policy.theta, adam.first, adam.second, adam.steps[:, None]], 1))
    assert (losses[0] - losses[1]).abs().max() < 1e-13 and (thetas[0] - thetas[1]).abs().max() < 1e-13


@pytest.mark.parametrize("compute", ["auto", "reference"])
def test_the_way_that_is_asked_for_is_taken(monkeypatch, compute):
    taken = []
    for name in ("_steps_by_hand", "_steps_by_autograd"):
        steps = getattr(proximal, name)
        monkeypatch.setattr(proximal, name, lambda *a, n=name, f=steps: (taken.append(n), f(*a))[1])
    train(Quadratic(1, 8), dataclasses.replace(SMALL, algorithm="PPO", compute=compute), seeds=[0])
    assert set(taken) == {"_steps_by_hand" if compute == "auto" else "_steps_by_autograd"}


def test_discrete_actions_and_the_reference_stay_with_autograd():
    def policy(**options):
        return ActorCritic(4, 3, 1, make_generators((0,), "weights"), **options)

    assert policy().by_hand
    assert not policy(discrete=True).by_hand and not policy(compute="reference").by_hand
    with pytest.raises(ValueError, match="use 'auto' or 'reference'"):
        policy(compute="fast")


def test_a_checkpoint_of_one_way_is_not_continued_in_the_other(tmp_path):
    path = tmp_path / "run.pt"
    train(Quadratic(1, 8), SMALL, seeds=[0], checkpoint=path)
    with pytest.raises(ValueError, match="name another file"):
        other = dataclasses.replace(SMALL, compute="reference")
        train(Quadratic(1, 8), other, seeds=[0], checkpoint=path)

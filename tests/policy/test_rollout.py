"""What the collector writes down, and what ends and cuts do to values."""

from __future__ import annotations

import torch
from toy import Quadratic

from twinlib.policy.actor_critic import ActorCritic
from twinlib.policy.rollout import Collector, explained_variance, generalized_advantage
from twinlib.policy.training import make_generators

GAMMA, LAMBDA = 0.9, 0.8


def setup(seeds=(0, 1), **options):
    dynamics = Quadratic(len(seeds), 4, **options)
    policy = ActorCritic(4, 3, len(seeds), make_generators(seeds, "weights"), dtype=torch.float64)
    collector = Collector(
        dynamics, make_generators(seeds, "environment"), make_generators(seeds, "actions"), torch.float64
    )
    return policy, collector


def test_advantage_is_the_discounted_sum_of_deltas():
    torch.manual_seed(0)
    shape = (2, 6, 3)
    reward, value, following = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
    never = torch.zeros(shape, dtype=torch.bool)
    advantage, return_ = generalized_advantage(reward, value, following, never, never, GAMMA, LAMBDA)
    delta = reward + GAMMA * following - value
    by_hand = sum((GAMMA * LAMBDA) ** k * delta[:, k] for k in range(6))
    assert torch.allclose(advantage[:, 0], by_hand, atol=1e-12)
    assert torch.allclose(return_, advantage + value, atol=1e-15)


def test_an_end_has_no_future_and_a_cut_has_one():
    one, none = torch.ones(1, 2, 1, dtype=torch.bool), torch.zeros(1, 2, 1, dtype=torch.bool)
    reward, value, following = torch.ones(1, 2, 1), torch.zeros(1, 2, 1), 10 * torch.ones(1, 2, 1)
    ended, _ = generalized_advantage(reward, value, following, one, none, GAMMA, LAMBDA)
    cut, _ = generalized_advantage(reward, value, following, none, one, GAMMA, LAMBDA)
    assert torch.allclose(ended, torch.ones_like(ended))  # nothing leaks over the seam either
    assert torch.allclose(cut, 1.0 + 10 * GAMMA * torch.ones_like(cut))


def test_buffer_holds_what_the_policy_did():
    policy, collector = setup()
    buffer = collector.collect(policy, 6, GAMMA, LAMBDA)
    assert buffer.obs.shape == (2, 24, 4) and buffer.rows == 24
    with torch.no_grad():
        again = policy.distribution(buffer.obs)
        assert torch.allclose(again.mean, buffer.behaviour.mean, atol=1e-14)
        # The ratio is 1 before the first minibatch.
        assert torch.allclose(again.log_prob(buffer.action), buffer.log_prob, atol=1e-13)
        assert torch.allclose(policy.value(buffer.obs), buffer.value, atol=1e-14)
    assert buffer.action.abs().max() > 1.0  # kept as drawn, not as clipped


def test_behaviour_survives_a_change_of_theta():
    policy, collector = setup()
    buffer = collector.collect(policy, 2, GAMMA, LAMBDA)
    before = buffer.behaviour.log_std.clone()
    policy.theta += 1.0
    assert torch.equal(buffer.behaviour.log_std, before)


def test_cut_episodes_are_bootstrapped_with_the_state_before_the_reset():
    policy, collector = setup(horizon=3, cut=True)
    policy_end, collector_end = setup(horizon=3, cut=False)
    cut = collector.collect(policy, 3, 1.0, 1.0)
    ended = collector_end.collect(policy_end, 3, 1.0, 1.0)
    assert torch.equal(cut.reward, ended.reward)
    # With lambda = gamma = 1 the two returns differ by exactly the value of the state the cut happened in.
    gap = (cut.return_ - ended.return_).view(2, 3, 4)
    twin, twin_collector = setup(horizon=3)
    final = []
    with torch.no_grad():
        for _ in range(3):
            final.append(twin_collector.step(twin).step.final_obs)
        assert torch.allclose(gap[:, -1], twin.value(final[-1]), atol=1e-12)
        assert torch.allclose(gap[:, 0], gap[:, -1], atol=1e-12)


def test_episode_return_is_the_sum_over_the_episode():
    policy, collector = setup(horizon=3)
    buffer = collector.collect(policy, 3, GAMMA, LAMBDA)
    assert torch.allclose(buffer.episode_return, 3 * buffer.reward, atol=1e-12)
    assert torch.isnan(collector.collect(policy, 2, GAMMA, LAMBDA).episode_return).all()


def test_explained_variance():
    return_ = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    value = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0]])
    result = explained_variance(value, return_)
    assert torch.allclose(result[:2], torch.tensor([1.0, 0.0])) and torch.isnan(result[2])

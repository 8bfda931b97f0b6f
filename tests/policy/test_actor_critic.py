"""Distributions against torch.distributions, replicas against lone runs, Adam against torch.optim."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal, kl_divergence

from twinlib.policy.actor_critic import ActorCritic, Adam, clip_rows
from twinlib.policy.distributions import Categorical, Gaussian, take

R, B, OBS, A = 3, 11, 5, 4


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def policy(dtype=torch.float64, **options) -> ActorCritic:
    return ActorCritic(OBS, A, R, generators(1, 2, 3), dtype=dtype, **options)


def gaussian(seed: int) -> Gaussian:
    g = torch.Generator().manual_seed(seed)
    return Gaussian(
        torch.randn(R, B, A, generator=g, dtype=torch.float64),
        0.3 * torch.randn(R, A, generator=g, dtype=torch.float64),
    )


def normal(d: Gaussian) -> Normal:
    return Normal(d.mean, d.log_std.exp().unsqueeze(1).expand_as(d.mean))


def test_gaussian_equals_torch_distributions():
    p, q = gaussian(0), gaussian(1)
    action = gaussian(2).mean
    assert torch.allclose(p.log_prob(action), normal(p).log_prob(action).sum(-1), atol=1e-12)
    assert torch.allclose(p.entropy().unsqueeze(1).expand(R, B), normal(p).entropy().sum(-1), atol=1e-12)
    assert torch.allclose(p.kl(q), kl_divergence(normal(p), normal(q)).sum(-1), atol=1e-12)
    assert p.kl(p).abs().max() < 1e-14
    assert (p.kl(q) - q.kl(p)).abs().max() > 1e-2  # the direction matters


def test_categorical_equals_torch_distributions():
    logits = torch.log_softmax(gaussian(0).mean, -1)
    other = torch.log_softmax(gaussian(1).mean, -1)
    action = gaussian(3).mean.argmax(-1)
    ours, theirs = Categorical(logits), TorchCategorical(logits=logits)
    assert torch.allclose(ours.log_prob(action), theirs.log_prob(action), atol=1e-12)
    assert torch.allclose(ours.entropy(), theirs.entropy().mean(-1), atol=1e-12)
    assert torch.allclose(
        ours.kl(Categorical(other)), kl_divergence(theirs, TorchCategorical(logits=other)), atol=1e-12
    )


def test_the_choices_of_a_state_have_probabilities_that_sum_to_one():
    chosen = policy(discrete=True).distribution(torch.randn(R, B, OBS, dtype=torch.float64))
    assert chosen.logits.shape == (R, B, A)
    assert torch.allclose(chosen.logits.exp().sum(2), torch.ones(R, B, dtype=torch.float64), atol=1e-12)


def test_states_of_both_distributions_are_taken_apart_and_joined():
    """R replicas, B states and A actions differ, so that no axis can stand for another."""
    normal_, logits = gaussian(0), torch.log_softmax(gaussian(1).mean, -1)
    choice = Categorical(logits)
    assert len({R, B, A}) == 3 and normal_.events == A and choice.events == 1
    assert torch.equal(choice.mode(), logits.argmax(2)) and choice.mode().shape == (R, B)
    order = torch.stack([torch.randperm(B) for _ in range(R)])
    for given, values in ((normal_, normal_.mean), (choice, logits)):
        parts = given.minibatches(order, 2)
        sizes = [part[0].shape[1] for part in parts]
        assert max(sizes) == 2 and sum(sizes) == B
        expected = torch.stack([values[r, order[r]] for r in range(R)])
        assert torch.equal(given.joined(parts)[0], expected)
        assert torch.equal(given.joined([given])[0], values)


def test_replicas_do_not_mix():
    together, obs = policy(), gaussian(4).mean.repeat(1, 1, 2)[..., :OBS]
    mean, value = together.distribution(obs).mean, together.value(obs)
    for r in range(R):
        alone = ActorCritic(OBS, A, 1, generators(r + 1), dtype=torch.float64)
        assert torch.equal(alone.theta[0], together.theta[r])
        assert torch.allclose(alone.distribution(obs[r : r + 1]).mean[0], mean[r], atol=1e-14)
        assert torch.allclose(together.replica(r).value(obs[r : r + 1])[0], value[r], atol=1e-14)


def test_first_policy_is_near_zero_mean_with_the_asked_spread():
    p = policy(log_std=-1.0).distribution(gaussian(4).mean.repeat(1, 1, 2)[..., :OBS])
    assert p.mean.abs().max() < 0.1
    assert torch.all(p.log_std == -1.0)


def test_sampling_draws_from_each_replicas_generator():
    together, obs = policy(), torch.zeros(R, 2000, OBS, dtype=torch.float64)
    draws = together.act(obs, generators(7, 8, 9))
    alone = together.replica(1).act(obs[1:2], generators(8))
    assert torch.equal(draws[1], alone[0])
    assert (draws.mean(1) - together.act(obs).mean(1)).abs().max() < 0.1
    assert (draws.std(1) - 1.0).abs().max() < 0.1


def test_take_gathers_other_rows_for_each_replica():
    x = torch.arange(R * B * 2).view(R, B, 2)
    rows = torch.tensor([[0, 3], [10, 10], [5, 1]])
    expected = torch.stack([x[r][rows[r]] for r in range(R)])
    assert torch.equal(take(x, rows), expected)


def test_adam_equals_torch_and_a_stopped_row_stands_still():
    torch.manual_seed(0)
    start = torch.randn(2, 6, dtype=torch.float64)
    ours, reference = start.clone(), start[0].clone().requires_grad_()
    adam, theirs = Adam(ours, 1e-2), torch.optim.Adam([reference], lr=1e-2, eps=1e-5)
    both, first_only = torch.tensor([True, True]), torch.tensor([True, False])
    for k in range(6):
        gradient = torch.randn(2, 6, dtype=torch.float64)
        frozen = {n: v[1].clone() for n, v in adam.state_dict().items()} | {"theta": ours[1].clone()}
        adam.step(gradient, both if k < 3 else first_only)
        reference.grad = gradient[0].clone()
        theirs.step()
        if k >= 3:
            after = {n: v[1] for n, v in adam.state_dict().items()} | {"theta": ours[1]}
            assert all(torch.equal(after[n], frozen[n]) for n in frozen)
    assert torch.allclose(ours[0], reference.detach(), atol=1e-14)


def test_gradients_are_clipped_replica_by_replica():
    gradient = torch.tensor([[3.0, 4.0], [0.03, 0.04]])
    clipped = clip_rows(gradient, 0.5)
    assert torch.allclose(clipped[0], torch.tensor([0.3, 0.4]), atol=1e-6)
    assert torch.equal(clipped[1], gradient[1])


def test_a_missing_generator_is_refused():
    with pytest.raises(ValueError, match="pass one each"):
        ActorCritic(OBS, A, 3, generators(1))

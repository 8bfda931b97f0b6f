"""Signs, directions and bounds that a finished training does not show: each test names the change it sees."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_proximal import whole
from test_trust_region import experience
from test_two_stage import small
from toy import Quadratic

from twinlib.policy import proximal, training, trust_region
from twinlib.policy.actor_critic import Adam
from twinlib.policy.distributions import Gaussian
from twinlib.policy.proximal import ProximalConfig, adapted, proximal_losses, proximal_update
from twinlib.policy.training import _Run, make_generators, train
from twinlib.policy.trust_region import (
    LineSearch,
    TrustRegionConfig,
    TrustRegionUpdate,
    fisher_vector_product,
    mean_kl,
    normalized,
    plain_gradient_update,
    policy_gradient,
    surrogate,
    trust_region_update,
)


def narrower(old: Gaussian) -> Gaussian:
    """A policy of half the spread: KL(old || new) is 1.5 - log 2 an action, KL(new || old) log 2 - 0.375."""
    return Gaussian(old.mean, old.log_std - torch.log(torch.tensor(2.0)))


# -- the direction of Eq. 4
def test_mean_kl_is_from_the_old_policy_to_the_new_one():
    _, buffer = experience()
    old, new = buffer.behaviour, narrower(buffer.behaviour)
    log_2 = 0.6931471805599453
    assert mean_kl(old, new).tolist() == pytest.approx([3 * (1.5 - log_2)] * 2, abs=1e-6)
    assert mean_kl(old, new, TrustRegionConfig()).tolist() == pytest.approx([3 * (1.5 - log_2)] * 2, abs=1e-6)
    other = mean_kl(old, new, TrustRegionConfig(kl_direction="new_old"))
    assert other.tolist() == pytest.approx([3 * (log_2 - 0.375)] * 2, abs=1e-6)


@pytest.mark.parametrize("direction", ["old_new", "new_old"])
def test_the_trust_region_is_a_bound_on_the_kl_of_its_direction(direction):
    policy, buffer = experience()
    outcome = trust_region_update(policy, buffer, TrustRegionConfig(delta=1.0, kl_direction=direction))
    with torch.no_grad():
        new = policy.distribution(buffer.obs)
    forward, backward = buffer.behaviour.kl(new).mean(-1), new.kl(buffer.behaviour).mean(-1)
    assert bool(outcome.search.accepted.all()) and bool(((forward - backward).abs() > 1e-3).all())
    bound = forward if direction == "old_new" else backward
    assert outcome.search.kl.tolist() == pytest.approx(bound.tolist(), abs=1e-12)
    assert outcome.kl.tolist() == pytest.approx(forward.tolist(), abs=1e-12)  # the history's is Eq. 4's


@pytest.mark.parametrize("compute", ["auto", "reference"])
def test_the_penalty_pulls_towards_the_collecting_policy_by_its_own_kl(compute):
    """One step on the penalty alone, from a narrower policy elsewhere: whose gradient does it follow?"""
    policy, buffer = experience()
    policy.compute = compute
    policy.actor[:] += 0.05
    policy.actor[:, -policy.action_dim :] -= 0.5
    config = ProximalConfig(epochs=1, minibatch_size=buffer.rows, clip_range=None, max_gradient_norm=1e9)
    config = dataclasses.replace(config, beta=1.0, value_coefficient=0.0, normalize_advantage=False)
    still = dataclasses.replace(buffer, advantage=torch.zeros_like(buffer.advantage))
    theta = policy.theta.clone().requires_grad_()
    actor = theta[:, : policy.actor_size]
    kl = buffer.behaviour.kl(policy.distribution(buffer.obs, actor)).mean(-1)
    (slope,) = torch.autograd.grad(kl.sum(), theta)
    adam = Adam(policy.theta, 0.0)
    proximal_update(policy, adam, still, config, make_generators((0, 1), "order"))
    assert (adam.first / 0.1 - slope).abs().max() < 1e-10  # Adam's mean after one step is a tenth of it
    losses = proximal_losses(policy, policy.theta, whole(still), config, torch.ones(2, dtype=torch.float64))
    assert losses.kl.tolist() == pytest.approx(kl.tolist(), abs=1e-12)
    assert losses.total.tolist() == pytest.approx(kl.tolist(), abs=1e-12)


# -- the stop
def scripted(monkeypatch, compute: str, kls: list[float]) -> list[float]:
    """Steps of two replicas whose minibatches show these KLs in turn; replica 1 shows none."""
    policy, buffer = experience()
    policy.compute = compute
    by_hand, by_autograd, seen = proximal._Learner.losses, proximal.proximal_losses, {}

    def shown(replica: int) -> float:
        seen[replica] = seen.get(replica, -1) + 1
        return kls[seen[replica]] if replica == 0 else 0.0

    def losses(learner, rows):
        # the learners' Adams lie in the rows of one matrix: the first is replica 0's
        replica = int(learner.adam.theta.ctypes.data != policy.theta.data_ptr())
        return [shown(replica), *by_hand(learner, rows)[1:]]

    def torch_losses(*given):
        kl = torch.tensor([shown(0), shown(1)], dtype=torch.float64)
        return by_autograd(*given)._replace(kl=kl)

    monkeypatch.setattr(proximal._Learner, "losses", losses)
    monkeypatch.setattr(proximal, "proximal_losses", torch_losses)
    config = ProximalConfig(epochs=1, minibatch_size=16, target_kl=0.1, stop_estimate="k3")
    generators = make_generators((0, 1), "order")
    return proximal_update(policy, Adam(policy.theta, 1e-3), buffer, config, generators).steps.tolist()


@pytest.mark.parametrize("compute", ["auto", "reference"])
def test_a_stopped_replica_stays_stopped(monkeypatch, compute):
    assert scripted(monkeypatch, compute, [0.0, 0.0, 9.0, 0.0, 0.0, 0.0]) == [2, 6]


@pytest.mark.parametrize("compute", ["auto", "reference"])
@pytest.mark.parametrize(("factor", "steps"), [(1.49, 6), (1.51, 3)])
def test_an_update_stops_above_one_and_a_half_times_its_target(monkeypatch, compute, factor, steps):
    assert scripted(monkeypatch, compute, [0.0, 0.0, 0.0, factor * 0.1, 0.0, 0.0]) == [steps, 6]


@pytest.mark.parametrize("compute", ["auto", "reference"])
def test_the_first_minibatch_is_always_used(monkeypatch, compute):
    assert scripted(monkeypatch, compute, [9.0, 9.0, 0.0, 0.0, 0.0, 0.0]) == [1, 6]


@pytest.mark.parametrize(
    ("share", "factor"), [(1.51, 2.0), (1.49, 1.0), (1.0, 1.0), (0.67, 1.0), (0.66, 0.5), (0.0, 0.5)]
)
def test_the_band_of_the_adaptive_penalty(share, factor):
    beta, target = torch.tensor([3.0]), torch.tensor([0.1])
    assert adapted(beta, share * target, target).tolist() == [3.0 * factor]


# -- the hand-over
def test_the_handed_over_target_is_the_mean_of_accepted_steps_only(monkeypatch):
    script = [([True, False], [0.02, 0.7]), ([True, True], [0.04, 0.03])]

    def update(policy, buffer, config, delta):
        accepted, kl = script.pop(0)
        flags, numbers = torch.tensor(accepted), torch.tensor(kl, dtype=torch.float64)
        return TrustRegionUpdate(LineSearch(flags, numbers, numbers, numbers), numbers, numbers)

    monkeypatch.setattr(training, "trust_region_update", update)
    run = _Run(Quadratic(2, 8), [small("two_stage", hand_over_scale=1.5)] * 2, [0, 1])
    run.iterate(), run.iterate()
    assert run.optimizer_steps.tolist() == [2, 1]
    assert run.target_kl().tolist() == pytest.approx([1.5 * 0.03, 1.5 * 0.03], rel=1e-12)


@pytest.mark.parametrize(
    ("algorithm", "target"),
    [("PPO", None), ("PPO_KL", None), ("second_stage_alone", 0.01), ("PPO_restart", 0.01)],
)
def test_arms_without_trust_region_steps_aim_at_delta_where_they_stand_for_a_second_stage(algorithm, target):
    run = _Run(Quadratic(1, 8), [small(algorithm)], [0])
    assert (run.target_kl() is None) if target is None else (run.target_kl().tolist() == [target])


# -- the scale of the advantage
@pytest.mark.parametrize("compute", ["auto", "reference"])
@pytest.mark.parametrize("scaled", [True, False])
def test_scaled_advantages_do_not_know_their_unit_and_raw_ones_do(compute, scaled):
    thetas = []
    for unit, shift in ((1.0, 0.0), (7.0, 0.0), (1.0, 5.0)):
        policy, buffer = experience()
        policy.compute = compute
        config = ProximalConfig(
            epochs=1, value_coefficient=0.0, max_gradient_norm=1e9, normalize_advantage=scaled
        )
        buffer = dataclasses.replace(buffer, advantage=unit * buffer.advantage + shift)
        adam = Adam(policy.theta, 1e-3)
        proximal_update(policy, adam, buffer, config, make_generators((0, 1), "order"))
        thetas.append(adam.first)
    gaps = [float((theta - thetas[0]).abs().max()) for theta in thetas[1:]]
    assert max(gaps) < 1e-7 if scaled else min(gaps) > 1e-4


def test_the_surrogate_of_a_minibatch_has_scaled_or_raw_advantages():
    policy, buffer = experience()
    moved, beta = policy.theta + 0.01, torch.ones(2, dtype=torch.float64)
    with torch.no_grad():
        new = policy.distribution(buffer.obs, moved[:, : policy.actor_size])
        ratio = torch.exp(new.log_prob(buffer.action) - buffer.log_prob)
    for scaled, advantage in ((True, normalized(buffer.advantage)), (False, buffer.advantage)):
        config = ProximalConfig(clip_range=None, normalize_advantage=scaled)
        losses = proximal_losses(policy, moved, whole(buffer), config, beta)
        assert losses.objective.tolist() == pytest.approx((ratio * advantage).mean(-1).tolist(), rel=1e-12)


def test_normalized_is_mean_zero_and_one_standard_deviation():
    x = torch.tensor([[1.0, 2.0, 6.0], [-4.0, 0.0, 4.0]], dtype=torch.float64)
    assert normalized(x)[1].tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1e-7)  # ddof 1: sd is 4
    assert normalized(x).mean(1).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    assert torch.equal(normalized(x[:, :1]), x[:, :1])


# -- the denominator of the ratio
@pytest.mark.parametrize(("algorithm", "printed"), [("alternating_printed", True), ("alternating", False)])
def test_each_reading_of_algorithm_1_divides_by_its_own_policy(monkeypatch, algorithm, printed):
    """As printed by the policy after the TRPO step, else by the one that collected the data."""
    after, update = [], training.proximal_update

    def noted(policy, optimizer, buffer, *others, **named):
        with torch.no_grad():
            here = policy.distribution(buffer.obs).log_prob(buffer.action)
        after.append(torch.allclose(here, buffer.log_prob, rtol=0, atol=1e-6))
        return update(policy, optimizer, buffer, *others, **named)

    monkeypatch.setattr(training, "proximal_update", noted)
    train(Quadratic(1, 8), small(algorithm), seeds=[0])
    assert set(after) == {printed}


# -- the plain step of the same KL
def test_a_plain_step_follows_the_gradient_as_far_in_kl_as_the_natural_one():
    natural, plain = experience(), experience()
    config = TrustRegionConfig(delta=0.05)
    theirs = trust_region_update(*natural, config)
    policy, buffer = plain
    before, advantage = policy.theta.clone(), normalized(buffer.advantage)
    gradient = policy_gradient(policy, buffer, advantage)
    ours = plain_gradient_update(policy, buffer, config)
    step = policy.actor - before[:, : policy.actor_size]
    cosine = torch.nn.functional.cosine_similarity(step, gradient, dim=1)
    assert cosine.tolist() == pytest.approx([1.0, 1.0], abs=1e-9)
    assert bool(ours.search.accepted.all())
    assert ours.kl.tolist() == pytest.approx(theirs.kl.tolist(), rel=1e-6)
    assert bool((ours.kl <= theirs.kl).all()) and bool((ours.search.improvement > 0).all())
    with torch.no_grad():
        gain = surrogate(policy.distribution(buffer.obs), buffer, advantage)
        gain -= surrogate(buffer.behaviour, buffer, advantage)
    assert ours.search.improvement.tolist() == pytest.approx(gain.tolist(), abs=1e-12)
    assert torch.equal(policy.critic, before[:, policy.actor_size :])


def test_the_length_of_a_plain_step_is_sought_up_to_sixteen_times_its_quadratic_model(monkeypatch):
    """Where the KL is no parabola the greatest length may lie beyond the model's, and is found there."""
    asked, length_of = [], trust_region._length_of_kl

    def noted(local, kl, upper):
        asked.append(upper)
        return length_of(local, kl, upper)

    monkeypatch.setattr(trust_region, "_length_of_kl", noted)
    (policy, buffer), config = experience(), TrustRegionConfig(delta=0.05)
    gradient = policy_gradient(policy, buffer, normalized(buffer.advantage))
    curvature = (gradient * fisher_vector_product(policy, buffer.obs)(gradient)).sum(1)
    kl = trust_region_update(*experience(), config).kl
    plain_gradient_update(policy, buffer, config)
    assert asked[0].tolist() == pytest.approx((16 * (2 * kl / curvature).sqrt()).tolist(), rel=1e-6)


def test_without_a_natural_step_there_is_no_plain_one():
    policy, buffer = experience()
    before = policy.theta.clone()
    still = dataclasses.replace(buffer, advantage=torch.ones_like(buffer.advantage))  # no gradient at all
    outcome = plain_gradient_update(policy, still)
    assert torch.equal(policy.theta, before) and not outcome.search.accepted.any()


def test_each_replica_has_a_plain_step_of_its_own_delta():
    policy, buffer = experience()
    delta = torch.tensor([0.2, 0.002], dtype=torch.float64)
    kl = plain_gradient_update(policy, buffer, delta=delta).kl
    assert bool((kl <= delta).all()) and kl[0] > 10 * kl[1] > 0

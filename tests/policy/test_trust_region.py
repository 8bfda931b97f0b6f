"""The mathematics of Eq. 3-6, each piece against its dense or direct counterpart in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import Quadratic

from twinlib.policy.actor_critic import ActorCritic
from twinlib.policy.rollout import Buffer, Collector
from twinlib.policy.training import make_generators
from twinlib.policy.trust_region import (
    PRODUCTS,
    TrustRegionConfig,
    backtracking_line_search,
    conjugate_gradient,
    fisher_vector_product,
    mean_kl,
    natural_gradient,
    normalized,
    policy_gradient,
    step_length,
    surrogate,
    trust_region_update,
)


def experience(seeds=(0, 1), n_cells=16, discrete=False, steps=6) -> tuple[ActorCritic, Buffer]:
    """A small policy (two layers of 5) away from its first weights, and data it collected."""
    policy = ActorCritic(
        4, 3, len(seeds), make_generators(seeds, "weights"), hidden=(5, 5), log_std=-0.3, dtype=torch.float64
    )
    torch.manual_seed(4)
    policy.theta += 0.3 * torch.randn_like(policy.theta)
    collector = Collector(
        Quadratic(len(seeds), n_cells),
        make_generators(seeds, "environment"),
        make_generators(seeds, "actions"),
        torch.float64,
    )
    return policy, collector.collect(policy, steps, 0.99, 0.95)


def dense_fisher(policy: ActorCritic, obs: torch.Tensor, replica: int = 0) -> torch.Tensor:
    """The Hessian of the mean KL [P, P] of one replica, by brute force."""
    alone, states = policy.replica(replica), obs[replica : replica + 1]
    old = alone.distribution(states).detach()

    def kl(actor: torch.Tensor) -> torch.Tensor:
        return old.kl(alone.distribution(states, actor.unsqueeze(0))).mean()

    return torch.autograd.functional.hessian(kl, alone.actor[0].clone())


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("replica", [0, 1])
def test_product_equals_dense_fisher_times_vector(product, replica):
    policy, buffer = experience()
    dense = dense_fisher(policy, buffer.obs, replica)
    multiply = fisher_vector_product(policy, buffer.obs, damping=0.0, product=product)
    torch.manual_seed(0)
    for _ in range(5):
        v = torch.randn_like(policy.actor)
        exact = dense @ v[replica]
        assert (multiply(v)[replica] - exact).norm() <= 1e-8 * exact.norm()


def test_fisher_is_the_mean_outer_product_of_scores():
    """The KL's Hessian is the covariance of the score: the definition of Fisher information."""
    policy, _ = experience(seeds=(0,))
    obs = torch.randn(1, 3, 4, dtype=torch.float64)
    draws = 20_000
    states = obs.repeat_interleave(draws, dim=1)
    action = policy.act(states, [torch.Generator().manual_seed(1)])

    def log_prob(actor, state, a):
        return policy.distribution(state[None, None], actor[None]).log_prob(a[None, None]).squeeze()

    scores = torch.func.vmap(torch.func.grad(log_prob), (None, 0, 0))(policy.actor[0], states[0], action[0])
    estimate, exact = scores.T @ scores / len(scores), dense_fisher(policy, obs)
    assert (estimate - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("product", PRODUCTS)
def test_product_is_symmetric_and_positive(product):
    policy, buffer = experience()
    multiply = fisher_vector_product(policy, buffer.obs, product=product)
    torch.manual_seed(1)
    for _ in range(10):
        u, v = torch.randn_like(policy.actor), torch.randn_like(policy.actor)
        left, right = (u * multiply(v)).sum(-1), (v * multiply(u)).sum(-1)
        assert torch.allclose(left, right, rtol=1e-10)
        assert bool(((v * multiply(v)).sum(-1) > 0).all())


def test_all_products_agree_and_damping_adds_the_vector():
    policy, buffer = experience()
    v = torch.randn_like(policy.actor)
    analytic, tangents, printed = (fisher_vector_product(policy, buffer.obs, 0.1, p)(v) for p in PRODUCTS)
    assert (tangents - printed).norm() <= 1e-12 * printed.norm()
    assert (analytic - printed).norm() <= 1e-12 * printed.norm()
    bare, scaled = (fisher_vector_product(policy, buffer.obs, 0.0, scale=scale)(v) for scale in (1.0, 0.5))
    assert torch.allclose(analytic - bare, 0.1 * v, atol=1e-12)
    assert torch.allclose(scaled, 0.5 * bare, atol=1e-14)


@pytest.mark.parametrize("hidden", [(), (5,), (6, 5, 4)])
def test_the_analytic_product_knows_any_number_of_layers(hidden):
    policy = ActorCritic(4, 3, 2, make_generators((0, 1), "weights"), hidden=hidden, dtype=torch.float64)
    policy.theta += 0.3 * torch.randn_like(policy.theta)
    obs, v = torch.randn(2, 30, 4, dtype=torch.float64), torch.randn_like(policy.actor)
    analytic, _, printed = (fisher_vector_product(policy, obs, 0.0, p)(v) for p in PRODUCTS)
    assert (analytic - printed).norm() <= 1e-12 * printed.norm()


def test_categorical_product_agrees_with_double_backward():
    policy = ActorCritic(
        4, 3, 2, make_generators((0, 1), "weights"), hidden=(5, 5), discrete=True, dtype=torch.float64
    )
    obs, v = torch.randn(2, 30, 4, dtype=torch.float64), torch.randn_like(policy.actor)
    fast, printed = (fisher_vector_product(policy, obs, 0.0, p)(v) for p in ("auto", "double_backward"))
    assert (fast - printed).norm() <= 1e-8 * printed.norm()
    with pytest.raises(ValueError, match="for Gaussian policies"):
        fisher_vector_product(policy, obs, 0.0, "analytic")


def symmetric(seed: int, size: int, replicas: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(replicas, size, size, generator=g, dtype=torch.float64)
    matrix = root @ root.transpose(1, 2) + 0.1 * torch.eye(size, dtype=torch.float64)
    return matrix, torch.randn(replicas, size, generator=g, dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 12))
def test_conjugate_gradient_equals_direct_solution(seed, size):
    matrix, target = symmetric(seed, size)
    solved = conjugate_gradient(lambda v: (matrix @ v.unsqueeze(-1)).squeeze(-1), target, 5 * size + 5, 1e-26)
    direct = torch.linalg.solve(matrix, target)
    assert (solved - direct).norm() <= 1e-7 * direct.norm()


def test_conjugate_gradient_on_the_damped_fisher_equals_direct_solution():
    policy, buffer = experience()
    gradient = policy_gradient(policy, buffer, normalized(buffer.advantage))
    config = TrustRegionConfig(cg_iterations=300, cg_tolerance=1e-24)
    d = natural_gradient(policy, buffer, gradient, config)
    for r in range(2):
        dense = dense_fisher(policy, buffer.obs, r)
        damped = dense + config.damping * torch.eye(len(dense), dtype=torch.float64)
        direct = torch.linalg.solve(damped, gradient[r])
        assert (d[r] - direct).norm() <= 1e-8 * direct.norm()


def test_conjugate_gradient_stops_each_replica_by_itself():
    matrix, target = symmetric(0, 6, replicas=2)
    matrix[0] = torch.eye(6, dtype=torch.float64)  # solved in one iteration
    calls = []

    def product(v):
        calls.append(v.clone())
        return (matrix @ v.unsqueeze(-1)).squeeze(-1)

    d = conjugate_gradient(product, target, 30, 1e-24)
    assert len(calls) > 2
    assert torch.allclose(d[0], target[0], atol=1e-14)
    alone = conjugate_gradient(lambda v: (matrix[1:] @ v.unsqueeze(-1)).squeeze(-1), target[1:], 30, 1e-24)
    assert torch.allclose(d[1], alone[0], atol=1e-12)


def test_conjugate_gradient_guards_against_negative_curvature():
    sign = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    target = torch.ones(2, 4, dtype=torch.float64)
    d = conjugate_gradient(lambda v: sign * v, target, 10)
    assert torch.allclose(d[0], target[0]) and torch.equal(d[1], torch.zeros(4, dtype=torch.float64))


def test_conjugate_gradient_of_a_zero_gradient_is_zero():
    d = conjugate_gradient(lambda v: v, torch.zeros(1, 4))
    assert torch.equal(d, torch.zeros(1, 4))


def test_step_length_gives_the_quadratic_model_delta():
    matrix, gradient = symmetric(3, 8)
    d = torch.linalg.solve(matrix, gradient)
    alpha = step_length(gradient, d, 0.02)
    step = alpha.unsqueeze(-1) * d
    model = 0.5 * (step * (matrix @ step.unsqueeze(-1)).squeeze(-1)).sum(-1)
    assert torch.allclose(model, torch.full_like(model, 0.02), rtol=1e-6)
    assert torch.equal(step_length(gradient, -d, 0.02), torch.zeros(3, dtype=torch.float64))


def relative_error(delta: float) -> float:
    """How far the KL lies from delta after a step along d with d'Hd / 2 = delta (mean over replicas)."""
    policy, buffer = experience(seeds=tuple(range(6)), n_cells=64, steps=10)
    gradient = policy_gradient(policy, buffer, normalized(buffer.advantage))
    d = natural_gradient(policy, buffer, gradient, TrustRegionConfig(cg_iterations=100, cg_tolerance=1e-26))
    # The model is about H itself, so the length comes from d'Hd without damping.
    alpha = step_length(fisher_vector_product(policy, buffer.obs)(d), d, delta, epsilon=0.0)
    with torch.no_grad():
        moved = policy.distribution(buffer.obs, policy.actor + alpha.unsqueeze(-1) * d)
        return float((mean_kl(buffer.behaviour, moved) / delta - 1.0).abs().mean())


def test_quadratic_kl_model_holds_for_small_steps_and_fails_as_the_square_root_of_delta():
    coarse, fine = relative_error(1e-2), relative_error(1e-4)
    assert fine < 0.01
    assert 4.0 < coarse / fine < 25.0  # sqrt(100) = 10


def test_line_search_shortens_until_both_conditions_hold_and_restores_failures():
    start = torch.zeros(3, 1, dtype=torch.float64)
    step = torch.tensor([[1.0], [1.0], [-1.0]], dtype=torch.float64)
    scale = torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64)

    def evaluate(x):  # the surrogate rises with x; the KL is (scale x)^2
        return x.squeeze(-1), (scale * x.squeeze(-1)).square()

    result, outcome = backtracking_line_search(evaluate, start, step, delta=1.0, shrink=0.5, tries=4)
    assert outcome.accepted.tolist() == [True, True, False]
    assert outcome.fraction.tolist() == [1.0, 0.25, 0.0]
    assert torch.equal(result[2], start[2]) and outcome.kl[2] == 0.0
    assert torch.all(outcome.kl <= 1.0)


def test_line_search_asks_no_more_once_every_replica_is_served():
    asked = []

    def evaluate(x):
        asked.append(x)
        return x.squeeze(-1), x.squeeze(-1).square()

    backtracking_line_search(evaluate, torch.zeros(2, 1), torch.ones(2, 1), 0.5, shrink=0.5, tries=6)
    assert len(asked) == 3  # before, refused, accepted


def test_line_search_never_takes_a_step_to_nan():
    nan = torch.full((1,), torch.nan)

    def evaluate(x):
        value = torch.where(x[:, 0] == 0, 0.0, nan)
        return value, value

    result, outcome = backtracking_line_search(evaluate, torch.zeros(1, 1), torch.ones(1, 1), 0.1)
    assert not outcome.accepted.any() and torch.equal(result, torch.zeros(1, 1))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), delta=st.sampled_from([1e-4, 1e-2, 0.3]))
def test_accepted_updates_keep_the_constraint_and_improve_the_surrogate(seed, delta):
    policy, buffer = experience(seeds=(seed, seed + 1))
    before = policy.theta.clone()
    outcome = trust_region_update(policy, buffer, TrustRegionConfig(delta=delta))
    advantage = normalized(buffer.advantage)
    with torch.no_grad():
        new = policy.distribution(buffer.obs)
        gain = surrogate(new, buffer, advantage) - surrogate(buffer.behaviour, buffer, advantage)
        kl = mean_kl(buffer.behaviour, new)
    accepted = outcome.search.accepted
    assert bool((kl[accepted] <= delta).all()) and bool((gain[accepted] > 0).all())
    assert torch.equal(policy.theta[~accepted], before[~accepted])
    assert torch.equal(policy.critic, before[:, policy.actor_size :])


def test_policy_gradient_is_the_mean_of_scores_times_advantages():
    policy, buffer = experience(seeds=(0,))
    advantage = normalized(buffer.advantage)
    actor = policy.actor.clone().requires_grad_()
    score = (policy.distribution(buffer.obs, actor).log_prob(buffer.action) * advantage).mean()
    (by_score,) = torch.autograd.grad(score, actor)
    assert torch.allclose(policy_gradient(policy, buffer, advantage), by_score, atol=1e-13)


def test_averaging_the_kl_over_actions_takes_a_longer_step():
    outcomes = []
    for reduction in ("sum", "mean_over_actions"):
        policy, buffer = experience(seeds=(0,))
        config = TrustRegionConfig(kl_reduction=reduction, damping=1e-3)
        outcomes.append(trust_region_update(policy, buffer, config))
    assert float(outcomes[1].kl) > 2.0 * float(outcomes[0].kl)
    assert float(outcomes[1].search.kl) <= 0.01


@pytest.mark.parametrize(
    "bad", [{"product": "magic"}, {"kl_reduction": "max"}, {"kl_direction": "up"}, {"delta": 0.0}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match="use one of|change them"):
        dataclasses.replace(TrustRegionConfig(), **bad)

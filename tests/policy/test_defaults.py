"""Defaults are those of the libraries that the docstrings name; settings are refused beyond their bounds."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from twinlib.policy.actor_critic import ActorCritic, Adam
from twinlib.policy.proximal import ProximalConfig
from twinlib.policy.rollout import generalized_advantage
from twinlib.policy.training import TrainingConfig, make_generators
from twinlib.policy.trust_region import TrustRegionConfig, conjugate_gradient, step_length


def defaults(algorithm: type) -> dict[str, object]:
    return {name: p.default for name, p in inspect.signature(algorithm).parameters.items()}


def test_defaults_of_ppo_are_those_of_stable_baselines3():
    theirs, ours, run = (
        defaults(pytest.importorskip("stable_baselines3").PPO),
        ProximalConfig(),
        TrainingConfig(),
    )
    assert (ours.learning_rate, ours.minibatch_size, ours.epochs, ours.clip_range) == tuple(
        theirs[name] for name in ("learning_rate", "batch_size", "n_epochs", "clip_range")
    )
    assert (ours.entropy_coefficient, ours.max_gradient_norm) == (theirs["ent_coef"], theirs["max_grad_norm"])
    assert ours.value_coefficient == 2 * theirs["vf_coef"]  # ours multiplies half the squared error
    assert ours.normalize_advantage is theirs["normalize_advantage"] is True
    assert ours.target_kl is theirs["target_kl"] is None and ours.beta == 0 and not ours.adaptive_beta
    assert (run.steps_per_iteration, run.gamma, run.gae_lambda) == tuple(
        theirs[name] for name in ("n_steps", "gamma", "gae_lambda")
    )


def test_defaults_of_functions_are_those_of_their_configurations():
    ours, given = defaults(generalized_advantage), TrainingConfig()
    assert (ours["gamma"], ours["gae_lambda"]) == (given.gamma, given.gae_lambda)
    assert defaults(ActorCritic)["hidden"] == given.hidden == (64, 64)
    assert defaults(conjugate_gradient)["iterations"] == 10  # as in sb3-contrib
    assert defaults(step_length)["epsilon"] == TrustRegionConfig().epsilon == 1e-8


def test_defaults_of_trpo_are_those_of_sb3_contrib():
    theirs, ours, run = (
        defaults(pytest.importorskip("sb3_contrib").TRPO),
        TrustRegionConfig(),
        TrainingConfig(),
    )
    assert (ours.delta, ours.damping, ours.cg_iterations, ours.line_search_steps, ours.shrink) == tuple(
        theirs[name]
        for name in (
            "target_kl",
            "cg_damping",
            "cg_max_steps",
            "line_search_max_iter",
            "line_search_shrinking_factor",
        )
    )
    assert (ours.cg_tolerance, ours.epsilon) == (1e-10, 1e-8)
    assert (run.critic_epochs, run.critic_learning_rate, run.critic_minibatch_size) == tuple(
        theirs[name] for name in ("n_critic_updates", "learning_rate", "batch_size")
    )


def test_a_run_is_as_long_as_the_papers():
    run = TrainingConfig()
    assert (run.timesteps, run.warm_start_steps, run.hidden, run.log_std) == (150_000, 10_000, (64, 64), 0.0)
    assert run.fine_tuning == ProximalConfig(beta=0.1) and run.proximal == ProximalConfig()
    assert run.hand_over and run.hand_over_scale == 1.0


@pytest.mark.parametrize(
    ("config", "least", "refused"),
    [
        (ProximalConfig, {"minibatch_size": 2}, {"minibatch_size": 1}),
        (ProximalConfig, {"epochs": 1}, {"epochs": 0}),
        (ProximalConfig, {"clip_range": 1e-6}, {"clip_range": 0.0}),
        (TrustRegionConfig, {"delta": 1e-9}, {"delta": 0.0}),
        (TrustRegionConfig, {"damping": 0.0}, {"damping": -1e-9}),
        (TrainingConfig, {"timesteps": 1}, {"timesteps": 0}),
        (TrainingConfig, {"steps_per_iteration": 2}, {"steps_per_iteration": 1}),
    ],
)
def test_a_setting_is_taken_at_its_bound_and_refused_below(config, least, refused):
    assert config(**least) is not None
    with pytest.raises(ValueError, match=config.__name__):
        config(**refused)


def test_networks_begin_with_orthogonal_weights_and_no_bias():
    """Gain sqrt 2 in tanh layers, 0.01 at the mean action, 1 at the value (as in Stable-Baselines3)."""
    policy = ActorCritic(3, 2, 1, make_generators([0], "weights"), hidden=(3, 3), dtype=torch.float64)
    spread = policy.actor[0, -2:]
    networks = (
        (policy.actor[0, :-2], policy.actor_widths, 0.01),
        (policy.critic[0], policy.critic_widths, 1.0),
    )
    assert torch.equal(spread, torch.zeros(2, dtype=torch.float64))
    for vector, widths, last in networks:
        for k in range(3):
            rows, columns = widths[k : k + 2]
            weight, bias, vector = vector.split([rows * columns, columns, len(vector) - (rows + 1) * columns])
            gain = last if k == 2 else math.sqrt(2.0)
            weight = weight.view(rows, columns)
            eye = torch.eye(columns, dtype=torch.float64)
            assert torch.allclose(weight.T @ weight, gain**2 * eye, atol=1e-12)
            assert not bias.any()
        assert not len(vector)


def test_adam_has_the_customary_constants():
    adam = Adam(torch.zeros(1, 1), 1e-3)
    assert (adam.eps, adam.betas) == (1e-5, (0.9, 0.999))

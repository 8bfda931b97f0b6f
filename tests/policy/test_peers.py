"""Our updates against Stable-Baselines3 and sb3-contrib: same weights, same batch, same minibatch order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twinlib.policy import proximal
from twinlib.policy.actor_critic import Adam
from twinlib.policy.proximal import ProximalConfig, critic_update, proximal_update
from twinlib.policy.rollout import generalized_advantage
from twinlib.policy.trust_region import TrustRegionConfig, trust_region_update

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")
from peers import PointMass, actor_pieces, critic_pieces, epoch_orders, from_rollout_buffer, from_sb3, vector
from sb3_contrib import TRPO
from stable_baselines3 import PPO

ROWS = 256


def collected(algorithm, **options):
    """An SB3 model with one filled rollout buffer, our copy of both, and the spread of its log_std."""
    torch.manual_seed(1)
    model = algorithm("MlpPolicy", PointMass(), n_steps=ROWS, seed=3, device="cpu", **options)
    with torch.no_grad():
        model.policy.log_std.copy_(torch.tensor([-0.2, 0.1, -0.5, 0.3]))
    _, callback = model._setup_learn(ROWS)
    callback.on_training_start(locals(), globals())
    model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=ROWS)
    ours = from_sb3(model.policy)
    return model, ours, from_rollout_buffer(model.rollout_buffer, ours)


def fixed_orders(monkeypatch, orders):
    """Make twinlib use the given row order in each epoch."""
    remaining = iter(orders)
    monkeypatch.setattr(proximal, "permuted", lambda rows, *_: next(remaining).unsqueeze(0))


def test_log_probabilities_agree():
    _, ours, buffer = collected(PPO)
    assert torch.allclose(buffer.behaviour.log_prob(buffer.action), buffer.log_prob, atol=2e-6)
    with torch.no_grad():
        assert torch.allclose(ours.value(buffer.obs), buffer.value, atol=2e-6)


def test_generalized_advantage_agrees():
    model, _, _ = collected(PPO)
    b = model.rollout_buffer
    ends = np.append(b.episode_starts[1:], [model._last_episode_starts], axis=0).astype(bool)
    # SB3 has added gamma V(final) to the reward of a cut step, and then treats it like any other end.
    last = model.policy.predict_values(torch.as_tensor(model._last_obs)).detach().numpy().reshape(1, 1)
    following = np.append(b.values[1:], last, axis=0)
    args = (b.rewards, b.values, following, ends, np.zeros_like(ends))
    advantage, return_ = generalized_advantage(*(torch.as_tensor(a).unsqueeze(0) for a in args), 0.99, 0.95)
    assert np.abs(advantage[0].numpy() - b.advantages).max() < 1e-6
    assert np.abs(return_[0].numpy() - b.returns).max() < 1e-6


@pytest.mark.parametrize("epochs", [1, 3])
def test_ppo_epochs_agree(monkeypatch, epochs):
    model, ours, buffer = collected(PPO, n_epochs=epochs, ent_coef=0.01)
    fixed_orders(monkeypatch, epoch_orders(5, ROWS, epochs))
    config = ProximalConfig(epochs=epochs, entropy_coefficient=0.01)
    before = ours.theta.clone()
    proximal_update(ours, Adam(ours.theta, config.learning_rate), buffer, config, [torch.Generator()])
    np.random.seed(5)  # noqa: NPY002 (SB3 draws its order from the global state)
    model.train()
    theirs = vector(actor_pieces(model.policy) + critic_pieces(model.policy))
    assert (ours.theta[0] - before[0]).abs().max() > 1e-4
    assert (ours.theta[0] - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("change", ["eps", "clip", "value", "advantage"])
def test_each_of_the_settings_is_needed(monkeypatch, change):
    """A parity test that would also pass with another setting would show nothing."""
    model, ours, buffer = collected(PPO, n_epochs=1)
    fixed_orders(monkeypatch, epoch_orders(5, ROWS, 1))
    changed = {
        "clip": {"max_gradient_norm": 1e9},
        "value": {"value_coefficient": 2.0},
        "advantage": {"normalize_advantage": False},
    }
    config = ProximalConfig(epochs=1, **changed.get(change, {}))
    adam = Adam(ours.theta, config.learning_rate, eps=1e-8 if change == "eps" else 1e-5)
    proximal_update(ours, adam, buffer, config, [torch.Generator()])
    np.random.seed(5)  # noqa: NPY002
    model.train()
    theirs = vector(actor_pieces(model.policy) + critic_pieces(model.policy))
    assert (ours.theta[0] - theirs).abs().max() > 1e-5


def test_trpo_update_agrees(monkeypatch):
    model, ours, buffer = collected(TRPO, batch_size=64, n_critic_updates=2)
    fixed_orders(monkeypatch, epoch_orders(5, ROWS, 3)[1:])
    config = TrustRegionConfig(kl_reduction="mean_over_actions", kl_direction="new_old")
    # sb3-contrib starts conjugate gradients at small noise, in its own order of parameters.
    torch.manual_seed(9)
    pieces = [p for name, p in model.policy.named_parameters() if "value" not in name]
    noise = 1e-4 * torch.randn(sum(p.numel() for p in pieces))
    parts = dict(zip(map(id, pieces), torch.split(noise, [p.numel() for p in pieces]), strict=True))
    start = vector([parts[id(p)].view(p.shape) for p in actor_pieces(model.policy)]).unsqueeze(0)
    before = ours.theta.clone()
    outcome = trust_region_update(ours, buffer, config, cg_start=start)
    critic_update(ours, Adam(ours.critic, 1e-3), buffer, 2, 64, [torch.Generator()])
    torch.manual_seed(9)
    np.random.seed(5)  # noqa: NPY002
    model.train()
    assert bool(outcome.search.accepted.all())
    assert (ours.actor - before[:, : ours.actor_size]).abs().max() > 1e-3
    assert (ours.actor[0] - vector(actor_pieces(model.policy))).abs().max() < 1e-5
    assert (ours.critic[0] - vector(critic_pieces(model.policy))).abs().max() < 1e-5

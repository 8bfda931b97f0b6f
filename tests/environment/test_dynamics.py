"""The described environment: exact do-nothing, replicas, ends, options, kick, cost, both interfaces."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from toy_world import toy_world

from twinlib.environment.density import fit_density
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.gymnasium_api import CellEnv, CellVectorEnv
from twinlib.errors import WorldError

QUIET = EnvironmentConfig(process_noise=0.0, kick=False)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def rollout(dynamics: Dynamics, actions: torch.Tensor, *seeds: int) -> tuple[torch.Tensor, torch.Tensor]:
    obs, rewards = [dynamics.reset(generators(*seeds))], []
    for action in actions:
        step = dynamics.step(action)
        obs.append(step.obs)
        rewards.append(step.reward)
    return torch.stack(obs), torch.stack(rewards)


@pytest.mark.parametrize("n_cells", [1, 7, 64])
def test_doing_nothing_earns_exactly_zero(n_cells: int) -> None:
    dynamics = Dynamics(toy_world(), QUIET, replicas=2, n_cells=n_cells)
    obs, rewards = rollout(dynamics, torch.zeros(31, 2, n_cells, 6), 0, 1)
    assert float(rewards.abs().max()) == 0.0
    assert torch.equal(obs[0, ..., :3], obs[14, ..., :3])


def test_doing_nothing_in_exact_mode_stays_within_rounding() -> None:
    config = EnvironmentConfig(process_noise=0.0, kick=False, mode="exact")
    dynamics = Dynamics(toy_world(dtype=torch.float64), config, n_cells=5)
    _, rewards = rollout(dynamics, torch.zeros(15, 1, 5, 6, dtype=torch.float64), 0)
    assert float(rewards.abs().max()) < 1e-12


def test_replica_equals_the_same_seed_alone() -> None:
    world = toy_world(dtype=torch.float64)
    actions = torch.rand(20, 3, 4, 6, generator=generators(9)[0], dtype=torch.float64) * 2 - 1
    together = rollout(Dynamics(world, replicas=3, n_cells=4), actions, 5, 6, 7)
    for r, seed in enumerate((5, 6, 7)):
        alone = rollout(Dynamics(world, replicas=1, n_cells=4), actions[:, r : r + 1], seed)
        for both, one in zip(together, alone, strict=True):
            assert torch.allclose(both[:, r], one[:, 0], atol=1e-12, rtol=0)
    assert not torch.allclose(together[0][:, 0], together[0][:, 1])


def test_rewards_telescope_to_the_fall_of_the_error() -> None:
    config = EnvironmentConfig(l1=0.0, l2=0.0)
    dynamics = Dynamics(toy_world(dtype=torch.float64), config, n_cells=8)
    dynamics.reset(generators(3))
    first = dynamics.error.clone()
    total = torch.zeros(1, 8, dtype=torch.float64)
    for _ in range(14):
        total += dynamics.step(torch.full((1, 8, 6), 0.4)).reward
    assert torch.allclose(total, first - dynamics.error, atol=1e-12)
    assert float(total.abs().min()) > 0


def test_the_step_is_s_a_E_and_the_prediction_starts_at_the_observed_cell() -> None:
    world = toy_world(dtype=torch.float64)
    dynamics = Dynamics(world, EnvironmentConfig(process_noise=0.0, kick=False, action_scale=0.3), n_cells=20)
    dynamics.reset(generators(0), cells=torch.arange(20))
    assert torch.allclose(
        dynamics.error[0], (world.scale(world.x) - world.scale(world.targets())).square().mean(-1)
    )
    action = torch.rand(1, 20, 6, generator=generators(4)[0], dtype=torch.float64)
    dynamics.step(action)
    assert torch.allclose(dynamics.latent[0], world.z0 + 0.3 * action[0] @ world.effects, atol=1e-14)


def test_cost_is_the_mean_absolute_and_mean_squared_action() -> None:
    cells = torch.arange(4)
    rewards = []
    for l1, l2 in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.1)):
        dynamics = Dynamics(
            toy_world(), EnvironmentConfig(process_noise=0, kick=False, l1=l1, l2=l2), n_cells=4
        )
        dynamics.reset(generators(0), cells=cells)
        rewards.append(dynamics.step(torch.full((1, 4, 6), 0.5)).reward)
    assert torch.allclose(rewards[0] - rewards[1], torch.tensor(0.05), atol=1e-6)
    assert torch.allclose(rewards[0] - rewards[2], torch.tensor(0.025), atol=1e-6)


def test_the_end_of_the_horizon_is_a_termination_and_cells_restart_at_once() -> None:
    dynamics = Dynamics(toy_world(), EnvironmentConfig(horizon=3), n_cells=5)
    dynamics.reset(generators(0))
    for t in range(3):
        step = dynamics.step(torch.ones(1, 5, 6))
        assert bool(step.terminated.all()) == (t == 2) and not bool(step.truncated.any())
    time = (torch.tensor([3.0, 0.0]) - 1) / (2 / 3) ** 0.5
    assert torch.all(step.final_obs[..., -1] == time[0]) and torch.all(step.obs[..., -1] == time[1])
    assert not torch.equal(step.final_obs[..., :3], step.obs[..., :3])


def test_the_kick_lowers_a_knocked_down_gene_by_a_random_efficacy() -> None:
    world = toy_world()
    dynamics = Dynamics(world, EnvironmentConfig(process_noise=0.0), n_cells=4000)
    dynamics.reset(generators(0), cells=torch.zeros(4000, dtype=torch.long))
    efficacy = (dynamics.latent[0] - world.z0[0]) @ world.kicks[0] / world.kicks[0].square().sum()
    assert float(efficacy.min()) > 0 and float(efficacy.max()) < 1
    assert float(efficacy.mean()) == pytest.approx(4 / 6, abs=0.02)
    assert float(efficacy.var()) == pytest.approx(4 * 2 / (36 * 7), abs=0.005)


def test_process_noise_has_the_stated_size() -> None:
    dynamics = Dynamics(toy_world(), EnvironmentConfig(kick=False, process_noise=0.5), n_cells=2000)
    dynamics.reset(generators(0), cells=torch.zeros(2000, dtype=torch.long))
    dynamics.step(torch.zeros(1, 2000, 6))
    moved = (dynamics.latent[0] - dynamics.world.z0[0]).square().sum(-1).mean().sqrt()
    assert float(moved) == pytest.approx(0.5 * dynamics.distance / 15, rel=0.05)


def test_default_action_scale_makes_a_random_action_one_hth_of_the_way() -> None:
    world = toy_world()
    action = torch.rand(20_000, 6, generator=generators(2)[0]) * 2 - 1
    length = (world.action_scale(15) * action @ world.effects).square().sum(-1).mean().sqrt()
    assert float(length) == pytest.approx(world.units.distance / 15, rel=0.02)


def test_a_saved_environment_continues_bit_for_bit() -> None:
    dynamics = Dynamics(toy_world(), replicas=2, n_cells=3)
    dynamics.reset(generators(1, 2))
    for _ in range(4):
        dynamics.step(torch.ones(2, 3, 6))
    saved = dynamics.state_dict()
    first = [dynamics.step(torch.full((2, 3, 6), 0.1)) for _ in range(20)]
    other = Dynamics(toy_world(), replicas=2, n_cells=3)
    other.load_state_dict(saved)
    second = [other.step(torch.full((2, 3, 6), 0.1)) for _ in range(20)]
    assert all(
        torch.equal(a.obs, b.obs) and torch.equal(a.reward, b.reward)
        for a, b in zip(first, second, strict=True)
    )


def test_exact_mode_moves_the_gene_itself() -> None:
    world = toy_world(dtype=torch.float64)
    moved = {}
    for mode in ("linear", "exact"):
        config = EnvironmentConfig(process_noise=0.0, kick=False, mode=mode, action_scale=1e-4)
        dynamics = Dynamics(world, config, n_cells=20)
        dynamics.reset(generators(0), cells=torch.arange(20))
        dynamics.step(torch.ones(1, 20, 6))
        moved[mode] = dynamics.latent[0] - world.z0
    by_hand = world.embedding.encode(world.scale(world.x) + 1e-4) - world.z0
    assert torch.allclose(moved["exact"], by_hand, atol=1e-12)
    assert not torch.allclose(moved["linear"], moved["exact"], rtol=1e-3, atol=0)


def test_targets_keep_their_own_effect() -> None:
    world = toy_world()
    env = CellEnv("GeneScreen", world=world, config=QUIET, targets=["g4", "g2"])
    assert env.action_space.shape == (2,)
    assert torch.equal(env.dynamics.world.effects, world.effects[[4, 2]])
    with pytest.raises(WorldError, match="nothere"):
        CellEnv("GeneScreen", world=world, config=QUIET, targets=["nothere"])


def test_options_start_at_a_given_cell() -> None:
    world = toy_world()
    env = CellEnv("GeneScreen", world=world, config=QUIET)
    obs, info = env.reset(seed=0, options={"cell": 5})
    assert np.allclose(obs[:3], world.z0[5].numpy())
    again, _ = env.reset(options={"x": world.x[5].numpy(), "label": "g1", "y": world.targets()[5].numpy()})
    assert np.allclose(obs, again, atol=1e-6)
    assert info["error"] == pytest.approx(float(env.dynamics.error), rel=1e-5)
    with pytest.raises(ValueError, match="cell"):
        env.reset(options={"cell": 99})
    with pytest.raises(ValueError, match="colour"):
        env.reset(options={"colour": 1})


def test_single_and_vector_environment_agree() -> None:
    world = toy_world()
    single, vector = (
        CellEnv("GeneScreen", world=world, config=QUIET),
        CellVectorEnv("GeneScreen", 3, world=world, config=QUIET),
    )
    obs, _ = single.reset(seed=0, options={"cell": 4})
    many, _ = vector.reset(seed=1, options={"cell": [4, 4, 4]})
    assert np.allclose(many, obs, atol=1e-6)
    action = np.full(6, 0.7, np.float32)
    for _ in range(15):
        obs, reward, ended, cut, _ = single.step(action)
        many, rewards, all_ended, all_cut, info = vector.step(np.tile(action, (3, 1)))
        assert np.allclose(rewards, reward, atol=1e-6)
    assert ended and all_ended.all() and not cut and not all_cut.any()
    assert np.allclose(info["final_obs"][1], obs, atol=1e-6) and info["_final_obs"].all()


def test_gymnasium_checker_passes() -> None:
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinity|not set|render).*")
        check_env(CellEnv("GeneScreen", "rgb_array", world=toy_world()), skip_render_check=True)


def test_rendering_draws_the_path_since_the_reset() -> None:
    env = CellEnv("GeneScreen", "rgb_array", world=toy_world(), config=QUIET)
    env.reset(seed=0)
    first = env.render()
    for _ in range(15):
        env.step(np.ones(6, np.float32))
    last = env.render()
    assert first.shape == last.shape == (400, 400, 3) and last.dtype == np.uint8
    assert (first != last).any()
    vector = CellVectorEnv("GeneScreen", 2, "rgb_array", world=toy_world(), config=QUIET)
    vector.reset(seed=0)
    assert len(vector.render()) == 2 and CellEnv("GeneScreen", world=toy_world()).render() is None


def test_the_density_drift_goes_downhill() -> None:
    world = toy_world(m=200, dtype=torch.float64)
    density = fit_density(world.z0.numpy(), range(1, 4)).to(dtype=torch.float64)
    z = world.z0[:10].clone().requires_grad_(True)
    (by_autograd,) = torch.autograd.grad(density.energy(z).sum(), z)
    assert torch.allclose(density.gradient(z), by_autograd)
    config = EnvironmentConfig(process_noise=0.0, kick=False, drift="density", drift_rate=0.02)
    with pytest.raises(WorldError, match="density=True"):
        Dynamics(world, config)
    dynamics = Dynamics(dataclasses.replace(world, density=density), config, n_cells=10)
    dynamics.reset(generators(0), cells=torch.arange(10))
    before = density.energy(dynamics.latent)
    dynamics.step(torch.zeros(1, 10, 6))
    assert bool((density.energy(dynamics.latent) < before).all())


def test_the_marginal_landscape_is_the_density_seen_along_two_axes() -> None:
    density = fit_density(toy_world(m=300).z0.numpy(), range(2, 3)).to(dtype=torch.float64)
    axes = torch.eye(3, dtype=torch.float64)[:, :2]
    ticks = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    point = torch.tensor([0.1, -0.2], dtype=torch.float64)
    line = torch.cat([point.expand(4001, 2), ticks.unsqueeze(1)], dim=1)
    integral = torch.trapezoid(torch.exp(-density.energy(line)), ticks)
    assert float(torch.exp(-density.marginal(axes).energy(point))) == pytest.approx(float(integral), rel=1e-5)


def test_stable_baselines_checker_passes() -> None:
    checker = pytest.importorskip(
        "stable_baselines3.common.env_checker", reason="stable_baselines3 is not installed"
    )
    checker.check_env(CellEnv("GeneScreen", world=toy_world()), warn=True)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"horizon": 0}, "horizon"),
        ({"mode": "cubic"}, "cubic"),
        ({"process_noise": -1.0}, "process_noise"),
        ({"efficacy": (0, 2)}, "efficacy"),
        ({"drift": "wind"}, "wind"),
        ({"target": "tissue"}, "tissue"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        EnvironmentConfig(**arguments)


def test_wrong_calls_are_refused() -> None:
    dynamics = Dynamics(toy_world(), n_cells=2)
    with pytest.raises(RuntimeError, match="reset"):
        dynamics.step(torch.zeros(1, 2, 6))
    with pytest.raises(ValueError, match="generators"):
        dynamics.reset(generators(0, 1))
    dynamics.reset(generators(0))
    with pytest.raises(ValueError, match="shape"):
        dynamics.step(torch.zeros(2, 6))
    with pytest.raises(ValueError, match="the action holds NaN"):
        dynamics.step(torch.full((1, 2, 6), torch.nan))

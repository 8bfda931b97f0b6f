"""Toggle switch and myeloid network: thresholds, pulses and clamps whose outcome is known."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from twinlib.environment.known_answers import MyeloidConfig, MyeloidDynamics, ToggleConfig, ToggleDynamics
from twinlib.landscapes.toggle_switch import ToggleSwitch

STILL = ToggleSwitch(noise=0.0)


def push(config: ToggleConfig, action: torch.Tensor, steps: int, n: int = 1) -> ToggleDynamics:
    """Hold an action for some steps, then let go until the episode ends."""
    dynamics = ToggleDynamics(config, n_cells=n, dtype=torch.float64)
    dynamics.reset([torch.Generator().manual_seed(0)])
    for t in range(config.horizon):
        dynamics.step((action if t < steps else 0 * action).expand(1, n, 2))
    return dynamics


@pytest.mark.parametrize(("strength", "arrives"), [(0.184, False), (0.187, True)])
def test_the_threshold_of_leaving_A_is_kept(strength: float, arrives: bool) -> None:
    config = ToggleConfig(switch=STILL, strength=strength, horizon=400)
    dynamics = push(config, torch.tensor([-1.0, 1.0], dtype=torch.float64), 400)
    assert bool(dynamics.info()["success"].all()) == arrives


def test_no_schedule_below_the_threshold_escapes() -> None:
    config = ToggleConfig(switch=STILL, strength=0.184, horizon=60)
    dynamics = ToggleDynamics(config, n_cells=300)
    dynamics.reset([torch.Generator().manual_seed(0)])
    generator = torch.Generator().manual_seed(1)
    for _ in range(60):
        dynamics.step(torch.randint(0, 2, (1, 300, 2), generator=generator) * 2.0 - 1)
    start = dynamics.final_latent - dynamics.start
    assert not bool(dynamics.info()["success"].any()) and float(start.abs().max()) < 1.0


@pytest.mark.parametrize(("strength", "pulse"), [(0.3, 6.55), (0.5, 3.38), (1.0, 1.58)])
def test_the_shortest_pulse_is_found_within_one_step(strength: float, pulse: float) -> None:
    config = ToggleConfig(switch=STILL, strength=strength, horizon=300, interval=0.1)
    action = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    shorter, longer = int(np.floor(pulse / 0.1)) - 1, int(np.ceil(pulse / 0.1)) + 1
    assert not bool(push(config, action, shorter).info()["success"].all())
    assert bool(push(config, action, longer).info()["success"].all())


def test_activating_the_target_alone_ends_in_the_progenitor() -> None:
    config = ToggleConfig(switch=STILL, strength=0.5, horizon=120)
    dynamics = push(config, torch.tensor([0.0, 1.0], dtype=torch.float64), 60)
    assert float((dynamics.final_latent - torch.tensor([1.0, 1.0])).abs().max()) < 0.05
    assert not bool(dynamics.info()["success"].all())


def test_crispri_leaves_A_above_its_efficacy_only() -> None:
    for efficacy, left in ((0.58, False), (0.61, True)):
        config = ToggleConfig(switch=STILL, controls="crispri", strength=efficacy, horizon=300)
        dynamics = push(config, torch.tensor([1.0, 0.0], dtype=torch.float64), 200)
        at_home = float((dynamics.final_latent - dynamics.start).abs().max()) < 0.2
        assert at_home != left


def test_rewards_and_clipping() -> None:
    config = ToggleConfig(strength=3.0)
    dynamics = ToggleDynamics(config, n_cells=50)
    dynamics.reset([torch.Generator().manual_seed(0)])
    before = (dynamics.latent - dynamics.target).square().mean(-1)
    total = torch.zeros(1, 50)
    for _ in range(5):
        total += dynamics.step(torch.tensor([-1.0, 1.0]).expand(1, 50, 2)).reward
    after = (dynamics.latent - dynamics.target).square().mean(-1)
    assert torch.allclose(total, before - after, atol=1e-5) and float(dynamics.latent.min()) >= 0
    arrival = push(ToggleConfig(switch=STILL, reward="arrival", strength=0.5), torch.tensor([-1.0, 1.0]), 20)
    assert bool(arrival.success(arrival.final_latent).all())


@pytest.mark.parametrize(
    ("start", "target", "clamp", "arrives"),
    [
        ("erythrocyte", "megakaryocyte", {"EKLF": -1}, True),
        ("erythrocyte", "megakaryocyte", {"Fli1": 1}, True),
        ("monocyte", "neutrophil", {"Gfi1": 1}, True),
        ("neutrophil", "monocyte", {"EgrNab": 1}, True),
        ("erythrocyte", "monocyte", {"Pu1": 1}, False),
        ("erythrocyte", "monocyte", {"Cebpa": 1, "Pu1": 1, "EgrNab": 1}, True),
    ],
)
def test_minimal_clamps_of_the_boolean_rules_work(
    start: str, target: str, clamp: dict, arrives: bool
) -> None:
    from twinlib.landscapes.myeloid import MyeloidNetwork, gene_vector

    config = MyeloidConfig(network=MyeloidNetwork(sigma=0.0), start=start, target=target, horizon=30)
    dynamics = MyeloidDynamics(config, n_cells=1)
    dynamics.reset([torch.Generator()])
    action = torch.as_tensor(gene_vector(clamp), dtype=torch.float32).expand(1, 1, 11)
    for _ in range(30):
        dynamics.step(action)
    assert bool(dynamics.info()["success"].all()) == arrives
    if not arrives:
        assert dynamics.fates(dynamics.final_latent)[0, 0] == "spurious"


@pytest.mark.parametrize("name", ["ToggleSwitch", "Myeloid"])
def test_bare_ids_and_checkers(name: str) -> None:
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make(f"twinlib/{name}-v0")
    check_env(env.unwrapped, skip_render_check=True)
    envs = gymnasium.make_vec(f"twinlib/{name}-v0", num_envs=3)
    envs.reset(seed=0)
    assert envs.step(envs.action_space.sample())[1].shape == (3,)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        ToggleConfig(target="nowhere")
    with pytest.raises(ValueError, match="strength"):
        ToggleConfig(controls="crispri", strength=1.2)
    with pytest.raises(ValueError, match="astrocyte"):
        MyeloidConfig(target="astrocyte")

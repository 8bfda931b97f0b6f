"""Cytokines and combinations: doses, differing responses, the closed-form optimum, what is refused."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from toy_world import toy_world

from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.greedy import best_dose
from twinlib.environment.packaged import packaged_world
from twinlib.environment.world import World
from twinlib.errors import WorldError


def cytokine_toy(dtype: torch.dtype = torch.float64) -> World:
    world = toy_world(m=300, dtype=dtype)
    shift = (world.embedding.encode(world.scale(world.y)) - world.z0).mean(0, keepdim=True).detach()
    return dataclasses.replace(
        world, action_names=("IFNB",), effects=shift, action_gene=torch.tensor([-1]), kicks=0 * world.kicks
    )


def earned(world: World, config: EnvironmentConfig, dose: float, n: int = 6000) -> float:
    dynamics = Dynamics(world, config, n_cells=n)
    cells = torch.arange(n) % len(world)
    dynamics.reset([torch.Generator().manual_seed(0)], cells=cells)
    action = torch.full((1, n, 1), dose, dtype=torch.float64)
    return float(sum(dynamics.step(action).reward for _ in range(15)).mean())


def test_a_full_dose_at_the_mean_response_moves_by_the_shift_times_two_thirds_times_two() -> None:
    world = cytokine_toy()
    dynamics = Dynamics(world, EnvironmentConfig().quiet(), n_cells=5)
    dynamics.reset([torch.Generator()], cells=torch.arange(5))
    for _ in range(14):
        dynamics.step(torch.ones(1, 5, 1))
    by_hand = world.z0[:5] + 14 / 15 * 2 * 4 / 6 * world.effects[0]
    assert torch.allclose(dynamics.latent[0], by_hand, atol=1e-12)


def test_cells_respond_differently_and_negative_doses_do_nothing() -> None:
    world = cytokine_toy()
    config = EnvironmentConfig(process_noise=0.0)
    dynamics = Dynamics(world, config, n_cells=4000)
    cells = torch.zeros(4000, dtype=torch.long)
    dynamics.reset([torch.Generator().manual_seed(1)], cells=cells)
    dynamics.step(torch.ones(1, 4000, 1))
    way = world.effects[0] * 2 / 15
    response = (dynamics.latent[0] - world.z0[0]) @ way / way.square().sum()
    assert float(response.mean()) == pytest.approx(4 / 6, abs=0.02) and float(response.std()) > 0.1
    before = dynamics.latent.clone()
    dynamics.step(-torch.ones(1, 4000, 1))
    assert torch.equal(before, dynamics.latent)


@pytest.mark.parametrize("vary", [True, False])
def test_the_closed_form_dose_beats_its_neighbours(vary: bool) -> None:
    world = cytokine_toy()
    # a decoder made linear: the closed form is exact there
    linear = _Linear(world.embedding.up.detach())
    noise = torch.randn(world.x.shape, generator=torch.Generator().manual_seed(4), dtype=world.x.dtype)
    y = world.x + world.std * (0.8 * linear.decode(world.effects) + 0.3 * noise)
    world = dataclasses.replace(world, embedding=linear, y=y)  # type: ignore[arg-type]
    config = EnvironmentConfig(process_noise=0.0, vary_response=vary, target="cell")
    best = best_dose(world, config)
    assert 0.1 < best < 0.95
    doses = np.linspace(max(best - 0.2, 0), best + 0.2, 41)
    values = [earned(world, config, float(dose)) for dose in doses]
    assert abs(float(doses[int(np.argmax(values))]) - best) <= 0.03


class _Linear:
    def __init__(self, up: torch.Tensor) -> None:
        self.up = up

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z @ self.up


def test_the_closed_form_wants_one_cytokine() -> None:
    with pytest.raises(ValueError, match="one cytokine"):
        best_dose(toy_world())


@pytest.mark.parametrize(("name", "actions"), [("Cytokine", 4), ("Combination", 135)])
def test_bare_ids_and_checkers(name: str, actions: int) -> None:
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make(f"twinlib/{name}-v0")
    assert env.action_space.shape == (actions,) and float(env.action_space.low[-1]) == 0.0
    check_env(env.unwrapped, skip_render_check=True)
    envs = gymnasium.make_vec(f"twinlib/{name}-v0", num_envs=3)
    envs.reset(seed=0)
    assert envs.step(envs.action_space.sample())[1].shape == (3,)
    checker = pytest.importorskip(
        "stable_baselines3.common.env_checker", reason="stable_baselines3 is missing"
    )
    checker.check_env(env.unwrapped, warn=False)


def test_a_cytokine_nobody_measured_is_refused() -> None:
    with pytest.raises(WorldError, match="IL-99"):
        gymnasium.make("twinlib/Cytokine-v0", targets=["IL-99"])
    with pytest.raises(WorldError, match="IL-99"):
        packaged_world("cytokine").label_index(["IL-99"])


def test_a_dose_towards_its_own_cells_earns_reward() -> None:
    world = packaged_world("cytokine")
    rows = torch.nonzero(world.label == world.labels.index("G-CSF"))[:, 0]
    config = EnvironmentConfig().quiet()
    returns = {}
    for name in ("G-CSF", "EPO"):
        dynamics = Dynamics(world, config, n_cells=len(rows))
        dynamics.reset([torch.Generator()], cells=rows)
        action = torch.zeros(1, len(rows), 4)
        action[..., world.action_names.index(name)] = 0.5
        returns[name] = float(sum(dynamics.step(action).reward for _ in range(15)).mean())
    assert returns["G-CSF"] > 0 and returns["G-CSF"] > returns["EPO"]


def test_genes_move_alike_with_and_without_doses_beside_them() -> None:
    both = packaged_world("combination")
    genes = both.only(
        [name for name, gene in zip(both.action_names, both.action_gene, strict=True) if gene >= 0]
    )
    assert both.action_scale(15) == pytest.approx(genes.action_scale(15))
    dynamics = Dynamics(both, EnvironmentConfig().quiet(), n_cells=3)
    dynamics.reset([torch.Generator()], cells=torch.arange(3))
    action = torch.zeros(1, 3, len(both.action_names))
    action[..., 5], action[..., -1] = 1.0, 0.5
    dynamics.step(action)
    moved = dynamics.latent[0] - both.z0[:3]
    by_hand = dynamics.action_scale * both.effects[5] + 2 / 15 * 0.5 * 4 / 6 * both.effects[-1]
    assert torch.allclose(moved, by_hand.expand(3, -1), atol=1e-5)


def test_the_best_dose_of_interferon_on_real_cells_is_the_closed_form(real_data, monkeypatch) -> None:
    from twinlib.data.preparation import standard
    from twinlib.embedding.train import pretrained
    from twinlib.environment.assembly import make_world

    monkeypatch.setenv("TWINLIB_DATA_DIR", str(real_data))
    world = make_world(standard("kang2018"), pretrained("kang2018"), n_pairs=1000)
    assert world.action_names == world.labels == ("IFN-beta",)
    assert not bool(world.kicks.any())
    env = gymnasium.make("twinlib/Cytokine-v0", world=world)
    assert env.action_space.shape == (1,) and float(env.action_space.low[0]) == 0.0
    config = EnvironmentConfig(process_noise=0.0)
    doses, values = np.linspace(0, 1, 11), []
    for dose in doses:
        dynamics = Dynamics(world, config, n_cells=len(world))
        dynamics.reset([torch.Generator().manual_seed(0)], cells=torch.arange(len(world)))
        action = torch.full((1, len(world), 1), float(dose))
        values.append(float(sum(dynamics.step(action).reward for _ in range(15)).mean()))
    assert values[0] == 0.0 < max(values)
    assert abs(doses[int(np.argmax(values))] - best_dose(world, config)) < 0.1

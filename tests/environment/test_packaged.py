"""The packaged world: bare gymnasium ids work offline, and world, checkpoint and data belong together."""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import re

import gymnasium
import numpy as np
import pytest
import torch
from toy_world import ToyEmbedding, toy_world

from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.gymnasium_api import TASK_NAMES, CellEnv, CellVectorEnv
from twinlib.environment.packaged import WORLDS, packaged_world
from twinlib.environment.tasks import TASKS
from twinlib.environment.world import World, load_world, save_world
from twinlib.errors import WorldError

IDS = [f"twinlib/{task}-v0" for task in TASK_NAMES]


@pytest.fixture(scope="module")
def world() -> World:
    return packaged_world()


def test_bare_make_and_make_vec_work() -> None:
    env = gymnasium.make("twinlib/GeneScreen-v0")
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    envs = gymnasium.make_vec("twinlib/GeneScreen-v0", num_envs=3)
    many, _ = envs.reset(seed=0)
    assert many.shape == (3, *obs.shape) and envs.unwrapped.num_envs == 3
    envs.step(envs.action_space.sample())


def test_every_task_has_an_id_and_its_cells() -> None:
    assert set(TASK_NAMES) == set(TASKS) and set(IDS) <= set(gymnasium.registry)


@pytest.mark.parametrize("name", IDS)
def test_single_and_vector_of_an_id_have_the_same_spaces(name: str) -> None:
    env, envs = gymnasium.make(name), gymnasium.make_vec(name, num_envs=2)
    assert isinstance(env.unwrapped, CellEnv) and isinstance(envs.unwrapped, CellVectorEnv)
    assert env.observation_space == envs.single_observation_space
    assert env.action_space == envs.single_action_space


def test_the_command_that_errors_name_can_be_run() -> None:
    with pytest.raises(WorldError) as refused:
        load_world("nothing.npz", ToyEmbedding())
    (module,) = re.findall(r"python -m ([\w.]+\w)", str(refused.value))
    source = importlib.util.find_spec(module).origin
    assert 'if __name__ == "__main__":' in pathlib.Path(source).read_text(encoding="utf-8")


def test_the_world_file_is_small_and_made_of_this_checkpoint(world: World) -> None:
    assert (WORLDS / "waddington.npz").stat().st_size < 2_000_000
    with torch.no_grad():
        assert torch.allclose(world.embedding.encode(world.scale(world.x[:50])), world.z0[:50], atol=1e-4)
    assert world.fingerprint == world.embedding.meta["fingerprint"]


def test_a_world_made_with_another_checkpoint_is_refused(tmp_path: pathlib.Path) -> None:
    save_world(toy_world(), tmp_path / "toy.npz")
    again = load_world(tmp_path / "toy.npz", toy_world().embedding)
    assert torch.equal(again.x, toy_world().x) and again.labels == ("g0", "g1")
    with pytest.raises(WorldError, match="another embedding checkpoint"):
        load_world(tmp_path / "toy.npz", ToyEmbedding(seed=3))
    with pytest.raises(WorldError, match=r"nothing\.npz"):
        load_world(tmp_path / "nothing.npz", ToyEmbedding())


def test_a_world_made_from_other_data_is_refused(tmp_path: pathlib.Path) -> None:
    world = dataclasses.replace(toy_world(), data_hash="one", fingerprint="one")
    save_world(world, tmp_path / "toy.npz")
    embedding = toy_world().embedding
    embedding.meta = {"data_hash": "one", "fingerprint": "one"}
    load_world(tmp_path / "toy.npz", embedding)
    embedding.meta = {"data_hash": "two", "fingerprint": "one"}
    with pytest.raises(WorldError, match="another preparation of the data"):
        load_world(tmp_path / "toy.npz", embedding)


def test_a_ppo_of_another_library_trains_in_it_unchanged() -> None:
    baselines = pytest.importorskip("stable_baselines3", reason="stable_baselines3 is not installed")
    env = gymnasium.make("twinlib/GeneScreen-v0", targets=["Gata1", "Pu1", "Cebpa"])
    agent = baselines.PPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu")
    before = [p.detach().clone() for p in agent.policy.parameters()]
    agent.learn(128)
    assert agent.num_timesteps == 128 and len(agent.ep_info_buffer) == 8
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.policy.parameters(), strict=True))


def test_doing_nothing_is_exactly_zero_on_simulated_cells(world: World) -> None:
    dynamics = Dynamics(world, EnvironmentConfig(process_noise=0.0, kick=False), replicas=2, n_cells=37)
    dynamics.reset([torch.Generator().manual_seed(i) for i in range(2)])
    rewards = [dynamics.step(torch.zeros(2, 37, dynamics.action_dim)).reward for _ in range(20)]
    assert float(torch.stack(rewards).abs().max()) == 0.0


def test_knock_downs_kick_the_latent_against_their_gene(world: World) -> None:
    row = world.genes.index("Gata1")
    assert torch.allclose(world.kicks[world.labels.index("Gata1")], -world.effects[row])
    both = world.kicks[world.labels.index("Gata1+Pu1")]
    assert torch.allclose(both, -world.effects[row] - world.effects[world.genes.index("Pu1")])


def test_effects_are_the_finite_difference_of_the_encoder(world: World) -> None:
    embedding = world.embedding.double()
    x = world.scale(torch.unique(world.x, dim=0)).double()[:64]
    near = [embedding.encode(x + sign * 1e-4 * torch.eye(len(world.genes))[3]) for sign in (1, -1)]
    slope = ((near[0] - near[1]) / 2e-4).mean(0).detach()
    embedding.float()
    cosine = torch.nn.functional.cosine_similarity(slope.float(), world.effects[3], dim=0)
    assert (
        float(cosine) > 0.9
    )  # other controls than E was averaged over: the same direction, not the same number


def test_a_constant_step_towards_the_match_earns_reward(world: World) -> None:
    config = EnvironmentConfig(process_noise=0.0, kick=False, target="cell")
    dynamics = Dynamics(world, config, n_cells=len(world))
    dynamics.reset([torch.Generator()], cells=torch.arange(len(world)))
    with torch.no_grad():
        goal = world.embedding.encode(world.scale(world.y)) - world.z0
    action = torch.linalg.lstsq(dynamics.action_scale * world.effects.T, goal.T / 15).solution.T
    total = sum(dynamics.step(action.unsqueeze(0)).reward for _ in range(15))
    assert float(total.mean()) > 1.0  # more than the best constant action: the match takes noise away, too


def test_the_checkers_pass_on_the_packaged_world() -> None:
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make("twinlib/GeneScreen-v0").unwrapped
    check_env(env, skip_render_check=True)
    checker = pytest.importorskip(
        "stable_baselines3.common.env_checker", reason="stable_baselines3 is missing"
    )
    checker.check_env(env)


def test_options_and_world_arguments_reach_the_environment(world: World) -> None:
    small = dataclasses.replace(world, action_names=world.action_names)
    env = gymnasium.make("twinlib/GeneScreen-v0", world=small, targets=["Gata1", "Pu1"])
    assert env.action_space.shape == (2,)
    obs, _ = env.reset(seed=0, options={"cell": 3})
    assert np.isfinite(obs).all()

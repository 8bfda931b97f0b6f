"""The adapter for Stable-Baselines3: its form, its seeds, and an agent that learns on it."""

from __future__ import annotations

import numpy as np
import pytest
from toy_world import toy_world

from twinlib.environment.dynamics import EnvironmentConfig

baselines = pytest.importorskip("stable_baselines3", reason="stable_baselines3 is missing")

from twinlib.environment.stable_baselines3 import stable_baselines3_vec_env  # noqa: E402

ID = "twinlib/GeneScreen-v0"
SETTINGS = {"world": toy_world(), "config": EnvironmentConfig(horizon=5)}


def test_ends_come_with_the_last_observation_and_the_episode_s_return() -> None:
    envs = stable_baselines3_vec_env(ID, 3, **SETTINGS)
    envs.seed(0)
    first = envs.reset()
    total = np.zeros(3)
    for _ in range(5):
        obs, reward, done, infos = envs.step(np.full((3, 6), 0.5, np.float32))
        total += reward
    assert done.all() and reward.dtype == np.float32 and obs.shape == first.shape
    for row, info in enumerate(infos):
        assert not np.array_equal(info["terminal_observation"], obs[row]) and not info["TimeLimit.truncated"]
        assert info["terminal_observation"][-1] > obs[row][-1]
        assert info["episode"]["r"] == pytest.approx(total[row], abs=1e-5)
    envs.seed(0)
    assert np.array_equal(envs.reset(), first)


def test_an_agent_learns_on_it() -> None:
    envs = stable_baselines3_vec_env(ID, 16, **SETTINGS)
    agent = baselines.PPO("MlpPolicy", envs, n_steps=40, batch_size=64, gamma=0.0, seed=0, device="cpu")
    agent.learn(640)
    before = np.mean([episode["r"] for episode in agent.ep_info_buffer])
    agent.learn(6_000)
    assert np.mean([episode["r"] for episode in agent.ep_info_buffer]) > before


def test_attributes_methods_and_pictures() -> None:
    envs = stable_baselines3_vec_env(ID, 2, render_mode="rgb_array", **SETTINGS)
    envs.reset()
    assert (
        envs.get_attr("num_envs") == [2, 2]
        and envs.env_is_wrapped(baselines.common.monitor.Monitor) == [False] * 2
    )
    assert envs.get_images()[1].shape == (400, 400, 3)
    envs.close()

"""Any gymnasium environment trains: replicas, ends and cuts, last observations, refusals."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from peers import PointMass

from twinlib.errors import InputError, OrderError
from twinlib.policy.contracts import Box, Discrete
from twinlib.policy.gymnasium_tasks import gymnasium_task
from twinlib.policy.training import TrainingConfig, train

SMALL = TrainingConfig(
    algorithm="PPO", timesteps=512, steps_per_iteration=128, hidden=(8, 8), dtype="float64"
)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def point_masses(count: int, mode: AutoresetMode = AutoresetMode.SAME_STEP) -> SyncVectorEnv:
    return SyncVectorEnv([PointMass] * count, autoreset_mode=mode)


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1", "FrozenLake-v1"])
def test_a_replica_equals_the_same_seed_alone(name):
    together = train(gymnasium_task(name, num_envs=4), SMALL, seeds=range(2))
    alone = train(gymnasium_task(name, num_envs=4), SMALL, seeds=[1])
    assert (together.policy.theta[1] - alone.policy.theta[0]).abs().max() < 1e-12
    assert (together.policy.theta[0] - together.policy.theta[1]).abs().max() > 1e-3
    assert together.history.episode_return.notna().any() == (name != "Pendulum-v1")


def test_spaces_become_numbers():
    pendulum, lake = gymnasium_task("Pendulum-v1"), gymnasium_task("FrozenLake-v1", num_envs=3)
    assert isinstance(pendulum.action, Box) and pendulum.action.high.tolist() == [2.0]
    assert pendulum.observation_dim == 3
    assert lake.action == Discrete(4) and lake.observation_dim == 16
    obs = lake.reset(generators(0, 1))
    assert obs.shape == (2, 3, 16) and torch.equal(obs.sum(-1), torch.ones(2, 3))


def by_hand(seeds: list[int], actions: np.ndarray) -> list[list[tuple]]:
    """Each environment alone: (next observation, reward, terminated, truncated, last observation)."""
    runs = []
    for k, seed in enumerate(seeds):
        env, rows = PointMass(), []
        env.reset(seed=seed)
        for action in actions[:, k]:
            last, reward, *ends, _ = env.step(action)
            rows.append((env.reset()[0] if any(ends) else last, reward, *ends, last))
        runs.append(rows)
    return runs


def made(kind: str):
    if kind == "AsyncVectorEnv":
        return AsyncVectorEnv([PointMass] * 6, autoreset_mode=AutoresetMode.SAME_STEP)
    return point_masses(6, AutoresetMode[kind])


@pytest.mark.parametrize("kind", ["SAME_STEP", "NEXT_STEP", "DISABLED", "AsyncVectorEnv"])
def test_steps_equal_those_of_single_environments(kind):
    """16 steps hold two cuts of every environment."""
    task, rng = gymnasium_task(made(kind)), np.random.default_rng(0)
    actions = rng.uniform(-1, 1, size=(16, 6, 4)).astype(np.float32)
    task.reset(generators(3, 4))
    seeds = [s for g in generators(3, 4) for s in torch.randint(2**31 - 1, (3,), generator=g).tolist()]
    runs = by_hand(seeds, actions)
    for t in range(16):
        step = task.step(torch.from_numpy(actions[t]).view(2, 3, 4))
        for column, got in enumerate(step):
            expected = np.array([runs[k][t][column] for k in range(6)])
            assert np.allclose(got.flatten(0, 1).numpy(), expected, atol=1e-6), (t, step._fields[column])
        assert bool(step.truncated.all()) == (t % 7 == 6) and not step.terminated.any()


def test_an_end_is_no_cut():
    task = gymnasium_task("CartPole-v1", num_envs=4)
    task.reset(generators(0))
    ends = [task.step(torch.ones(1, 4)) for _ in range(30)]
    assert any(step.terminated.any() for step in ends) and not any(step.truncated.any() for step in ends)
    done = next(step for step in ends if step.terminated.any())
    cell = done.terminated[0]
    assert done.final_obs[0, cell, 2].abs().min() > 0.2 and done.obs[0, cell, 2].abs().max() < 0.06


def test_actions_are_counted_from_the_first_of_a_discrete_space():
    class Counted(gymnasium.Env):
        observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(3, start=5)
        taken = []

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            assert self.action_space.contains(action)
            self.taken.append(int(action))
            return np.zeros(1, np.float32), 0.0, False, False, {}

    task = gymnasium_task(SyncVectorEnv([Counted] * 3, autoreset_mode=AutoresetMode.SAME_STEP))
    task.reset(generators(0))
    task.step(torch.tensor([[0, 1, 2]]))
    assert Counted.taken == [5, 6, 7]


def test_a_task_that_cannot_be_saved_is_refused_at_the_start(tmp_path):
    task = gymnasium_task("Pendulum-v1", num_envs=2)
    with pytest.raises(InputError, match="without checkpoint="):
        train(task, SMALL, seeds=[0], checkpoint=tmp_path / "run.pt")
    with pytest.raises(OrderError, match="without checkpoint="):
        task.state_dict()


def test_a_replaced_environment_is_closed_and_a_kept_one_is_not(monkeypatch):
    closed = []
    monkeypatch.setattr(SyncVectorEnv, "close", lambda env, **_: closed.append(env))
    task = gymnasium_task("Pendulum-v1", num_envs=2)
    before = task._env
    task.reset(generators(0, 1))
    assert closed == [before]
    own = gymnasium_task(point_masses(2))
    own.reset(generators(0)), own.reset(generators(0))
    assert closed == [before]


def test_what_cannot_be_a_task_is_refused():
    class Several(PointMass):
        action_space = spaces.MultiDiscrete([2, 3])

    with pytest.raises(InputError, match="Box or Discrete"):
        gymnasium_task(SyncVectorEnv([Several], autoreset_mode=AutoresetMode.SAME_STEP))
    with pytest.raises(InputError, match="multiple of the seeds"):
        gymnasium_task(point_masses(5)).reset(generators(0, 1))
    with pytest.raises(OrderError, match="before reset"):
        gymnasium_task(point_masses(2)).step(torch.zeros(1, 2, 4))
    # CartPole's own vector environment has one generator for all cells, and restarts one step late.
    with pytest.raises(InputError, match="SAME_STEP, or give its id"):
        gymnasium_task(gymnasium.make_vec("CartPole-v1", 4, "vector_entry_point"))


def test_a_vector_environment_with_one_generator_trains_one_seed():
    env = gymnasium.make_vec("twinlib/ToggleSwitch-v0", 4, "vector_entry_point")
    result = train(gymnasium_task(env), SMALL, seeds=[0])
    assert torch.isfinite(result.policy.theta).all() and result.history.episode_return.notna().any()
    with pytest.raises(InputError, match="train one seed"):
        gymnasium_task(env).reset(generators(0, 1))

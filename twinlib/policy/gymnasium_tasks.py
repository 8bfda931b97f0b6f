"""Any gymnasium environment as a task: an id, or a vector environment that was made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import iterate
from torch import Tensor

from twinlib.errors import InputError, OrderError
from twinlib.policy.contracts import Box, Discrete, Saved, Step, Task


def gymnasium_task(environment: str | VectorEnv, num_envs: int = 8) -> Task:
    """A task of R x `num_envs` environments of an id, or of a vector environment shared out among R replicas.

    R is the number of generators given to `reset`: `train(gymnasium_task("Pendulum-v1"), config, range(10))`.
    Observations are flattened; actions are a Box or Discrete.
    """
    if not isinstance(environment, str):
        return GymnasiumTask(lambda _: environment)
    same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
    return GymnasiumTask(
        lambda replicas: gymnasium.make_vec(environment, replicas * num_envs, "sync", same_step)
    )


class GymnasiumTask:
    """R x N environments in one vector environment, which `make(R)` gives."""

    device = torch.device("cpu")
    #: gymnasium has no way to save an environment in mid-episode
    resumable = False

    def __init__(self, make: Callable[[int], VectorEnv]) -> None:
        self._make, self._env = make, make(1)
        self._shape: tuple[int, ...] = ()
        self._masked = _resets_by_mask(self._env)
        self.action = _action(self._env.single_action_space)
        self.observation_dim = spaces.flatdim(self._env.single_observation_space)

    def reset(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Seed every environment from the generator of its replica and start it; observations [R, N, O]."""
        replicas = len(generators)
        before, self._env = self._env, self._make(replicas)
        if before is not self._env:
            before.close()
        n, rest = divmod(self._env.num_envs, replicas)
        if rest:
            raise InputError(
                f"{self._env.num_envs} environments cannot be shared by {replicas} seeds: "
                "give a multiple of the seeds, or the environment's id."
            )
        self._shape = (replicas, n)
        seeds = [s for g in generators for s in torch.randint(2**31 - 1, (n,), generator=g).tolist()]
        if not _one_by_one(self._env) and replicas > 1:
            raise InputError(
                f"{self._env} has one seed for all its cells: train one seed in it, or give its id."
            )
        # Single environments take a list of seeds, which the type of VectorEnv.reset does not say.
        start: Callable[..., tuple[np.ndarray, object]] = self._env.reset
        return self._observed(start(seed=seeds if _one_by_one(self._env) else seeds[0])[0])

    def step(self, action: Tensor) -> Step:
        """Act in every environment; one that has finished starts anew."""
        if not self._shape:
            raise OrderError("step was called before reset: call reset(generators) first.")
        obs, reward, terminated, truncated, info = self._env.step(self._sent(action))
        final, done = self._observed(obs), terminated | truncated
        ends = [torch.from_numpy(x).view(self._shape) for x in (terminated, truncated)]
        if done.any() and self._masked:
            obs, _ = self._env.reset(options={"reset_mask": done})
        elif done.any():
            final = self._with_final(final, info["final_obs"], done)
        rewards = torch.from_numpy(reward.astype(np.float32)).view(self._shape)
        return Step(self._observed(obs), rewards, ends[0], ends[1], final)

    def _sent(self, action: Tensor) -> np.ndarray:
        """Actions [R N, ...] as the environment wants them."""
        space = self._env.single_action_space
        sent = action.flatten(0, 1).numpy().astype(space.dtype)
        if isinstance(space, spaces.Discrete):
            return sent + space.start
        assert space.shape is not None  # a Box has one
        return sent.reshape(len(sent), *space.shape)

    def _observed(self, obs: np.ndarray) -> Tensor:
        """Observations [R, N, O] of a batch."""
        if not isinstance(self._env.single_observation_space, spaces.Box):
            obs = np.stack([self._flat(one) for one in iterate(self._env.observation_space, obs)])
        return torch.from_numpy(obs.astype(np.float32)).view(*self._shape, -1)

    def _flat(self, obs: np.ndarray) -> np.ndarray:
        """One environment's observation as numbers [O]; of a Discrete space, which of them it is."""
        return np.asarray(spaces.flatten(self._env.single_observation_space, obs), dtype=np.float32)

    def _with_final(self, obs: Tensor, final_obs: np.ndarray, done: np.ndarray) -> Tensor:
        """Observations with those of finished episodes [R, N, O] put in."""
        rows = obs.flatten(0, 1).clone()
        for k in np.flatnonzero(done):
            rows[k] = torch.from_numpy(self._flat(final_obs[k]))
        return rows.view(obs.shape)

    def state_dict(self) -> Saved:
        """Refused; `resumable` says so beforehand."""
        raise OrderError("A gymnasium environment cannot be saved in mid-episode: train without checkpoint=.")

    def load_state_dict(self, state: Saved) -> None:
        """Refused like `state_dict`."""
        raise OrderError("A gymnasium environment cannot be put back in mid-episode: start it with reset.")


def _action(space: gymnasium.Space) -> Box | Discrete:
    """The space of one action, flattened."""
    if isinstance(space, spaces.Box):
        low, high = (torch.from_numpy(x.reshape(-1).astype(np.float32)) for x in (space.low, space.high))
        return Box(low, high)
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    raise InputError(f"An action is {space} here: wrap the environment so that it is a Box or Discrete.")


def _one_by_one(env: VectorEnv) -> bool:
    """Are there single environments inside, each with a seed and a reset of its own?"""
    return isinstance(env.unwrapped, SyncVectorEnv | AsyncVectorEnv)


def _resets_by_mask(env: VectorEnv) -> bool:
    """Has the task to reset finished environments itself?

    With SAME_STEP the environment has done it, and gives the last observation in `info`. With NEXT_STEP and
    DISABLED a finished one is reset at once, so that no step is lost on its restart.
    """
    if env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP:
        return False
    if not _one_by_one(env):
        raise InputError(
            f"{env} restarts a finished episode one step late and cannot be reset in part: "
            "make it with AutoresetMode.SAME_STEP, or give its id."
        )
    return True

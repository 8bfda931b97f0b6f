"""The cells as a vector environment of Stable-Baselines3; this file alone imports that library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn


class CellVecEnv(VecEnv):
    """N cells of a gymnasium vector environment with SAME_STEP restarts, in the form of Stable-Baselines3.

    All cells are one object: an attribute or method is that of the whole, repeated.
    """

    def __init__(self, envs: VectorEnv) -> None:
        self.envs = envs
        self.render_mode = envs.render_mode
        self._actions = np.zeros(0)
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> np.ndarray:
        """Start N new cells `[N, O]`, with the seed given to `seed` where there is one."""
        obs, _ = self.envs.reset(seed=self._seeds[0])
        self._reset_seeds()
        return np.asarray(obs)

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions `[N, A]` of the next step."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Observations, rewards, ends, and infos with `terminal_observation` where an episode ended."""
        obs, reward, terminated, truncated, told = self.envs.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in np.flatnonzero(terminated | truncated):
            cut = bool(truncated[row] and not terminated[row])
            infos[row] = {"terminal_observation": told["final_obs"][row], "TimeLimit.truncated": cut}
        return np.asarray(obs), reward.astype(np.float32), terminated | truncated, infos

    def close(self) -> None:
        """Close the vector environment."""
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One picture a cell."""
        frames = self.envs.render()
        return [None] * self.num_envs if frames is None else [np.asarray(frame) for frame in frames]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The vector environment's attribute, once a cell."""
        return [getattr(self.envs, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set the vector environment's attribute."""
        setattr(self.envs, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call the vector environment's method once and repeat what it returns, once a cell."""
        answer = getattr(self.envs, method_name)(*method_args, **method_kwargs)
        return [answer for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """No single cell is wrapped."""
        return [False for _ in self._get_indices(indices)]


def stable_baselines3_vec_env(id: str, num_envs: int = 1, **settings: Any) -> VecMonitor:
    """N cells of an id, such as `twinlib/GeneScreen-v0`, for an agent of Stable-Baselines3.

    `settings` are those of `gymnasium.make_vec`: `world=`, `config=`, `targets=`.
    """
    return VecMonitor(CellVecEnv(gymnasium.make_vec(id, num_envs, **settings)))

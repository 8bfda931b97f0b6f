"""Gymnasium's single and vector interface over the batched environments, and their ids; light to import."""

from __future__ import annotations

import inspect
import multiprocessing
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from twinlib.checks import finite_arrays, require_type
from twinlib.errors import InputError, OrderError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from twinlib.environment.batched import BatchedDynamics
    from twinlib.policy.contracts import Step

#: Task behind each id `twinlib/TASK-v0`; `twinlib.environment.tasks` makes its cells.
TASK_NAMES = ("GeneScreen", "Cytokine", "Combination", "ToggleSwitch", "Myeloid")


def register_environments() -> None:
    """Give gymnasium the ids `twinlib/...`; `import twinlib` calls it."""
    for task in TASK_NAMES:
        gymnasium.register(
            f"twinlib/{task}-v0",
            entry_point=f"{__name__}:CellEnv",
            vector_entry_point=f"{__name__}:CellVectorEnv",
            kwargs={"task": task},
        )


class _Frame:
    """What both interfaces share: the dynamics with R = 1, the spaces, the generator and the paths so far."""

    def __init__(self, task: str, n_cells: int, render_mode: str | None, settings: dict[str, object]) -> None:
        from twinlib.environment.tasks import TASKS

        if render_mode not in (None, "rgb_array"):
            raise InputError(f"render_mode={render_mode!r} is unknown: choose 'rgb_array' or None.")
        if task not in TASKS:
            raise InputError(f"there is no task {task!r}: choose from {', '.join(TASKS)}.")
        known = set(inspect.signature(TASKS[task]).parameters) - {"n_cells", "replicas"}
        if settings.keys() - known:
            raise InputError(
                f"{task} knows no setting {sorted(settings.keys() - known)}: choose from {sorted(known)}."
            )
        _take_one_thread_in_a_worker()
        self.dynamics: BatchedDynamics = TASKS[task](n_cells=n_cells, **settings)
        self.observation = spaces.Box(-np.inf, np.inf, (self.dynamics.observation_dim,), np.float32)
        low = np.broadcast_to(_array(self.dynamics.action_low), (self.dynamics.action_dim,))
        self.action = spaces.Box(low, np.ones_like(low), dtype=np.float32)
        self.generator: torch.Generator | None = None
        self.paths: list[Tensor] = []
        self.ended = False

    def reset(self, rng: np.random.Generator, reseed: bool, options: dict[str, object] | None) -> np.ndarray:
        """Start anew `[N, O]`; a seed gives a new generator, else the old one goes on."""
        import torch

        if options is not None:
            require_type("options", options, dict)
        if self.generator is None or reseed:
            self.generator = torch.Generator(self.dynamics.device)
            self.generator.manual_seed(int(rng.integers(2**62)))
        obs = self.dynamics.reset_to(options or {}, [self.generator])[0]
        self.paths, self.ended = [self.dynamics.latent[0]], False
        return _array(obs)

    def step(self, action: np.ndarray) -> Step:
        """One step of all N cells with checked actions `[N, A]`."""
        import torch

        self.require_reset("step")
        inside = np.clip(action, self.action.low, self.action.high)  # a number float32 cannot hold, too
        tensor = torch.as_tensor(inside, dtype=self.dynamics.dtype, device=self.dynamics.device)
        start = [self.dynamics.latent[0]] if self.ended else self.paths
        step = self.dynamics.step(tensor.unsqueeze(0))
        self.paths = [*start, self.dynamics.final_latent[0]]
        self.ended = bool((step.terminated | step.truncated).all())
        return step

    def require_reset(self, call: str) -> None:
        """Refuse a call before the first reset."""
        if not self.paths:
            raise OrderError(f"{call} was called before reset: call reset() first.")

    def frames(self) -> tuple[np.ndarray, ...]:
        """One picture a cell of its path since the reset, `[400, 400, 3]` uint8 each."""
        import torch

        self.require_reset("render")
        return tuple(self.dynamics.picture(path) for path in torch.stack(self.paths, dim=1))


def _take_one_thread_in_a_worker() -> None:
    """Let torch compute on one thread in a process of `multiprocessing`: an asynchronous environment's.

    Its siblings have the other cores; and after a fork torch would wait for ever for its parent's threads.
    """
    if multiprocessing.parent_process() is not None:
        import torch

        torch.set_num_threads(1)


class CellEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One cell of a task; `step` returns the observation that the episode reached.

    Screens take `world=` (a packaged one by default), `config=` and `targets=` (names of the actions that are
    left); their `reset(options={"cell": 5})` or `reset(options={"x": x_log1p, "label": "JAK2"})` start at a
    given cell. The tasks with a known answer take `config=`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 5}  # type: ignore[misc]

    def __init__(self, task: str, render_mode: str | None = None, **settings: object) -> None:
        self._frame = _Frame(task, 1, render_mode, settings)
        self._end: tuple[np.ndarray, float, bool, bool, dict[str, object]] | None = None
        self._warned = False
        self.observation_space, self.action_space = self._frame.observation, self._frame.action
        self.render_mode = render_mode

    @property
    def dynamics(self) -> BatchedDynamics:
        """The batched dynamics that does the work, with R = N = 1."""
        return self._frame.dynamics

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[np.ndarray, dict[str, object]]:
        """Start a new cell; the dynamics' `reset_to` says which options there are."""
        super().reset(seed=seed)
        obs = self._frame.reset(self.np_random, seed is not None, options)[0]
        self._end, self._warned = None, False
        return obs, self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        """Act `[A]` and return observation `[O]`, reward, terminated, truncated, info.

        After the end of an episode the cell stays where it ended, unrewarded, and a warning asks for `reset`.
        """
        (checked,) = finite_arrays(action=(action, f"A={self._frame.dynamics.action_dim}"))
        if self._end is not None:
            self._warn_of_the_end()
            return self._end
        step = self._frame.step(checked[None])
        flags = bool(step.terminated[0, 0]), bool(step.truncated[0, 0])
        obs, info = _array(step.final_obs[0, 0]), self._info()
        if any(flags):
            self._end = (obs, 0.0, *flags, info)
        return obs, float(step.reward[0, 0]), *flags, info

    def _warn_of_the_end(self) -> None:
        if not self._warned:
            gymnasium.logger.warn("step was called after the episode's end: nothing moves until reset().")
        self._warned = True

    def _info(self) -> dict[str, object]:
        return {name: value[0, 0].item() for name, value in self._frame.dynamics.info().items()}

    def render(self) -> np.ndarray | None:
        """The cell's path so far as pixels `[400, 400, 3]`, if made with `render_mode="rgb_array"`."""
        return self._frame.frames()[0] if self.render_mode == "rgb_array" else None


class CellVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N cells of a task at once, with the same settings; finished cells are replaced in the same step."""

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"],
        "render_fps": 5,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self, task: str, num_envs: int = 1, render_mode: str | None = None, **settings: object
    ) -> None:
        self._frame = _Frame(task, num_envs, render_mode, settings)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single_observation_space, self.single_action_space = self._frame.observation, self._frame.action
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def dynamics(self) -> BatchedDynamics:
        """The batched dynamics that does the work, with R = 1."""
        return self._frame.dynamics

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[np.ndarray, dict[str, object]]:
        """Start N new cells `[N, O]`."""
        super().reset(seed=seed)
        obs = self._frame.reset(self.np_random, seed is not None, options)
        return obs, _with_masks(self._frame.dynamics.info(), np.ones(self.num_envs, dtype=bool))

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, object]]:
        """Act on N cells `[N, A]`; `final_obs` and `final_info` hold what finished cells ended with."""
        axes = f"N={self.num_envs} A={self._frame.dynamics.action_dim}"
        (checked,) = finite_arrays(actions=(actions, axes))
        step = self._frame.step(checked)
        terminated, truncated = step.terminated[0].cpu().numpy(), step.truncated[0].cpu().numpy()
        info = self._info(_array(step.final_obs[0]), terminated | truncated)
        reward = step.reward[0].cpu().numpy().astype(np.float64)
        return _array(step.obs[0]), reward, terminated, truncated, info

    def _info(self, reached: np.ndarray, ended: np.ndarray) -> dict[str, object]:
        """gymnasium's SAME_STEP form: `final_obs` an object array, None where a cell `[N]` goes on."""
        dynamics = self._frame.dynamics
        info = _with_masks(dynamics.next_info(), np.ones(self.num_envs, dtype=bool))
        if not ended.any():
            return info
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended):
            final_obs[row] = reached[row]
        final = {"final_obs": final_obs, "final_info": _with_masks(dynamics.info(), ended)}
        return info | final | {"_final_obs": ended, "_final_info": ended.copy()}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One picture a cell, if made with `render_mode="rgb_array"`."""
        return self._frame.frames() if self.render_mode == "rgb_array" else None


def _with_masks(values: dict[str, Tensor], told: np.ndarray) -> dict[str, object]:
    """Values `[1, N]` as gymnasium batches infos: 0 where they are not told `[N]`, and a mask beside each."""
    info: dict[str, object] = {}
    for name, value in values.items():
        column = value[0].cpu().numpy()
        info[name] = np.where(
            told, column.astype(np.float64 if column.dtype.kind == "f" else column.dtype), 0
        )
        info[f"_{name}"] = told.copy()
    return info


def _array(value: Tensor | float) -> np.ndarray:
    """A float32 array of a tensor or number."""
    import torch

    return torch.as_tensor(value).detach().cpu().numpy().astype(np.float32)

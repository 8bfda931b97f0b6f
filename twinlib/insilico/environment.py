"""The gene screen as an environment: latent cells, gene adjustments, the error to an unseen profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from twinlib.insilico.dynamics import BatchedDynamics, Outcome, State, Step
from twinlib.insilico.world import (
    Start,
    World,
    WorldError,
    load_world,
    make_world,
    packaged_world,
    save_world,
)

__all__ = [
    "Dynamics",
    "EnvironmentConfig",
    "GeneScreenEnv",
    "GeneScreenVectorEnv",
    "Start",
    "Step",
    "World",
    "WorldError",
    "load_world",
    "make_world",
    "packaged_world",
    "save_world",
]

_CHOICES = {
    "mode": ("linear", "exact"),
    "drift": ("none", "density"),
    "configuration": ("described", "released"),
}


@dataclass(frozen=True)
class EnvironmentConfig:
    """Settings of the described environment; every wrong value is refused in one sentence."""

    #: H, steps of an episode; its end is a termination, because the observation carries t / H.
    horizon: int = 15
    #: s, latent length of one unit of action; None takes `World.action_scale`.
    action_scale: float | None = None
    #: Standard deviation of the noise added to every latent axis at every step, as a share of the axis-wise
    #: match distance per step; 0 switches it off.
    process_noise: float = 0.1
    #: Whether the perturbed gene is kicked at reset.
    kick: bool = True
    #: Whole numbers (a, b): the kick's efficacy is Beta(a, b), drawn for each episode.
    efficacy: tuple[int, int] = (4, 2)
    #: Training s.d. by which the perturbed gene moves at efficacy 1.
    kick_size: float = 1.0
    #: Cost of the mean absolute action.
    l1: float = 1e-4
    #: Cost of the mean squared action.
    l2: float = 1e-4
    #: "linear" adds s a E in the latent space; "exact" adds s a to the decoded cell and encodes it again.
    mode: str = "linear"
    #: "none", or "density": the latent cell also slides towards where training cells are dense.
    drift: str = "none"
    #: gamma, step length of the density drift.
    drift_rate: float = 0.02
    #: "described" as in the paper's text, "released" as in its public code.
    configuration: str = "described"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is unknown: choose from {', '.join(allowed)}."
                )
        if self.horizon < 1:
            raise ValueError(f"horizon={self.horizon} must be at least 1.")
        for name in ("process_noise", "l1", "l2", "kick_size", "drift_rate"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name}={getattr(self, name)} must not be negative: set it to 0 to switch it off."
                )
        if min(self.efficacy) < 1 or any(int(v) != v for v in self.efficacy):
            raise ValueError(f"efficacy={self.efficacy} must be two whole numbers of at least 1.")

    def quiet(self) -> EnvironmentConfig:
        """The same settings with process noise and kick off: the setting in which predictions are made."""
        return replace(self, process_noise=0.0, kick=False)


class Dynamics(BatchedDynamics):
    """The described environment: z' = z + s a E + noise, rewarded by the fall of the squared error.

    Shapes: observations `[R, N, O]` = [z (D), condition (C), t / H]; actions `[R, N, A]` in [-1, 1];
    rewards `[R, N]` in squared z-scores averaged over the G genes. y_hat_t = x + decode(z_t) - decode(z_0).
    """

    def __init__(
        self, world: World, config: EnvironmentConfig | None = None, replicas: int = 1, n_cells: int = 64
    ) -> None:
        config = config or EnvironmentConfig()
        super().__init__(replicas, n_cells, world.z0.dtype, world.z0.device)
        if config.configuration != "described":
            raise ValueError(
                "this is the described environment: use make_dynamics for configuration='released'."
            )
        if config.drift == "density" and world.density is None:
            raise WorldError('drift="density" needs a world made with make_world(..., density=True).')
        self.world, self.config = world, config
        self.horizon = config.horizon
        self.action_dim = len(world.action_names)
        self.observation_dim = world.latent_dim + int(world.conditions.shape[1]) + 1
        self.distance = world.match_distance()
        self.action_scale = (
            world.action_scale(self.horizon) if config.action_scale is None else config.action_scale
        )
        self.noise = config.process_noise * self.distance / (self.horizon * world.latent_dim**0.5)
        self._scaled_effects = self.action_scale * world.effects
        self._given: Start | None = None

    def reset(
        self,
        generators: Sequence[torch.Generator],
        cells: Tensor | None = None,
        start: Start | None = None,
    ) -> Tensor:
        """Start at random cells, at given cells (`[R, N]` or `[N]` indices), or given starts `[R, N, ...]`.

        Given cells hold for this episode; the auto-reset after it draws at random again.
        """
        if cells is not None:
            start = self.world.starts(cells.to(self.device).expand(self.replicas, self.n_cells))
        self._given = start
        return super().reset(generators)

    def _fresh(self) -> State:
        start, self._given = self._given, None
        if start is None:
            start = self.world.starts(self._integers(len(self.world)))
        origin = self._decode(start.z)
        z = start.z + self._kick(start) if self.config.kick else start.z
        state = {
            "z": z,
            "x": start.x,
            "y": start.y,
            "z0": start.z,
            "origin": origin,
            "condition": start.condition,
        }
        state["error"] = self._error(state, self._decode(z) if self.config.kick else origin)
        state["t"] = torch.zeros(self.replicas, self.n_cells, dtype=self.dtype, device=self.device)
        return state

    def _kick(self, start: Start) -> Tensor:
        """Latent effect `[R, N, D]` of the perturbed gene at a random efficacy."""
        return self.config.kick_size * self._beta(*self.config.efficacy).unsqueeze(-1) * start.kick

    @torch.no_grad()
    def _advance(self, state: State, action: Tensor) -> Outcome:
        z = self._move(state, action)
        error = self._error(state, self._decode(z))
        cost = self.config.l1 * action.abs().mean(-1) + self.config.l2 * action.square().mean(-1)
        after = {**state, "z": z, "error": error, "t": state["t"] + 1}
        ended = after["t"] >= self.horizon
        return Outcome(after, state["error"] - error - cost, ended, torch.zeros_like(ended))

    def _move(self, state: State, action: Tensor) -> Tensor:
        """The next latent cell `[R, N, D]`."""
        z = state["z"]
        if self.config.mode == "exact":
            z = self._exact(state, action)
        else:
            z = z + action @ self._scaled_effects
        if self.config.drift == "density" and self.world.density is not None:
            z = z - self.config.drift_rate * self.world.density.gradient(state["z"])
        return z + self.noise * self._normal(self.world.latent_dim) if self.noise > 0 else z

    def _exact(self, state: State, action: Tensor) -> Tensor:
        """Adjust the predicted cell's genes and encode it again; cytokines, no genes, act in the latent."""
        genes = self.world.action_gene >= 0
        cell = state["x"] + self._decode(state["z"]) - state["origin"]
        shift = torch.zeros_like(cell)
        shift[..., self.world.action_gene[genes]] = self.action_scale * action[..., genes]
        return self._encode(cell + shift) + action[..., ~genes] @ self._scaled_effects[~genes]

    def _error(self, state: State, decoded: Tensor) -> Tensor:
        """Mean squared error `[R, N]` of y_hat = x + decode(z) - decode(z_0) against the matched profile."""
        return (state["x"] + (decoded - state["origin"]) - state["y"]).square().mean(-1)

    @torch.no_grad()
    def _decode(self, z: Tensor) -> Tensor:
        return self.world.embedding.decode(z)

    @torch.no_grad()
    def _encode(self, x: Tensor) -> Tensor:
        return self.world.embedding.encode(x)

    def _observe(self, state: State) -> Tensor:
        time = (state["t"] / self.horizon).unsqueeze(-1)
        return torch.cat([state["z"], state["condition"], time], dim=-1)

    @torch.no_grad()
    def path(self, choose: Callable[[Tensor], Tensor], start: Start) -> Tensor:
        """Latent path `[R, N, H+1, D]` from given starts `[R, N, ...]` when `choose(obs)` gives the actions.

        No profile is decoded on the way (in linear mode), and no random number is drawn when noise is off.
        """
        zero = torch.zeros(start.z.shape[:-1], dtype=self.dtype, device=self.device)
        state = {"z": start.z, "x": start.x, "z0": start.z, "condition": start.condition, "t": zero}
        if self.config.mode == "exact":
            state["origin"] = self._decode(start.z)
        path = [start.z]
        for _ in range(self.horizon):
            z = self._move(state, choose(self._observe(state)).clamp(-1.0, 1.0))
            state = {**state, "z": z, "t": state["t"] + 1}
            path.append(z)
        return torch.stack(path, dim=-2)

    # -- for pages and wrappers --------------------------------------------------------------------------
    @property
    def latent(self) -> Tensor:
        """The latent cells `[R, N, D]`."""
        return self._state["z"]

    @property
    def error(self) -> Tensor:
        """Mean squared error of the current prediction `[R, N]`, in squared z-scores."""
        return self._state["error"]


class _Frame:
    """What the single and the vector environment share: the dynamics, the spaces and the seed."""

    def __init__(self, world: World | None, config: EnvironmentConfig | None, n_cells: int) -> None:
        self.dynamics = Dynamics(world or packaged_world(), config, replicas=1, n_cells=n_cells)
        self.observation = spaces.Box(-np.inf, np.inf, (self.dynamics.observation_dim,), np.float32)
        self.action = spaces.Box(-1.0, 1.0, (self.dynamics.action_dim,), np.float32)
        self.generator: torch.Generator | None = None
        self.paths: list[Tensor] = []
        self.ended = False

    def reset(self, rng: np.random.Generator, reseed: bool, options: dict[str, Any] | None) -> np.ndarray:
        """Start anew `[N, O]`; `options` may hold `cell` (indices), or `x` with `label` (and `y`)."""
        if self.generator is None or reseed:
            self.generator = torch.Generator(self.dynamics.device)
            self.generator.manual_seed(int(rng.integers(2**62)))
        cells, start = _wanted(self.dynamics, options or {})
        obs = self.dynamics.reset([self.generator], cells=cells, start=start)[0]
        self.paths, self.ended = [obs[:, : self.dynamics.world.latent_dim]], False
        return _numpy(obs)

    def step(self, action: np.ndarray) -> Step:
        """One step of all N cells."""
        tensor = torch.as_tensor(np.asarray(action), dtype=self.dynamics.dtype, device=self.dynamics.device)
        start = [self.dynamics.latent[0]] if self.ended else self.paths
        step = self.dynamics.step(tensor.reshape(1, self.dynamics.n_cells, -1))
        self.paths = [*start, step.final_obs[0, :, : self.dynamics.world.latent_dim]]
        self.ended = bool((step.terminated | step.truncated).all())
        return step

    def frames(self) -> tuple[np.ndarray, ...]:
        """One picture a cell of its path since the reset, `[400, 400, 3]` uint8 each."""
        from twinlib.insilico.rendering import frame, main_axes

        paths = torch.stack(self.paths, dim=1)
        axes = main_axes(self.dynamics.world)
        return tuple(frame(self.dynamics.world, path, axes) for path in paths)


def _wanted(dynamics: Dynamics, options: dict[str, Any]) -> tuple[Tensor | None, Start | None]:
    """Given cells or starts from the options of `reset`."""
    unknown = set(options) - {"cell", "x", "label", "y"}
    if unknown:
        raise ValueError(
            f"reset knows no option {sorted(unknown)}: use 'cell', or 'x' with 'label' (and 'y')."
        )
    if "cell" in options:
        cells = torch.as_tensor(options["cell"], dtype=torch.long).reshape(-1)
        if bool((cells < 0).any()) or bool((cells >= len(dynamics.world)).any()):
            raise ValueError(f"option 'cell' must lie in 0..{len(dynamics.world) - 1}.")
        return cells.expand(dynamics.n_cells), None
    if "x" not in options:
        return None, None
    labels = [options["label"]] if isinstance(options.get("label"), str) else list(options.get("label", []))
    x = torch.as_tensor(np.atleast_2d(options["x"]))
    y = torch.as_tensor(np.atleast_2d(options["y"])) if "y" in options else None
    if len(x) != dynamics.n_cells or len(labels) != dynamics.n_cells:
        raise ValueError(f"options 'x' and 'label' must each name {dynamics.n_cells} cells.")
    start = dynamics.world.starts_from(x, labels, y)
    return None, Start(*(value.unsqueeze(0) for value in vars(start).values()))


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float32)


class GeneScreenEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One cell of the described environment behind gymnasium's interface.

    Observation `[O]` = [z, condition, t / H]; action `[A]` in [-1, 1]; `reset(options={"cell": 5})` or
    `reset(options={"x": x_log1p, "label": "JAK2"})` start at a given cell.
    Without `world` the packaged one is used.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 5}  # type: ignore[misc]

    def __init__(
        self,
        world: World | None = None,
        config: EnvironmentConfig | None = None,
        targets: Sequence[str] | None = None,
        render_mode: str | None = None,
    ) -> None:
        world = world or packaged_world()
        self._frame = _Frame(world if targets is None else world.only(targets), config, n_cells=1)
        self.observation_space, self.action_space = self._frame.observation, self._frame.action
        self.render_mode = render_mode

    @property
    def dynamics(self) -> Dynamics:
        """The batched dynamics that does the work, with R = N = 1."""
        return self._frame.dynamics

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new cell."""
        super().reset(seed=seed)
        obs = self._frame.reset(self.np_random, seed is not None, options)[0]
        return obs, {"error": float(self.dynamics.error[0, 0])}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Adjust genes and return observation, reward, terminated, truncated, info."""
        step = self._frame.step(action)
        info = {"error": float(self.dynamics.error[0, 0])}
        flags = bool(step.terminated[0, 0]), bool(step.truncated[0, 0])
        return _numpy(step.final_obs[0, 0]), float(step.reward[0, 0]), *flags, info

    def render(self) -> np.ndarray | None:
        """The cell's path so far as pixels `[400, 400, 3]`, if made with `render_mode="rgb_array"`."""
        return self._frame.frames()[0] if self.render_mode == "rgb_array" else None


class GeneScreenVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N cells of the described environment at once; finished cells are replaced in the same step."""

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"],
        "render_fps": 5,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        world: World | None = None,
        config: EnvironmentConfig | None = None,
        targets: Sequence[str] | None = None,
        render_mode: str | None = None,
    ) -> None:
        world = world or packaged_world()
        self._frame = _Frame(world if targets is None else world.only(targets), config, n_cells=num_envs)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single_observation_space, self.single_action_space = self._frame.observation, self._frame.action
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property
    def dynamics(self) -> Dynamics:
        """The batched dynamics that does the work, with R = 1."""
        return self._frame.dynamics

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start N new cells `[N, O]`."""
        super().reset(seed=seed)
        return self._frame.reset(self.np_random, seed is not None, options), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Adjust genes of N cells `[N, A]`; `info["final_obs"]` holds what finished cells ended with."""
        step = self._frame.step(actions)
        ended = (step.terminated | step.truncated)[0].cpu().numpy()
        info = {"final_obs": _numpy(step.final_obs[0]), "_final_obs": ended} if ended.any() else {}
        reward = step.reward[0].cpu().numpy().astype(np.float64)
        return (
            _numpy(step.obs[0]),
            reward,
            step.terminated[0].cpu().numpy(),
            step.truncated[0].cpu().numpy(),
            info,
        )

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One picture a cell, if made with `render_mode="rgb_array"`."""
        return self._frame.frames() if self.render_mode == "rgb_array" else None


def build_packaged_world(name: str = "waddington", n_pairs: int = 1000, seed: int = 0) -> World:
    """Make the packaged world file again from the simulator and the packaged checkpoint."""
    from twinlib.data import standard
    from twinlib.embedding import pretrained
    from twinlib.insilico.world import WORLDS, thinned

    full = make_world(standard("waddington"), pretrained("waddington"), density=True)
    world = thinned(full, n_pairs, seed)
    save_world(world, WORLDS / f"{name}.npz")
    return world


if __name__ == "__main__":
    built = build_packaged_world()
    print(f"wrote {len(built)} matched cells, {len(built.labels)} labels, {len(built.genes)} genes.")

"""The gene screen as an environment: latent cells, gene adjustments, the error to an unseen profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.released_world import ReleasedDynamics, ReleasedWorld
from twinlib.environment.batched import BatchedDynamics, Outcome, State
from twinlib.environment.gymnasium_api import CellEnv, CellVectorEnv
from twinlib.environment.world import Start, World, load_world, make_world, packaged_world, save_world
from twinlib.errors import WorldError

__all__ = [
    "CombinationEnv",
    "CombinationVectorEnv",
    "CytokineEnv",
    "CytokineVectorEnv",
    "Dynamics",
    "EnvironmentConfig",
    "GeneScreenEnv",
    "GeneScreenVectorEnv",
    "Start",
    "World",
    "WorldError",
    "load_world",
    "make_dynamics",
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
    #: What a dose of 1 adds at each step, in mean latent shifts of that cytokine; None takes 2 / H.
    cytokine_scale: float | None = None
    #: Whole numbers (a, b): a cell's response to all cytokines is Beta(a, b), drawn for each episode.
    response: tuple[int, int] = (4, 2)
    #: Whether responses differ between cells; otherwise each is the mean a / (a + b).
    vary_response: bool = True
    #: Cost of the mean absolute action.
    l1: float = 1e-4
    #: Cost of the mean squared action.
    l2: float = 1e-4
    #: "linear" adds s a E in the latent space; "exact" adds s a to the decoded cell and encodes it again.
    mode: str = "linear"
    #: "none", or "density": the latent cell also slides towards where training cells are dense.
    drift: str = "none"
    #: gamma x stiffness of the density: share of its offset that the steepest axis loses in a step; below 2.
    drift_rate: float = 0.5
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
        for name in ("efficacy", "response"):
            if any(v < 1 or int(v) != v for v in getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)} must be two whole numbers of at least 1.")

    def quiet(self) -> EnvironmentConfig:
        """The same settings with noise, kick and varied response off, in which predictions are made."""
        return replace(self, process_noise=0.0, kick=False, vary_response=False)


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
            _default_scale(world, config) if config.action_scale is None else config.action_scale
        )
        self.noise = config.process_noise * self.distance / (self.horizon * world.latent_dim**0.5)
        self.gamma = config.drift_rate / world.density.stiffness if world.density is not None else 0.0
        self.cytokine = world.action_gene < 0
        self.action_low = torch.where(self.cytokine, 0.0, -1.0).to(world.z0)
        self.dose = 2.0 / self.horizon if config.cytokine_scale is None else config.cytokine_scale
        scale = torch.where(self.cytokine, self.dose, self.action_scale).to(world.z0)
        self._scaled_effects = scale.unsqueeze(-1) * world.effects
        self._responsive = bool(self.cytokine.any())
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
        self._given, self._final = start, {}
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
        if self._responsive:
            state["response"] = self._response()
        state["error"] = self._error(state, self._decode(z) if self.config.kick else origin)
        state["t"] = torch.zeros(self.replicas, self.n_cells, dtype=self.dtype, device=self.device)
        return state

    def _kick(self, start: Start) -> Tensor:
        """Latent effect `[R, N, D]` of the perturbed gene at a random efficacy."""
        return self.config.kick_size * self._beta(*self.config.efficacy).unsqueeze(-1) * start.kick

    def _response(self) -> Tensor:
        """How strongly each cell answers to cytokines `[R, N]`."""
        a, b = self.config.response
        if self.config.vary_response:
            return self._beta(a, b)
        return torch.full((self.replicas, self.n_cells), a / (a + b), dtype=self.dtype, device=self.device)

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
        if self._responsive:
            action = torch.where(self.cytokine, state["response"].unsqueeze(-1) * action, action)
        if self.config.mode == "exact":
            z = self._exact(state, action)
        else:
            z = z + action @ self._scaled_effects
        if self.config.drift == "density" and self.world.density is not None:
            z = z - self.gamma * self.world.density.gradient(state["z"])
        return z + self.noise * self._normal(self.world.latent_dim) if self.noise > 0 else z

    def _exact(self, state: State, action: Tensor) -> Tensor:
        """Adjust the predicted cell's genes and encode it again; cytokines, no genes, act in the latent."""
        genes = ~self.cytokine
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
        if self._responsive:
            state["response"] = self._response()
        path = [start.z]
        for _ in range(self.horizon):
            z = self._move(state, self._cut(choose(self._observe(state))))
            state = {**state, "z": z, "t": state["t"] + 1}
            path.append(z)
        return torch.stack(path, dim=-2)

    # -- for pages and interfaces --------------------------------------------------------------------------
    @property
    def error(self) -> Tensor:
        """Mean squared error of the current prediction `[R, N]`, in squared z-scores."""
        return self._state["error"]

    def info(self) -> dict[str, Tensor]:
        """The error of the prediction that the last step reached (at reset: of the start)."""
        return {"error": (self._final or self._state)["error"]}

    def picture(self, path: Tensor) -> np.ndarray:
        """The latent path `[T+1, D]` among the control cells as pixels `[400, 400, 3]`."""
        from twinlib.environment.rendering import frame

        return frame(self.world, path)

    def start_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Given cells from `cell` (indices), or given starts from `x` with `label` (and `y`), all log1p."""
        unknown = set(options) - {"cell", "x", "label", "y"}
        if unknown:
            raise ValueError(
                f"reset knows no option {sorted(unknown)}: use 'cell', or 'x' with 'label' (and 'y')."
            )
        if "cell" in options:
            return {"cells": self._given_cells(options["cell"])}
        return {"start": self._given_start(options)} if "x" in options else {}

    def _given_cells(self, cell: Any) -> Tensor:
        cells = torch.as_tensor(cell, dtype=torch.long).reshape(-1)
        if bool((cells < 0).any()) or bool((cells >= len(self.world)).any()):
            raise ValueError(f"option 'cell' must lie in 0..{len(self.world) - 1}.")
        return cells.expand(self.n_cells)

    def _given_start(self, options: dict[str, Any]) -> Start:
        labels = options.get("label", [])
        labels = [labels] if isinstance(labels, str) else list(labels)
        x = torch.as_tensor(np.atleast_2d(options["x"]))
        y = torch.as_tensor(np.atleast_2d(options["y"])) if "y" in options else None
        if len(x) != self.n_cells or len(labels) != self.n_cells:
            raise ValueError(f"options 'x' and 'label' must each name {self.n_cells} cells.")
        start = self.world.starts_from(x, labels, y)
        return Start(*(value.unsqueeze(0) for value in vars(start).values()))


def _default_scale(world: World, config: EnvironmentConfig) -> float:
    """s from the world; 0 where no action is a gene."""
    return world.action_scale(config.horizon) if bool((world.action_gene >= 0).any()) else 0.0


def make_dynamics(
    world: World | ReleasedWorld,
    config: EnvironmentConfig | None = None,
    replicas: int = 1,
    n_cells: int = 64,
) -> Dynamics | ReleasedDynamics:
    """The dynamics that `config.configuration` names; the released one needs a `ReleasedWorld`."""
    config = config or EnvironmentConfig()
    if config.configuration == "released":
        if not isinstance(world, ReleasedWorld):
            raise WorldError("configuration='released' needs a ReleasedWorld: pass it as world=.")
        return ReleasedDynamics(world, replicas, n_cells)
    if not isinstance(world, World):
        raise WorldError(
            "configuration='described' needs a World: make it with make_world(prepared, embedding)."
        )
    return Dynamics(world, config, replicas, n_cells)


class GeneScreenEnv(CellEnv):
    """One cell of the gene screen behind gymnasium's interface.

    Observation `[O]` = [z, condition, t / H]; action `[A]` in [-1, 1], one entry a gene of the panel or of
    `targets`. `reset(options={"cell": 5})` or `reset(options={"x": x_log1p, "label": "JAK2"})` start at a
    given cell. Without `world` a packaged one is used.
    """

    #: The packaged world taken when none is given.
    default = "waddington"

    def __init__(
        self,
        world: World | ReleasedWorld | None = None,
        config: EnvironmentConfig | None = None,
        targets: Sequence[str] | None = None,
        render_mode: str | None = None,
    ) -> None:
        chosen = _chosen(world, targets, self.default)
        super().__init__(make_dynamics(chosen, config, 1, 1), render_mode)


class GeneScreenVectorEnv(CellVectorEnv):
    """N cells of the gene screen at once; finished cells are replaced in the same step."""

    #: The packaged world taken when none is given.
    default = "waddington"

    def __init__(
        self,
        num_envs: int = 1,
        world: World | ReleasedWorld | None = None,
        config: EnvironmentConfig | None = None,
        targets: Sequence[str] | None = None,
        render_mode: str | None = None,
    ) -> None:
        chosen = _chosen(world, targets, self.default)
        super().__init__(make_dynamics(chosen, config, 1, num_envs), render_mode)


class CytokineEnv(GeneScreenEnv):
    """One cell under cytokines: the action is a dose in [0, 1] of each, and there is no kick.

    Cells respond differently: a factor drawn for each episode multiplies every dose.
    """

    default = "cytokine"


class CytokineVectorEnv(GeneScreenVectorEnv):
    """N cells under cytokines at once."""

    default = "cytokine"


class CombinationEnv(GeneScreenEnv):
    """One cell under gene adjustments in [-1, 1] and cytokine doses in [0, 1] together."""

    default = "combination"


class CombinationVectorEnv(GeneScreenVectorEnv):
    """N cells under gene adjustments and cytokine doses together."""

    default = "combination"


def _chosen(
    world: World | ReleasedWorld | None, targets: Sequence[str] | None, default: str
) -> World | ReleasedWorld:
    """The world given or the packaged one, with the wanted actions alone."""
    world = packaged_world(default) if world is None else world
    if targets is None:
        return world
    if not isinstance(world, World):
        raise WorldError("targets= chooses actions of a described world: leave it out for a ReleasedWorld.")
    return world.only(targets)


def build_packaged_worlds(n_pairs: int = 1000, seed: int = 0) -> dict[str, World]:
    """Make the packaged world files again from the simulator and the packaged checkpoint."""
    from twinlib.data.preparation import standard
    from twinlib.embedding.train import pretrained
    from twinlib.environment.world import WORLDS, thinned, with_cytokines

    prepared, embedding = standard("waddington", seed=0), pretrained("waddington")
    treated = with_cytokines(prepared, seed)
    worlds = {
        "waddington": make_world(prepared, embedding, density=True),
        "cytokine": make_world(treated, embedding, actions="cytokines"),
        "combination": make_world(treated, embedding, actions="both"),
    }
    for name, world in worlds.items():
        save_world(thinned(world, n_pairs, seed), WORLDS / f"{name}.npz")
    return worlds


if __name__ == "__main__":
    for title, built in build_packaged_worlds().items():
        print(f"{title}: {len(built.labels)} labels, {len(built.action_names)} actions.")

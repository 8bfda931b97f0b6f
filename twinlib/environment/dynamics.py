"""The gene screen as an environment: latent cells, gene adjustments, the error to an unseen profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from twinlib.checks import finite_arrays, name_list, require_number, require_type
from twinlib.environment.batched import BatchedDynamics, Outcome, State
from twinlib.environment.world import Start, World
from twinlib.errors import InputError, WorldError

_CHOICES = {"mode": ("linear", "exact"), "drift": ("none", "density")}


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

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name}={getattr(self, name)!r} is unknown: choose from {', '.join(allowed)}."
                )
        require_number("horizon", self.horizon, 1, whole=True)
        for name in ("process_noise", "l1", "l2", "kick_size", "drift_rate"):
            require_number(name, getattr(self, name), 0)
        for name in ("action_scale", "cytokine_scale"):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), 0)
        for name in ("efficacy", "response"):
            (pair,) = finite_arrays(**{name: (getattr(self, name), "ab=2")})
            if (pair < 1).any() or (pair != np.floor(pair)).any():
                raise InputError(f"{name}={getattr(self, name)} must be two whole numbers of at least 1.")

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
        config = EnvironmentConfig() if config is None else config
        require_type("world", world, World)
        require_type("config", config, EnvironmentConfig)
        super().__init__(replicas, n_cells, world.z0.dtype, world.z0.device)
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
            start = self.world.starts(self._indices(cells.cpu()))
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

    def reset_to(self, options: Mapping[str, object], generators: Sequence[torch.Generator]) -> Tensor:
        """Start at given cells from `cell` (indices), or at `x` with `label` (and `y`), all in log1p."""
        given = set(options)
        if not given:
            return self.reset(generators)
        if given == {"cell"}:
            one = _is_whole(options["cell"])
            cells = self._indices([options["cell"]] * self.n_cells if one else options["cell"])
            return self.reset(generators, cells=cells)
        if given in ({"x", "label"}, {"x", "label", "y"}):
            return self.reset(generators, start=self._given_start(**options))
        raise InputError(
            f"reset cannot start from the options {sorted(map(str, given))}: "
            "give 'cell', or 'x' with 'label' (and 'y'), or none."
        )

    def _indices(self, cells: object) -> Tensor:
        """Numbers of the world's cells `[R, N]` from `[N]` or `[R, N]`."""
        (numbers,) = finite_arrays(cell=(cells, f"... N={self.n_cells}"))
        if (numbers != np.floor(numbers)).any() or numbers.min() < 0 or numbers.max() >= len(self.world):
            raise InputError(f"cell must hold whole numbers from 0 to {len(self.world) - 1}, one a cell.")
        if numbers.shape[:-1] not in ((), (self.replicas,)):
            raise InputError(f"cell has shape {numbers.shape}; give [N] or [R, N] with R = {self.replicas}.")
        return torch.from_numpy(numbers).long().to(self.device).expand(self.replicas, self.n_cells)

    def _given_start(self, x: object, label: object, y: object = None) -> Start:
        """The start `[1, N, ...]` of N given cells and labels."""
        labels = name_list("label", [label] if isinstance(label, str) else label)
        if len(labels) != self.n_cells:
            raise InputError(f"label holds {len(labels)} names for {self.n_cells} cells; give one a cell.")
        match = None if y is None else self._profiles(y=y)
        start = self.world.starts_from(self._profiles(x=x), labels, match)
        return Start(*(value.unsqueeze(0) for value in vars(start).values()))

    def _profiles(self, **given: object) -> Tensor:
        """Profiles `[n, G]` from one `[G]` or several."""
        axes = f"... G={len(self.world.genes)}"
        (profiles,) = finite_arrays(**{name: (values, axes) for name, values in given.items()})
        return torch.from_numpy(np.atleast_2d(profiles))


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _default_scale(world: World, config: EnvironmentConfig) -> float:
    """s from the world; 0 where no action is a gene."""
    return world.action_scale(config.horizon) if bool((world.action_gene >= 0).any()) else 0.0

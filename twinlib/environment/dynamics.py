"""The gene screen as an environment: latent cells, gene adjustments, the error to an unseen profile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from twinlib.checks import finite_arrays, name_list, require_number, require_type
from twinlib.environment.batched import BatchedDynamics, Outcome, State
from twinlib.environment.world import TARGETS, Start, World
from twinlib.errors import InputError, WorldError

_CHOICES = {"mode": ("linear", "exact"), "drift": ("none", "density"), "target": TARGETS}


@dataclass(frozen=True)
class EnvironmentConfig:
    """Settings of the described environment; every wrong value is refused in one sentence."""

    #: H, steps of an episode; its end is a termination, because the observation carries t / H.
    horizon: int = 15
    #: "population": a control and its label's mean change within the context; "cell": the matched cell.
    target: str = "population"
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
    #: Cost of the mean absolute action, in units of the attainable gain.
    l1: float = 1e-4
    #: Cost of the mean squared action, in the same units.
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

    @property
    def mean_response(self) -> float:
        """Mean of the responses to cytokines."""
        a, b = self.response
        return a / (a + b)

    def quiet(self) -> EnvironmentConfig:
        """The same settings with noise, kick and varied response off, in which predictions are made."""
        return replace(self, process_noise=0.0, kick=False, vary_response=False)


class Dynamics(BatchedDynamics):
    """The described environment: z' = z + s a E + noise, rewarded by the fall of the squared error.

    Shapes: observations `[R, N, O]` = [z (D), condition (C), t / H], standardised by fixed numbers of the
    training world; actions `[R, N, A]` in [-1, 1]; rewards `[R, N]` in units of the attainable gain, so that
    the best constant action of each label returns 1 on average. y_hat_t = x + decode(z_t) - decode(z_0).
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
        self.distance, self.unit = world.units.distance, world.units.gain[config.target]
        self.action_scale = (
            _default_scale(world, config) if config.action_scale is None else config.action_scale
        )
        self.noise = config.process_noise * self.distance / (self.horizon * world.latent_dim**0.5)
        self.gamma = config.drift_rate / world.density.stiffness if world.density is not None else 0.0
        self.cytokine = world.action_gene < 0
        self.action_low = torch.where(self.cytokine, 0.0, -1.0).to(world.z0)
        self.dose = 2.0 / self.horizon if config.cytokine_scale is None else config.cytokine_scale
        scale = torch.where(self.cytokine, self.dose, self.action_scale).to(world.z0)
        #: `[A, D]`, latent move for one unit of each action, at a response of 1.
        self.moves = scale.unsqueeze(-1) * world.effects
        self._responsive = bool(self.cytokine.any())
        self._given: Start | None = None
        self._time = _time_scale(self.horizon)

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
            start = self.world.starts(self._indices(cells.cpu()), self.config.target)
        elif start is not None:
            self._require_finite(start)
        self._given = start
        return super().reset(generators)

    def _fresh(self) -> State:
        start, self._given = self._given, None
        if start is None:
            start = self.world.starts(self._integers(len(self.world)), self.config.target)
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

    @staticmethod
    def _require_finite(start: Start) -> None:
        """Refuse a start with numbers that are none."""
        for name, value in vars(start).items():
            if not bool(value.isfinite().all()):
                raise InputError(f"the start's {name} holds NaN or infinity: give finite numbers.")

    def _kick(self, start: Start) -> Tensor:
        """Latent effect `[R, N, D]` of the perturbed gene at a random efficacy."""
        return self.config.kick_size * self._beta(*self.config.efficacy).unsqueeze(-1) * start.kick

    def _response(self) -> Tensor:
        """How strongly each cell answers to cytokines `[R, N]`."""
        if self.config.vary_response:
            return self._beta(*self.config.response)
        mean = self.config.mean_response
        return torch.full((self.replicas, self.n_cells), mean, dtype=self.dtype, device=self.device)

    def _advance(self, state: State, action: Tensor) -> Outcome:
        z = self._move(state, action)
        error = self._error(state, self._decode(z))
        after = {**state, "z": z, "error": error, "t": state["t"] + 1}
        ended = after["t"] >= self.horizon
        reward = (state["error"] - error) / self.unit - self._cost(action)
        return Outcome(after, reward, ended, torch.zeros_like(ended))

    def _cost(self, action: Tensor) -> Tensor:
        """Cost `[R, N]` of actions `[R, N, A]`, in units of the attainable gain."""
        if self.config.l1 == self.config.l2 == 0:
            return action.new_zeros(action.shape[:-1])  # passes over all actions, and back, are saved
        return self.config.l1 * action.abs().mean(-1) + self.config.l2 * action.square().mean(-1)

    def _move(self, state: State, action: Tensor) -> Tensor:
        """The next latent cell `[R, N, D]`."""
        z = state["z"]
        if self._responsive:
            action = torch.where(self.cytokine, state["response"].unsqueeze(-1) * action, action)
        if self.config.mode == "exact":
            z = self._exact(state, action)
        else:
            z = z + action @ self.moves
        if self.config.drift == "density" and self.world.density is not None:
            z = z - self.gamma * self.world.density.gradient(state["z"])
        return z + self.noise * self._normal(self.world.latent_dim) if self.noise > 0 else z

    def _exact(self, state: State, action: Tensor) -> Tensor:
        """Adjust the predicted cell's genes and encode it again; cytokines, no genes, act in the latent."""
        genes = ~self.cytokine
        cell = state["x"] + self._decode(state["z"]) - state["origin"]
        shift = torch.zeros_like(cell)
        shift[..., self.world.action_gene[genes]] = self.action_scale * action[..., genes]
        return self._encode(cell + shift) + action[..., ~genes] @ self.moves[~genes]

    def _error(self, state: State, decoded: Tensor) -> Tensor:
        """Mean squared error `[R, N]` of y_hat = x + decode(z) - decode(z_0) against the matched profile."""
        return (state["x"] + (decoded - state["origin"]) - state["y"]).square().mean(-1)

    def _decode(self, z: Tensor) -> Tensor:
        return self.world.embedding.decode(z)

    def _encode(self, x: Tensor) -> Tensor:
        return self.world.embedding.encode(x)

    def _observe(self, state: State) -> Tensor:
        units, (centre, spread) = self.world.units, self._time
        time = ((state["t"] - centre) / spread).unsqueeze(-1)
        seen = torch.cat([state["z"], state["condition"]], dim=-1)
        return torch.cat([(seen - units.mean) / units.std, time], dim=-1)

    def conditions(self, obs: Tensor) -> Tensor:
        """The embedding of the perturbation `[..., C]` that observations `[..., O]` show."""
        units, first = self.world.units, self.world.latent_dim
        return obs[..., first:-1] * units.std[first:] + units.mean[first:]

    def _course(self, choose: Callable[[Tensor], Tensor], state: State) -> Iterator[tuple[Tensor, State]]:
        """The action and the state after it of each step of an episode; gradients pass through both."""
        for _ in range(self.horizon):
            action = self.cut(choose(self._observe(state)))
            state = {**state, "z": self._move(state, action), "t": state["t"] + 1}
            yield action, state

    def episode(self, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `[R, N]` of one episode from where the cells are; differentiable through `choose(obs)`.

        The rewards telescope, so the profile is decoded at the end only. The cells stay where they are.
        """
        state = self._state
        first, cost = state["error"], torch.zeros_like(state["error"])
        for action, after in self._course(choose, state):
            cost, state = cost + self._cost(action), after
        return (first - self._error(state, self._decode(state["z"]))) / self.unit - cost

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
        path = [start.z, *(after["z"] for _, after in self._course(choose, state))]
        return torch.stack(path, dim=-2)

    # -- for pages and interfaces --------------------------------------------------------------------------
    @property
    def error(self) -> Tensor:
        """Mean squared error of the current prediction `[R, N]`, in squared z-scores."""
        return self._state["error"]

    def _info(self, state: State) -> dict[str, Tensor]:
        """The error of the prediction, in squared z-scores."""
        return {"error": state["error"]}

    def picture(self, path: Tensor) -> np.ndarray:
        """The latent path `[T+1, D]` among the control cells as pixels `[400, 400, 3]`."""
        from twinlib.environment.rendering import frame

        return frame(self.world, path)

    def reset_to(self, options: Mapping[str, object], generators: Sequence[torch.Generator]) -> Tensor:
        """Start at given cells from `cell` (indices), or at `x` with `label` (and `y`)."""
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


def _time_scale(horizon: int) -> tuple[float, float]:
    """Mean and s.d. of the step numbers of an episode; an s.d. of 1 where there is one step."""
    return (horizon - 1) / 2, ((horizon**2 - 1) / 12) ** 0.5 or 1.0


def _default_scale(world: World, config: EnvironmentConfig) -> float:
    """s from the world; 0 where no action is a gene."""
    return world.action_scale(config.horizon) if bool((world.action_gene >= 0).any()) else 0.0

"""The environment of the paper's public code: fused state, one step, a fixed target for every cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twinlib.environment.batched import BatchedDynamics, Outcome, State
from twinlib.errors import WorldError

#: Added to a standard deviation and to a start weight, as the public code does.
_STD_FLOOR, _WEIGHT_FLOOR = 1e-8, 1e-6


@dataclass(frozen=True)
class ReleasedWorld:
    """What the released environment is made of."""

    #: `[m, D]`, fused states of perturbed cells (D = 58: autoencoder 16, PCA 10, random GAT 32).
    starts: Tensor
    #: `[m]`, probability weights of the starts: pseudotime + 1e-6.
    weights: Tensor
    #: `[D]`, the point every cell is sent to.
    target: Tensor
    #: `[A, D]`, E with rows of length 1.
    effects: Tensor
    #: s.
    action_scale: float
    #: Weight of |a|_1; the cytokine run has 0.
    l1: float = 0.05
    #: Weight of |a|^2.
    l2: float = 0.01
    #: Steps of an episode; 1 in the public code.
    horizon: int = 1

    def __post_init__(self) -> None:
        m, d = self.starts.shape
        if self.weights.shape != (m,) or self.target.shape != (d,) or self.effects.shape[-1] != d:
            raise WorldError(
                f"a released world needs weights [m], target [D] and effects [A, D] for its starts [m, D] = "
                f"{(m, d)}, not {tuple(self.weights.shape)}, {tuple(self.target.shape)} and "
                f"{tuple(self.effects.shape)}."
            )
        if bool((self.weights < 0).any()) or not float(self.weights.sum()) > 0:
            raise WorldError("the start weights must not be negative, and not all zero.")

    def __len__(self) -> int:
        return len(self.starts)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> ReleasedWorld:
        """A copy on another device or in another precision."""
        starts, weights, target, effects = (
            tensor.to(device=device, dtype=dtype)
            for tensor in (self.starts, self.weights, self.target, self.effects)
        )
        return dataclasses.replace(self, starts=starts, weights=weights, target=target, effects=effects)


class ReleasedDynamics(BatchedDynamics):
    """x' = x + s a E, reward -(|x' - target|^2 + l2 |a|^2 + l1 |a|_1), for R x N cells.

    Observation `[R, N, D]` is the state alone; the squared distance is a sum over D, not a mean.
    The end after `horizon` steps is a termination, as in the public code.
    """

    def __init__(self, world: ReleasedWorld, replicas: int = 1, n_cells: int = 64) -> None:
        super().__init__(replicas, n_cells, world.starts.dtype, world.starts.device)
        self.world = world
        self.horizon = world.horizon
        self.action_dim, self.observation_dim = world.effects.shape
        self.action_scale = world.action_scale
        self._given: Tensor | None = None

    def reset(self, generators: Sequence[torch.Generator], cells: Tensor | None = None) -> Tensor:
        """Start at cells drawn by weight, or at given cells (indices `[R, N]` or `[N]`)."""
        self._given = None if cells is None else cells.expand(self.replicas, self.n_cells)
        return super().reset(generators)

    def _fresh(self) -> State:
        index, self._given = self._given, None
        index = self._choices(self.world.weights) if index is None else index
        return {"z": self.world.starts[index], "t": torch.zeros_like(index)}

    @torch.no_grad()
    def _advance(self, state: State, action: Tensor) -> Outcome:
        z = state["z"] + self.action_scale * action @ self.world.effects
        cost = self.world.l2 * action.square().sum(-1) + self.world.l1 * action.abs().sum(-1)
        reward = -((z - self.world.target).square().sum(-1) + cost)
        after = {"z": z, "t": state["t"] + 1}
        ended = after["t"] >= self.horizon
        return Outcome(after, reward, ended, torch.zeros_like(ended))

    def _observe(self, state: State) -> Tensor:
        return state["z"]

    @property
    def latent(self) -> Tensor:
        """The states `[R, N, D]`."""
        return self._state["z"]


def correlation_effects(x: Tensor, z: Tensor) -> Tensor:
    """E `[G, D]`: correlation of each gene with each dimension over control cells, rows of length 1.

    x `[n, G]` and z `[n, D]` of all controls; sums are divided by n - 1 and 1e-8 is added to each s.d.
    """
    x, z = (v - v.mean(0) for v in (x, z))
    n = len(x) - 1
    spread = [(v.square().sum(0) / len(v)).sqrt() + _STD_FLOOR for v in (x, z)]
    correlation = (x.T @ z / n) / (spread[0].unsqueeze(1) * spread[1])
    return correlation / (correlation.norm(dim=1, keepdim=True) + _STD_FLOOR)


def control_point(z_control: Tensor) -> Tensor:
    """The released training target `[D]`: control mean minus one control s.d. in each dimension."""
    return z_control.mean(0) - 1.0 * z_control.std(0, unbiased=False)


def start_weights(pseudotime: Tensor) -> Tensor:
    """Start weights `[m]` of cells with this pseudotime: proportional to it, 1e-6 for the root."""
    return pseudotime + _WEIGHT_FLOOR


def released_scale(mean_step: float, latent_dim: int) -> float:
    """s of the released code: mean length of a world-model step over sqrt(D / 3)."""
    return mean_step / (latent_dim / 3) ** 0.5

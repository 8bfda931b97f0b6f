"""What a policy predicts: latent paths of given cells, and the expression profile at their end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from twinlib.checks import finite_arrays
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.world import Start, World
from twinlib.errors import InputError

if TYPE_CHECKING:
    from twinlib.policy.contracts import Policy

#: The dose of the labels that a world knows.
WORLD_DOSE = 1.0
#: Cells that pass through the decoder at once.
_CHUNK = 4096


class Group(Protocol):
    """What a prediction is about, as the judge asks it."""

    @property
    def perturbation(self) -> str:
        """Label of the perturbation."""

    @property
    def dose(self) -> float:
        """Its dose."""


@dataclass(frozen=True, eq=False)
class PolicyPredictor:
    """A policy at the end of its episode, as the judge's predictor: mean action, noise and kick off."""

    #: Name of the row.
    name: str
    #: R replicas of an actor.
    policy: Policy
    #: Where it was trained.
    world: World
    #: The settings of its training.
    config: EnvironmentConfig
    #: Row i answers control i.
    answers: bool = True

    @property
    def replicas(self) -> int:
        """R."""
        return self.policy.replicas

    def reaches(self, group: Group) -> bool:
        """Whether the world knows this label, trained on or held out, at this dose."""
        return group.perturbation in self.world.labels and group.dose == WORLD_DOSE

    def predict(self, group: Group, cells: np.ndarray) -> np.ndarray:
        """Move controls `[n, G]` to predictions `[R, n, G]`, in the scale of the data."""
        labels = [group.perturbation] * len(cells)
        moved = predict(self.policy, self.world, self.config, cells, labels)
        return moved.astype(np.float64)


@torch.no_grad()
def rollout_cells(
    policy: Policy,
    world: World,
    config: EnvironmentConfig,
    x_log1p: np.ndarray | Tensor,
    labels: Sequence[str],
) -> Tensor:
    """Latent paths `[R, n, H+1, D]` of n given controls under the mean action, process noise and kick off.

    Parameters
    ----------
    policy
        R replicas of an actor, asked for `act(obs [R, n, O])` -> mean action [R, n, A].
    world
        Where the cells live; its actions must be those the policy was trained on.
    config
        The settings of the training run; its noise and kick are switched off here.
    x_log1p
        `[n, G]`, observed controls in log1p units.
    labels
        n perturbation labels.
    """
    (x,) = finite_arrays(x=(x_log1p, f"n G={len(world.genes)}"))
    if len(labels) != len(x):
        raise InputError(f"there are {len(x)} cells and {len(labels)} labels: pass one label a cell.")
    start = world.starts_from(torch.from_numpy(x), labels)
    dynamics = Dynamics(world, config.quiet(), policy.replicas, len(x))
    spread = Start(*(value.expand(dynamics.replicas, *value.shape) for value in vars(start).values()))
    return dynamics.path(policy.act, spread)


@torch.no_grad()
def predict(
    policy: Policy,
    world: World,
    config: EnvironmentConfig,
    x_log1p: np.ndarray | Tensor,
    labels: Sequence[str],
) -> np.ndarray:
    """Predicted profiles `[R, n, G]` in log1p units: y_hat = x + std (decode(z_H) - decode(z_0)).

    Arguments and errors as in `rollout_cells`. A policy whose mean action is zero predicts x exactly.
    """
    path = rollout_cells(policy, world, config, x_log1p, labels)
    return profiles(world, x_log1p, path[:, :, 0], path[:, :, -1])


@torch.no_grad()
def profiles(world: World, x_log1p: np.ndarray | Tensor, z_0: Tensor, z_t: Tensor) -> np.ndarray:
    """Profiles `[R, n, G]` (log1p) of controls x `[n, G]` whose latent went from z_0 to z_t `[R, n, D]`."""
    x = np.asarray(x_log1p, dtype=np.float32)
    std = world.std.cpu().numpy()
    return x + std * (_decoded(world, z_t) - _decoded(world, z_0))


def _decoded(world: World, z: Tensor) -> np.ndarray:
    """decode(z) `[..., G]`, chunked alike for the same shape of z, so that equal cells stay equal."""
    flat = z.reshape(-1, z.shape[-1])
    parts = [world.embedding.decode(part) for part in torch.split(flat, _CHUNK)]
    out: np.ndarray = torch.cat(parts).reshape(*z.shape[:-1], -1).cpu().numpy()
    return out

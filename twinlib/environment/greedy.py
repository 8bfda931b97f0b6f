"""The greedy optimum of the linear model: the baseline for policies where the landscape is concave."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.world import World
from twinlib.errors import InputError

#: Cells over which the decoder's Jacobian is averaged.
_CELLS = 256
#: Steps of projected gradient; the problem is a convex quadratic in a box.
_STEPS = 500


class ConstantActions:
    """One constant action a perturbation, as a policy of one replica; `actions` `[L, A]` in the box."""

    replicas = 1

    def __init__(self, dynamics: Dynamics, actions: Tensor) -> None:
        self.dynamics, self.actions = dynamics, actions

    def act(self, obs: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """The actions `[..., A]` of the labels that observations `[..., O]` show; nothing is drawn."""
        condition, known = self.dynamics.conditions(obs), self.dynamics.world.conditions
        distance = torch.cdist(condition.reshape(-1, condition.shape[-1]), known.to(obs))
        return self.actions[distance.argmin(-1)].reshape(*obs.shape[:-1], -1)


class GreedyLinear(ConstantActions):
    """One constant action a perturbation, found by linear algebra instead of by learning.

    With decoder and dynamics linear, H steps of the action a move the profile by H a M J, where M `[A, D]`
    holds the latent moves (of cytokines: at the mean response) and J `[D, G]` is the mean Jacobian of the
    decoder. The action of a label minimises the mean squared error to the targets of its training cells plus
    the L2 cost, inside the box; a label without training cells gets that of all cells.
    """

    def __init__(self, world: World, config: EnvironmentConfig | None = None) -> None:
        dynamics = Dynamics(world, config, n_cells=1)
        settings = dynamics.config
        response = torch.where(dynamics.cytokine, settings.mean_response, 1.0).to(world.z0)
        #: `[A, G]`, change of the profile after an episode at one unit of each action.
        self.reach = dynamics.horizon * response.unsqueeze(-1) * dynamics.moves @ decoder_jacobian(world)
        wanted = world.mean_changes(settings.target) / world.std
        ridge = dynamics.horizon * settings.l2 * dynamics.unit / dynamics.action_dim
        super().__init__(dynamics, box_least_squares(self.reach, wanted, ridge, dynamics.action_low))


def decoder_jacobian(world: World, n_cells: int = _CELLS) -> Tensor:
    """Mean Jacobian of the decoder `[D, G]` over the latent cells of the first controls."""
    with torch.enable_grad():
        z = world.z0[:n_cells].detach().requires_grad_(True)
        decoded = world.embedding.decode(z).mean(0)
        # a decoded cell depends on its own latent alone: the gradients of the mean sum to the mean Jacobian
        rows = [torch.autograd.grad(gene, z, retain_graph=True)[0].sum(0) for gene in decoded]
    return torch.stack(rows, dim=1)


@torch.no_grad()
def box_least_squares(matrix: Tensor, wanted: Tensor, ridge: float, low: float | Tensor = -1.0) -> Tensor:
    """Actions `[L, A]` from `low` to 1 that minimise mean_g (a M - w)^2 + ridge |a|^2.

    M is `matrix` `[A, G]`, w `wanted` `[L, G]`; `low` is a number or `[A]`.
    """
    lowest = torch.as_tensor(low).to(matrix)
    n_genes = matrix.shape[1]
    curvature = matrix @ matrix.T / n_genes + ridge * torch.eye(len(matrix)).to(matrix)
    target = wanted @ matrix.T / n_genes
    rate = 1.0 / torch.linalg.matrix_norm(curvature, ord=2)
    action = previous = torch.zeros_like(target)
    for step in range(_STEPS):  # accelerated projected gradient (Nesterov 1983)
        ahead = action + step / (step + 3) * (action - previous)
        step_down = ahead - rate * (ahead @ curvature - target)
        previous, action = action, torch.maximum(step_down, lowest).clamp(max=1.0)
    return action


def best_dose(world: World, config: EnvironmentConfig | None = None) -> float:
    """The constant dose of a world's only cytokine that minimises the expected loss, in closed form.

    With v = H k (shift) J the change of the profile at dose 1 and response 1, r the mean change to the
    target, rho ~ Beta(a, b) the response and q the attainable gain,
    E[rho^2] |v|^2 u^2 / G - 2 E[rho] r.v u / G + H q (l2 u^2 + l1 u) is the loss, a parabola in the dose u;
    its lowest point is cut to [0, 1].
    """
    dynamics = Dynamics(world, config, n_cells=1)
    if dynamics.action_dim != 1 or not bool(dynamics.cytokine.all()):
        raise InputError("best_dose wants a world with one cytokine and no gene: use world.only([name]).")
    settings, horizon, n_genes = dynamics.config, dynamics.horizon, len(world.genes)
    v = (horizon * dynamics.moves @ decoder_jacobian(world))[0]
    r = (world.targets(settings.target) - world.x).mean(0) / world.std
    (a, b), mean = settings.response, settings.mean_response
    square = mean**2 + (a * b / ((a + b) ** 2 * (a + b + 1)) if settings.vary_response else 0.0)
    slope = mean * float(r @ v) / n_genes - horizon * settings.l1 * dynamics.unit / 2
    bend = square * float(v @ v) / n_genes + horizon * settings.l2 * dynamics.unit
    return min(max(slope / bend, 0.0), 1.0)

"""The yardstick `pathwise`: the policies' own network, trained by the exact gradient of the return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twinlib.checks import require_number
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.world import World
from twinlib.errors import RunError
from twinlib.policy.actor_critic import ActorCritic, Adam, clip_rows
from twinlib.policy.training import make_generators


@dataclass(frozen=True)
class PathwiseConfig:
    """Settings of the training by the exact gradient."""

    #: N, cells whose episodes make one step of Adam
    n_cells: int = 16
    #: first step size; it falls to 0 in a straight line
    learning_rate: float = 3e-3
    #: largest norm of a gradient
    max_norm: float = 0.5
    #: widths of the tanh layers, as in `TrainingConfig`
    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        require_number("n_cells", self.n_cells, 1, whole=True)
        for name in ("learning_rate", "max_norm"):
            require_number(name, getattr(self, name), 0)


def train_pathwise(
    world: World,
    config: EnvironmentConfig | None = None,
    seeds: Sequence[int] = (0,),
    timesteps: int = 150_000,
    settings: PathwiseConfig | None = None,
) -> ActorCritic:
    """The mean action's network of each seed `[R]` after `timesteps` environment steps of gradient ascent.

    Every step of Adam takes N fresh episodes, noise and kick on, and the derivative of their mean return in
    the network's parameters, through all H moves and the decoder. Nothing is explored, no value is learned.
    """
    settings = settings or PathwiseConfig()
    dynamics = Dynamics(world, config, len(seeds), settings.n_cells)
    policy = ActorCritic(
        dynamics.observation_dim,
        dynamics.action_dim,
        len(seeds),
        make_generators(seeds, "weights"),
        settings.hidden,
        dtype=dynamics.dtype,
        device=dynamics.device,
    )
    generators = make_generators(seeds, "environment", dynamics.device)
    adam, active = Adam(policy.actor, settings.learning_rate), torch.ones(len(seeds), dtype=torch.bool)
    updates = max(1, timesteps // (settings.n_cells * dynamics.horizon))
    for update in range(updates):
        adam.learning_rate = torch.full_like(adam.steps, settings.learning_rate * (1 - update / updates))
        dynamics.reset(generators)
        adam.step(clip_rows(_gradient(dynamics, policy), settings.max_norm), active)
    return policy


def _gradient(dynamics: Dynamics, policy: ActorCritic) -> Tensor:
    """Gradient `[R, P]` of minus the mean return in each actor's parameters."""
    actor = policy.actor.detach().clone().requires_grad_(True)
    returns = dynamics.episode(lambda obs: policy.distribution(obs, actor).mode()).mean(1)
    (gradient,) = torch.autograd.grad(-returns.sum(), actor)
    if not bool(torch.linalg.vector_norm(gradient, dim=1).isfinite().all()):
        raise RunError("the gradient through the environment is not finite: lower the learning rate.")
    return gradient

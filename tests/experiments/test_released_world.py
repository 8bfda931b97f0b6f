"""The released configuration: its step, reward, starts and effects, each recomputed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.released_world import (
    ReleasedDynamics,
    ReleasedWorld,
    control_point,
    correlation_effects,
    released_scale,
)
from twinlib.errors import WorldError


def released(m: int = 30, latent_dim: int = 58, genes: int = 200) -> ReleasedWorld:
    generator = torch.Generator().manual_seed(0)
    effects = torch.randn(genes, latent_dim, generator=generator)
    return ReleasedWorld(
        starts=torch.randn(m, latent_dim, generator=generator),
        weights=torch.arange(m, dtype=torch.float32) + 1e-6,
        target=torch.randn(latent_dim, generator=generator),
        effects=effects / effects.norm(dim=1, keepdim=True),
        action_scale=0.5173,
    )


def test_step_and_reward_are_those_of_the_public_code() -> None:
    world = released()
    dynamics = ReleasedDynamics(world, replicas=2, n_cells=5)
    before = dynamics.reset([torch.Generator().manual_seed(i) for i in range(2)])
    action = torch.randn(2, 5, 200, generator=torch.Generator().manual_seed(1))
    step = dynamics.step(action)
    cut = action.clamp(-1, 1)
    after = before + 0.5173 * torch.einsum("rna,ad->rnd", cut, world.effects)
    away = ((after - world.target) ** 2).sum(-1)
    assert torch.allclose(step.final_obs, after, atol=1e-5)
    assert torch.allclose(
        step.reward, -(away + 0.01 * (cut**2).sum(-1) + 0.05 * cut.abs().sum(-1)), rtol=1e-5
    )
    assert bool(step.terminated.all()) and not bool(step.truncated.any())
    assert not torch.allclose(step.obs, step.final_obs)


def test_starts_are_drawn_in_proportion_to_pseudotime() -> None:
    world = released(m=4)
    dynamics = ReleasedDynamics(world, n_cells=20_000)
    obs = dynamics.reset([torch.Generator().manual_seed(0)])[0]
    share = [float((obs == start).all(-1).float().mean()) for start in world.starts]
    assert share == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6], abs=0.02)


def test_effects_are_row_normalised_correlations() -> None:
    generator = torch.Generator().manual_seed(2)
    x, z = torch.randn(50, 4, generator=generator).double(), torch.randn(50, 3, generator=generator).double()
    by_numpy = np.corrcoef(x.T.numpy(), z.T.numpy())[:4, 4:]
    by_numpy /= np.linalg.norm(by_numpy, axis=1, keepdims=True)
    assert np.allclose(correlation_effects(x, z).numpy(), by_numpy, atol=1e-6)


def test_target_and_scale() -> None:
    z = torch.tensor([[0.0, 1.0], [2.0, 5.0]])
    assert torch.allclose(control_point(z), torch.tensor([0.0, 1.0]))
    assert released_scale(1.0, 58) == pytest.approx((3 / 58) ** 0.5)


def test_a_released_world_of_the_wrong_shape_is_refused() -> None:
    world = released()
    with pytest.raises(WorldError, match="weights"):
        ReleasedWorld(world.starts, world.weights[:3], world.target, world.effects, 0.5)
    with pytest.raises(WorldError, match="start weights"):
        ReleasedWorld(world.starts, -world.weights, world.target, world.effects, 0.5)

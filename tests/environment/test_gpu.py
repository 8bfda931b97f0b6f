"""The environment on a GPU gives the processor's numbers; skipped where there is no GPU."""

from __future__ import annotations

import pytest
import torch
from toy_world import toy_world

from twinlib.environment.dynamics import Dynamics, EnvironmentConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def test_a_step_on_the_gpu_equals_the_step_on_the_processor() -> None:
    config = EnvironmentConfig(process_noise=0.0, kick=False)
    cells = torch.arange(20)
    found = {}
    for device in ("cpu", "cuda"):
        dynamics = Dynamics(toy_world(dtype=torch.float64).to(device), config, n_cells=20)
        dynamics.reset([torch.Generator(device)], cells=cells.to(device))
        action = torch.full((1, 20, 6), 0.3, dtype=torch.float64, device=device)
        found[device] = torch.stack([dynamics.step(action).reward.cpu() for _ in range(15)])
    assert torch.allclose(found["cpu"], found["cuda"], atol=1e-10)


def test_a_thousand_replicas_step_at_once() -> None:
    dynamics = Dynamics(toy_world().to("cuda"), EnvironmentConfig(), replicas=1000, n_cells=8)
    dynamics.reset([torch.Generator("cuda").manual_seed(i) for i in range(1000)])
    reward = dynamics.step(torch.zeros(1000, 8, 6, device="cuda")).reward
    assert reward.shape == (1000, 8) and bool(torch.isfinite(reward).all())

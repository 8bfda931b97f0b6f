"""What each implementation detail is worth: one update of ours against Stable-Baselines3's and sb3-contrib's.

Both start from the same weights and see the same batch in the same order. Then one detail at a time is
changed in ours, and the largest difference of a parameter says what the detail is worth in that update.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import pathlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from sb3_contrib import TRPO
from stable_baselines3 import PPO
from torch import Tensor

from experiments.folder import versions
from twinlib.files import write_json, write_table
from twinlib.policy import proximal, trust_region
from twinlib.policy.actor_critic import ActorCritic, Adam
from twinlib.policy.proximal import ProximalConfig, proximal_update
from twinlib.policy.rollout import Buffer
from twinlib.policy.trust_region import TrustRegionConfig, mean_kl, trust_region_update

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "policy"))  # the same carrying over as in the test of parity
from peers import (  # noqa: E402
    PointMass,
    actor_pieces,
    critic_pieces,
    epoch_orders,
    from_rollout_buffer,
    from_sb3,
    vector,
)

FOLDER, ROWS, EPOCHS, SEED = ROOT / "results" / "details", 256, 10, 5
SPREAD = torch.tensor([-0.2, 0.1, -0.5, 0.3])


def collected(algorithm: Any, **options: Any) -> tuple[Any, ActorCritic, Buffer]:
    """An SB3 model with one filled rollout buffer, and our copies of its policy and of its data."""
    torch.manual_seed(1)
    model = algorithm("MlpPolicy", PointMass(), n_steps=ROWS, seed=3, device="cpu", **options)
    with torch.no_grad():
        model.policy.log_std.copy_(SPREAD)
    _, callback = model._setup_learn(ROWS)
    callback.on_training_start(locals(), globals())
    model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=ROWS)
    ours = from_sb3(model.policy)
    ours.compute = "reference"
    return model, ours, from_rollout_buffer(model.rollout_buffer, ours)


@contextlib.contextmanager
def fixed_orders(orders: list[Tensor]) -> Iterator[None]:
    remaining = iter(orders)
    with mock.patch.object(proximal, "permuted", lambda rows, *_: next(remaining).unsqueeze(0)):
        yield


def biased(advantage: Tensor) -> Tensor:
    """Advantages scaled by the standard deviation with ddof 0."""
    centred = advantage - advantage.mean(-1, keepdim=True)
    return centred / (advantage.std(-1, keepdim=True, correction=0) + 1e-8)


def minimum_of_means(ratio: Tensor, advantage: Tensor, clip_range: Any) -> Tensor:
    plain, clipped = ratio * advantage, ratio.clamp(1.0 - clip_range, 1.0 + clip_range) * advantage
    return torch.minimum(plain.mean(-1), clipped.mean(-1))


def of_networks_apart(size: int, gradient: Tensor, norm: float) -> Tensor:
    """The gradient [1, P] with actor (`size` columns) and critic scaled down each by its own norm."""
    parts = [gradient[:, :size], gradient[:, size:]]
    lengths = [torch.linalg.vector_norm(part, dim=1, keepdim=True) for part in parts]
    return torch.cat([p * (norm / (x + 1e-6)).clamp(max=1.0) for p, x in zip(parts, lengths, strict=True)], 1)


def ppo_details() -> list[dict[str, Any]]:
    model, start, buffer = collected(PPO, n_epochs=EPOCHS)
    orders = epoch_orders(SEED, ROWS, EPOCHS)
    np.random.seed(SEED)  # noqa: NPY002 (SB3 draws its order from the global state)
    model.train()
    theirs = vector(actor_pieces(model.policy) + critic_pieces(model.policy))
    whole = replace(buffer, advantage=trust_region.normalized(buffer.advantage))
    apart = functools.partial(of_networks_apart, start.actor_size)
    squeezed = replace(buffer, action=buffer.action.clamp(-1.0, 1.0))
    cases: dict[str, dict[str, Any]] = {
        "as it is": {},
        "adam_eps": {"eps": 1e-8},
        "gradient_norm": {"patch": ("clip_rows", apart)},
        "value_half": {"config": {"value_coefficient": 2.0}},
        "advantage_batch": {"config": {"normalize_advantage": False}, "buffer": whole},
        "advantage_ddof": {"patch": ("normalized", biased)},
        "clipped_actions": {"buffer": squeezed},
        "minibatch_order": {"orders": [orders[0]] * EPOCHS},
        "minimum_of_means": {"patch": ("clipped_objective", minimum_of_means)},
    }
    return [ppo_row(name, start, buffer, theirs, orders, **case) for name, case in cases.items()]


def ppo_row(
    name: str,
    start: ActorCritic,
    own: Buffer,
    theirs: Tensor,
    own_orders: list[Tensor],
    eps: float = 1e-5,
    config: dict[str, Any] | None = None,
    buffer: Buffer | None = None,
    orders: list[Tensor] | None = None,
    patch: tuple[str, Callable[..., Tensor]] | None = None,
) -> dict[str, Any]:
    learner = copied(start)
    settings = ProximalConfig(epochs=EPOCHS, **(config or {}))
    patched = mock.patch.object(proximal, *patch) if patch else contextlib.nullcontext()
    with fixed_orders(orders or own_orders), patched:
        adam = Adam(learner.theta, settings.learning_rate, eps=eps)
        proximal_update(learner, adam, own if buffer is None else buffer, settings, [torch.Generator()])
    return row(name, learner, start, theirs, own)


def copied(policy: ActorCritic) -> ActorCritic:
    """A policy with the same networks in memory of its own."""
    twin = ActorCritic(policy.actor_widths[0], policy.action_dim, 1, [torch.Generator().manual_seed(0)])
    twin.theta, twin.compute = policy.theta.clone(), "reference"
    return twin


def row(
    name: str, learner: ActorCritic, start: ActorCritic, theirs: Tensor, buffer: Buffer
) -> dict[str, Any]:
    """Largest difference to the peer's parameters, largest movement of the peer, KL of ours."""
    size = theirs.numel()
    with torch.no_grad():
        kl = float(mean_kl(buffer.behaviour, learner.distribution(buffer.obs)))
    return {
        "detail": name,
        "apart": float((learner.theta[0, :size] - theirs).abs().max()),
        "moved": float((theirs - start.theta[0, :size]).abs().max()),
        "kl": kl,
    }


def trpo_details() -> list[dict[str, Any]]:
    model, start, buffer = collected(TRPO, n_critic_updates=0)
    noise = cg_noise(model)
    torch.manual_seed(9)
    model.train()
    theirs = vector(actor_pieces(model.policy))
    as_theirs = TrustRegionConfig(kl_reduction="mean_over_actions", kl_direction="new_old")
    cases: dict[str, tuple[TrustRegionConfig, Buffer, Tensor | None]] = {
        "as theirs": (as_theirs, buffer, noise),
        "kl_sum": (replace(as_theirs, kl_reduction="sum"), buffer, noise),
        "kl_direction": (replace(as_theirs, kl_direction="old_new"), buffer, noise),
        "cg_start": (as_theirs, buffer, None),
        "cg_iterations": (replace(as_theirs, cg_iterations=5), buffer, noise),
        "damping": (replace(as_theirs, damping=1e-3), buffer, noise),
        "advantage_scale": (as_theirs, replace(buffer, advantage=10.0 * buffer.advantage), noise),
    }
    return [trpo_row(name, start, theirs, *case) for name, case in cases.items()] + [
        uncentred(start, theirs, as_theirs, buffer, noise)
    ]


def cg_noise(model: Any) -> Tensor:
    """Where sb3-contrib starts its conjugate gradients, in twinlib's order of parameters [1, P_actor]."""
    torch.manual_seed(9)
    pieces = [p for name, p in model.policy.named_parameters() if "value" not in name]
    noise = 1e-4 * torch.randn(sum(p.numel() for p in pieces))
    parts = dict(zip(map(id, pieces), torch.split(noise, [p.numel() for p in pieces]), strict=True))
    return vector([parts[id(p)].view(p.shape) for p in actor_pieces(model.policy)]).unsqueeze(0)


def trpo_row(
    name: str,
    start: ActorCritic,
    theirs: Tensor,
    config: TrustRegionConfig,
    buffer: Buffer,
    noise: Tensor | None,
) -> dict[str, Any]:
    learner = copied(start)
    trust_region_update(learner, buffer, config, cg_start=noise)
    return row(name, learner, start, theirs, buffer)


def uncentred(
    start: ActorCritic, theirs: Tensor, config: TrustRegionConfig, buffer: Buffer, noise: Tensor
) -> dict[str, Any]:
    """Advantages as they come, neither centred nor scaled."""
    with mock.patch.object(trust_region, "normalized", lambda advantage: advantage):
        return trpo_row("advantage_raw", start, theirs, config, buffer, noise)


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, rows in (("ppo", ppo_details()), ("trpo", trpo_details())):
        table = pd.DataFrame(rows)
        write_table(FOLDER / f"{name}.csv", table)
        print(f"{name}, {ROWS} rows\n{table.to_string(index=False)}")
    made = {
        "command": "python benchmarks/implementation_details.py",
        "task": "PointMass of tests/policy/peers.py: 5 observations, 4 actions",
        "rows": ROWS,
        "ppo_epochs": EPOCHS,
        "versions": versions()
        | {name: importlib.metadata.version(name) for name in ("stable_baselines3", "sb3_contrib")},
    }
    write_json(FOLDER / "manifest.json", made)


if __name__ == "__main__":
    main()

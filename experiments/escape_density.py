"""Escaping in the landscape of real cells: the same algorithms where no optimum is known."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.part import Row
from twinlib.environment.assembly import make_world
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.packaged import packaged_world
from twinlib.environment.world import World
from twinlib.errors import WorldError
from twinlib.policy.actor_critic import ActorCritic
from twinlib.policy.algorithms import ALGORITHMS
from twinlib.policy.proximal import ProximalConfig
from twinlib.policy.training import TrainingConfig, make_generators, train
from twinlib.policy.trust_region import TrustRegionConfig

#: Algorithms that are compared, after doing nothing.
DENSITY_ALGORITHMS = ("do_nothing", *ALGORITHMS)
#: The environment whose cells slide towards where cells are dense.
DRIFTING = EnvironmentConfig(drift="density")


@dataclass(frozen=True)
class DensityDesign:
    """The comparison on cells with `drift="density"`; the defaults are the committed run."""

    #: Real cells, or the simulated ones where those cannot be had.
    dataset: str = "papalexi2021"
    #: Environment steps of each run, and its seeds.
    timesteps: int = 20_000
    seeds: int = 5
    #: Matched cells of the world.
    pairs: int = 2000
    #: Cells by which a final policy is judged: those whose match lies in another basin.
    judged: int = 300


@functools.lru_cache(maxsize=1)
def density_world(dataset: str, pairs: int) -> tuple[World, Tensor]:
    """A world with its density, and the encoded matches [m, D] of its cells."""
    from twinlib.data.preparation import standard
    from twinlib.embedding.train import pretrained

    embedding = pretrained(dataset)
    if dataset == "waddington":
        world = packaged_world()
    else:
        world = make_world(standard(dataset), embedding, n_pairs=pairs, density=True)
    with torch.no_grad():
        parts = [embedding.encode(world.scale(part)) for part in torch.split(world.y, 64)]
    return world, torch.cat(parts)


def density_config(algorithm: str, design: DensityDesign) -> TrainingConfig:
    """The described protocol's networks and noise, with one step size for all."""
    proximal = ProximalConfig(minibatch_size=256)
    return TrainingConfig(
        algorithm=algorithm,
        timesteps=design.timesteps,
        warm_start_steps=design.timesteps // 6,
        log_std=-1.0,
        proximal=proximal,
        fine_tuning=dataclasses.replace(proximal, beta=0.1),
        trust_region=TrustRegionConfig(delta=0.05),
    )


def density_rows(algorithm: str, design: DensityDesign) -> list[Row]:
    """Train one algorithm on all seeds and judge where its cells end; one row a seed."""
    world, goal = density_world(design.dataset, design.pairs)
    density = world.density
    if density is None:
        raise WorldError(f"The world of {design.dataset} has no density: make it with density=True.")
    seeds = list(range(design.seeds))
    policy = None
    if algorithm != "do_nothing":
        dynamics = Dynamics(world, DRIFTING, len(seeds), 64)
        policy, _ = train(dynamics, density_config(algorithm, design), seeds)
    home, aim = density.component(world.z0), density.component(goal)
    chosen = torch.nonzero(home != aim).squeeze(-1)[: design.judged]
    final, total = _final_states(world, policy, seeds, chosen)
    end = density.component(final)
    rates = {
        "left": (end != home[chosen]).float().mean(1),
        "arrived": (end == aim[chosen]).float().mean(1),
        "return": total.mean(1),
    }
    values = {name: np.asarray(rate, dtype=float) for name, rate in rates.items()}
    head: Row = {"dataset": design.dataset, "algorithm": algorithm}
    return [
        head
        | {"seed": seed, "cells": len(chosen)}
        | {name: float(value[r]) for name, value in values.items()}
        for r, seed in enumerate(seeds)
    ]


def _final_states(
    world: World, policy: ActorCritic | None, seeds: Sequence[int], chosen: Tensor
) -> tuple[Tensor, Tensor]:
    """Final latent states [R, m, D] and returns [R, m] of m chosen cells: mean action, no noise."""
    quiet = Dynamics(world, DRIFTING.quiet(), len(seeds), len(chosen))
    obs = quiet.reset(make_generators(seeds, "environment"), cells=chosen)
    total = torch.zeros(len(seeds), len(chosen))
    for _ in range(quiet.horizon):
        action = torch.zeros(*obs.shape[:2], quiet.action_dim) if policy is None else policy.act(obs)
        step = quiet.step(action)
        total, obs = total + step.reward, step.obs
    return quiet.final_latent, total

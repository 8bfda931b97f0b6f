"""The released protocol: what the paper's public code computes, row by row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from experiments import released_pipeline as pipeline
from experiments.experiment import Scratch
from experiments.part import Part, Row
from experiments.replication import Replication, name_of
from twinlib.evaluation import metrics, similarity

if TYPE_CHECKING:
    from anndata import AnnData

    from experiments.folder import Parts
    from experiments.released_world import ReleasedWorld
    from twinlib.policy.actor_critic import ActorCritic
    from twinlib.policy.training import TrainingConfig, TrainingResult

Array = NDArray[Any]

#: Deterministic rollouts that Tables 1, 4 and 7 are taken from, and those of the mean trajectory.
ROLLOUTS, PATH_ROLLOUTS = 1_500, 128
#: Rows that are trained once more on data logged once.
SINGLE_LOG = ("PPO", "TRPO_PPO_zero_target")


def training_settings(algorithm: str, timesteps: int, actions: int) -> TrainingConfig:
    """Return the released settings: the defaults of Stable-Baselines3, and what a row changes.

    Second stages use minibatches of 256 and stop an update when the k3 estimate exceeds 1.5 x target_kl, with
    target_kl = 0 (`zero_target`: the look-up that finds nothing), 1.5 x TRPO's KL averaged over actions as
    sb3-contrib logs it (`mended_logged`), or 1.5 x Eq. 4's KL (`mended_kl`).
    """
    from twinlib.policy.proximal import ProximalConfig
    from twinlib.policy.training import TrainingConfig
    from twinlib.policy.trust_region import TrustRegionConfig

    second = ProximalConfig(minibatch_size=256, stop_estimate="k3")
    if algorithm == "TRPO_PPO_zero_target":
        second = replace(second, target_kl=0.0)
    plain = algorithm in ("PPO", "TRPO")
    return TrainingConfig(
        algorithm=algorithm if plain else "two_stage",
        timesteps=timesteps,
        trust_region=TrustRegionConfig(kl_reduction="mean_over_actions", kl_direction="new_old"),
        fine_tuning=second,
        hand_over_scale=1.5 / actions if algorithm == "TRPO_PPO_mended_logged" else 1.5,
    )


@dataclass(frozen=True)
class Released(Replication):
    """The released pipeline, its environments, and every row of its tables."""

    name = "released"
    ALGORITHMS: ClassVar = (
        "PPO",
        "TRPO",
        "TRPO_PPO_zero_target",
        "TRPO_PPO_mended_logged",
        "TRPO_PPO_mended_kl",
    )

    def parts(self, finished: Parts) -> Sequence[str]:
        """No part reads another's files."""
        single = (f"{name}@log1" for name in SINGLE_LOG if name in self.chosen)
        return ("references", *self.blocks((*self.chosen, *single)))

    def _about(self) -> Row:
        """Facts for the manifest."""
        d = self.made(True)
        sizes = {name: len(getattr(d.fused, name)) for name in vars(d.fused)}
        return {
            "dataset": self.dataset,
            "data_hash": str(self.cells.uns["twinlib"]["data_hash"]),
            "pipeline": asdict(self.settings),
            "genes": len(d.genes),
            "cells": sizes,
            "action_scale": round(d.action_scale, 6),
            "control_target_distance": self._distances(),
        }

    def _distances(self) -> dict[str, float]:
        """Distances that place the two targets: how far each is from the mean control."""
        mean = self.made(True).fused.control_train.mean(axis=0)
        worlds = {split: self.world(split, True) for split in ("train", "test")}
        return {s: round(float(np.linalg.norm(w.target.numpy() - mean)), 4) for s, w in worlds.items()}

    # -- data and worlds -------------------------------------------------------------------------------------
    @cached_property
    def cells(self) -> AnnData:
        """The cells."""
        from twinlib.data.sources import load

        return load(self.dataset)

    @property
    def settings(self) -> pipeline.PipelineConfig:
        """The settings of the pipeline."""
        from twinlib.data.sources import dataset

        entry = dataset(self.dataset)
        return pipeline.PipelineConfig(n_top_genes=entry.released_panel or entry.panel)

    @cached_property
    def cytokine(self) -> bool:
        """Is anything perturbed by a cytokine? Then actions are not penalised by their absolute value."""
        return bool((self.cells.obs["perturbation_type"].astype(str) == "cytokine").any())

    @cached_property
    def _made(self) -> dict[bool, pipeline.ReleasedData]:
        return {}

    def made(self, log_twice: bool) -> pipeline.ReleasedData:
        """The pipeline's result, on data logged twice (as the paper's were) or once."""
        if log_twice not in self._made:
            settings = replace(self.settings, log_twice=log_twice)
            self._made[log_twice] = pipeline.released_data(self.cells, settings)
        return self._made[log_twice]

    def world(self, split: str, log_twice: bool) -> ReleasedWorld:
        """The training world (controls to an arbitrary point) or the test world (to the perturbed mean)."""
        import torch

        from experiments.released_world import ReleasedWorld, control_point, start_weights

        d = self.made(log_twice)
        starts, pseudotime = (getattr(s, f"control_{split}") for s in (d.fused, d.time))
        train = torch.from_numpy(d.fused.control_train)
        target = control_point(train) if split == "train" else torch.from_numpy(d.fused.train.mean(axis=0))
        return ReleasedWorld(
            starts=torch.from_numpy(starts),
            weights=start_weights(torch.from_numpy(pseudotime).float()),
            target=target,
            effects=torch.from_numpy(d.effects).float(),
            action_scale=d.action_scale,
            l1=0.0 if self.cytokine else 0.05,
        )

    # -- parts -----------------------------------------------------------------------------------------------
    def compute(self, part: str, scratch: Scratch) -> Part:
        """Compute one part."""
        if part == "references":
            return self._references()
        algorithm, _, single = name_of(part).partition("@")
        return self._trained(part, algorithm, not single, list(self.seeds_of(part)), scratch)

    def _references(self) -> Part:
        """Score the experimental twin, doing nothing, and policies as they are initialised."""
        from twinlib.policy.actor_critic import ActorCritic
        from twinlib.policy.training import make_generators

        d = self.made(True)
        head = {
            "System": "experimental",
            "Algorithm": "experimental",
            "Seed": 0,
            "space": "latent",
            "logs": 2,
        }
        regression: list[Row] = [
            head | {"Split": split} | metrics.regression_metrics(*pair) for split, pair in d.twin.items()
        ]
        actions, seeds = len(d.effects), list(range(self.seeds))
        fresh = ActorCritic(pipeline.LATENT, actions, len(seeds), make_generators(seeds, "weights"))
        similar: list[Row] = []
        for name, means in (("do_nothing", None), ("untrained", fresh)):
            rows = self.rows(name, means, True, seeds if means is not None else [0])
            regression, similar = regression + rows[0], similar + rows[1]
        return Part({"regression": regression, "similarity": similar}, run=self._about())

    def _trained(
        self, part: str, algorithm: str, log_twice: bool, seeds: list[int], scratch: Scratch
    ) -> Part:
        """Train one row on its seeds side by side; an episode is one step: 2,048 cells are one rollout."""
        from experiments.released_world import ReleasedDynamics
        from twinlib.policy.training import train

        world = self.world("train", log_twice)
        settings = training_settings(algorithm, self.timesteps, len(world.effects))
        dynamics = ReleasedDynamics(world, len(seeds), settings.steps_per_iteration)
        checkpoint, started = scratch.folder / f"{part}.checkpoint", time.perf_counter()
        result = train(dynamics, settings, seeds, progress=scratch.progress, checkpoint=checkpoint)
        wall = time.perf_counter() - started
        regression, similar = self.rows(algorithm, result.policy, log_twice, seeds)
        regression = [row | _learning(result, row["Seed"]) for row in regression]
        history = result.history.assign(logs=2 if log_twice else 1, Algorithm=name_of(part))
        facts = {"training_s": round(wall, 1)}
        return Part({"regression": regression, "similarity": similar, "history": history}, facts)

    def rows(
        self, name: str, policy: ActorCritic | None, log_twice: bool, seeds: list[int]
    ) -> tuple[list[Row], list[Row]]:
        """Return the rows of Tables 1, 4, 7 and 3, 6, 9 of one policy (None: zero actions)."""
        head = {"System": "insilico", "Algorithm": name, "logs": 2 if log_twice else 1}
        regression: list[Row] = []
        similar: list[Row] = []
        for split in ("train", "test"):
            world = self.world(split, log_twice)
            for seed, (start, end, reward) in zip(seeds, _rollouts(world, policy, ROLLOUTS), strict=True):
                row: Row = head | {"Seed": seed, "Split": split.capitalize(), "space": "latent"}
                row |= metrics.regression_metrics(start, end)  # the released code's 'truth' is the start
                gap = np.linalg.norm(end - world.target.numpy(), axis=1).mean()
                row |= {"reward": reward, "distance_to_target": float(gap)}
                regression.append(row)
            if split == "test":
                paths = _rollouts(world, policy, PATH_ROLLOUTS)
                for seed, (start, end, _) in zip(seeds, paths, strict=True):
                    mean = np.stack([start.mean(axis=0), end.mean(axis=0)])
                    similar += [head | {"Seed": seed} | row for row in self._similarity(mean, log_twice)]
        return regression, similar

    def _similarity(self, path: Array, log_twice: bool) -> list[Row]:
        """Return Tables 3, 6 and 9: both rows are distances of the same simulated path of two points."""
        d, rows = self.made(log_twice), []
        for system, parts in (
            ("Insilico", ("control_train", "control_test")),
            ("Experimental", ("train", "test")),
        ):
            states, times = (np.concatenate([getattr(s, p) for p in parts]) for s in (d.fused, d.time))
            real = states[[times.argmin(), times.argmax()]]
            a, b = path.T.astype(np.float64), real.T.astype(np.float64)
            row = {"Against": system, "Perturbation": "all", "dtw": similarity.dtw_distances(a, b).mean()}
            row |= {"mean_absolute_difference": similarity.mean_absolute_difference(a, b).mean()}
            rows.append(row | {"w1": similarity.wasserstein_1(a, b).mean()})
        return rows


def _learning(result: TrainingResult, seed: int) -> Row:
    """Return what a seed's training history says: optimizer steps, and reward in its first and last tenth."""
    history = result.history[result.history["seed"] == seed]
    tenth = max(1, len(history) // 10)
    second = history[history["stage"] == "PPO"]
    steps = history["optimizer_steps"].iloc[-1]
    before = history[history["stage"] != "PPO"]["optimizer_steps"].max() if len(second) < len(history) else 0
    return {
        "optimizer_steps": int(steps),
        "second_stage_steps": int(steps - before) if len(second) else 0,
        "second_stage_updates": len(second),
        "reward_first_tenth": float(history["reward"].head(tenth).mean()),
        "reward_last_tenth": float(history["reward"].tail(tenth).mean()),
    }


def _rollouts(
    world: ReleasedWorld, policy: ActorCritic | None, n: int, seed: int = 0
) -> list[tuple[Array, Array, float]]:
    """Return start [n, D], end [n, D] and mean reward of deterministic rollouts, one entry a replica.

    Every replica starts at the same cells, drawn by their weights.
    """
    import torch

    from experiments.released_world import ReleasedDynamics

    generator = torch.Generator().manual_seed(seed)
    cells = torch.multinomial(world.weights, n, replacement=True, generator=generator)
    replicas = 1 if policy is None else policy.theta.shape[0]
    dynamics = ReleasedDynamics(world, replicas, n)
    obs = dynamics.reset([torch.Generator().manual_seed(seed) for _ in range(replicas)], cells=cells)
    with torch.no_grad():
        action = torch.zeros(1, n, dynamics.action_dim) if policy is None else policy.act(obs)
        step = dynamics.step(action)
    return [
        (
            obs[r].numpy().astype(np.float64),
            step.final_obs[r].numpy().astype(np.float64),
            float(step.reward[r].mean()),
        )
        for r in range(replicas)
    ]

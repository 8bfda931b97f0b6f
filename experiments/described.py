"""The described protocol: what the paper's text says, on any prepared dataset."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from experiments import courses as paths
from experiments.experiment import Scratch, at_least_one, option
from experiments.part import Part, Row
from experiments.replication import Replication, name_of
from experiments.settings import Choice, choice, training_settings
from twinlib.evaluation import questions
from twinlib.policy import algorithms

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from experiments.folder import Parts
    from twinlib.data.pairing import Pairs
    from twinlib.data.preparation import Prepared
    from twinlib.embedding.attention import Embedding
    from twinlib.environment.dynamics import EnvironmentConfig
    from twinlib.environment.world import World
    from twinlib.experimental.perturbation_model import PerturbationModel
    from twinlib.policy.training import TrainingConfig, TrainingResult

Array = NDArray[Any]

#: Baselines of every table, in its order; `linear` reaches only perturbations whose target is measured.
BASELINES = ("mean", "matching_mean", "additive", "linear", "latent_shift")
#: File in which the experimental twin's mean paths wait for the parts that are measured against them.
EXPERIMENTAL_PATHS = "experimental_paths.npz"
#: Training controls on which the population metrics of the train rows are taken.
TRAIN_CONTROLS = 128


class Mean:
    """A policy whose mean action is zero, or with a seed a uniform draw."""

    replicas = 1

    def __init__(self, action_dim: int, seed: int | None = None) -> None:
        import torch

        self.action_dim = action_dim
        self.generator: Generator | None = None if seed is None else torch.Generator().manual_seed(seed)

    def act(self, observation: Any, generators: Any = None) -> Any:
        """Return the action [..., A] for observations [..., O]."""
        import torch

        shape = (*observation.shape[:-1], self.action_dim)
        if self.generator is None:
            return torch.zeros(shape)
        return 2.0 * torch.rand(shape, generator=self.generator) - 1.0


class Remembered:
    """An embedding that encodes a block of cells once: every row of a table asks for the same controls."""

    def __init__(self, embedding: Embedding) -> None:
        self.embedding = embedding
        self.known: dict[bytes, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.embedding, name)

    def encode(self, x: Tensor) -> Tensor:
        """Return the latent cells [..., D] of scaled cells [..., G], remembered without gradients."""
        import hashlib

        import torch

        if torch.is_grad_enabled():
            return self.embedding.encode(x)
        key = hashlib.sha1(x.contiguous().numpy().tobytes()).digest() + str(tuple(x.shape)).encode()
        if key not in self.known:
            self.known[key] = self.embedding.encode(x)
        return self.known[key]


@dataclass(frozen=True)
class Described(Replication):
    """Both twins, every baseline and reference on the train and test cells of one dataset."""

    name = "described"
    #: Each needs a tuning of its own, which PPO_KL did not have.
    ALGORITHMS: ClassVar = tuple(name for name in algorithms.ALGORITHMS if name != "PPO_KL")

    n_cells: int = option(64, "cells stepped side by side for each seed")
    resamples: int = option(100, "bootstrap draws of every twin score")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "n_cells", "resamples")
        _ = self.choices, self.embedding  # a missing row or checkpoint stops the run before it costs

    def parts(self, finished: Parts) -> Sequence[str]:
        """Trained parts measure their paths against those of the experimental twin's first block."""
        first = ("references", *self.blocks(["experimental"]))
        return (*first, *self.blocks(self.chosen)) if first[1] in finished else first

    def compute(self, part: str, scratch: Scratch) -> Part:
        """Compute one part."""
        name, seeds = name_of(part), self.seeds_of(part)
        if name == "references":
            return self._references()
        if name == "experimental":
            return self._experimental(seeds, scratch)
        return self._trained(part, name, seeds, scratch)

    def _about(self) -> Row:
        """Facts for the manifest."""
        p = self.prepared
        return {
            "dataset": p.dataset,
            "data_hash": p.data_hash,
            "fingerprint": p.fingerprint,
            "split": p.split,
            "panel_rule": p.panel_rule,
            "genes": len(p.genes),
            "cells": {s: len(p.rows(s)) for s in ("train", "test")},
            "test_controls": len(p.rows("test", "control")),
            "scored_perturbations": {s: list(q.labels) for s, q in self.asked.items()},
            "actions": self.actions,
            "choices": {name: asdict(chosen) for name, chosen in self.choices.items()},
            "environment": {name: asdict(self.environment(name)) for name in self.chosen},
            "training": {name: asdict(self.training(name)) for name in self.chosen},
        }

    # -- what is shared by the parts ---------------------------------------------------------------------
    @cached_property
    def choices(self) -> dict[str, Choice]:
        """The tuned choice by algorithm."""
        return {name: choice(self.dataset, name) for name in self.chosen}

    @cached_property
    def prepared(self) -> Prepared:
        """The cells."""
        from twinlib.data.preparation import standard

        prepared = standard(self.dataset)
        self.embedding.require(prepared)
        return prepared

    @cached_property
    def embedding(self) -> Remembered:
        """The packaged embedding."""
        from twinlib.embedding.train import pretrained

        return Remembered(pretrained(self.dataset))

    @cached_property
    def asked(self) -> dict[str, questions.Questions]:
        """The questions of both splits."""
        return {
            "test": questions.ask(self.prepared, "test"),
            "train": questions.ask(
                self.prepared, "train", max_controls=TRAIN_CONTROLS, matched=self.train_pairs
            ),
        }

    @cached_property
    def train_pairs(self) -> Pairs:
        """The optimal-transport pairs of the training cells, for the questions and for the world."""
        from twinlib.data.pairing import pair

        return pair(self.prepared, split="train")

    @cached_property
    def courses(self) -> dict[str, paths.Course]:
        """The real course of every scored perturbation."""
        labels = self.asked["test"].labels
        return paths.real_courses(
            self.prepared, self.embedding, labels, self.horizon, resamples=self.resamples
        )

    @cached_property
    def no_change(self) -> dict[tuple[str, ...], dict[tuple[str, str], Row]]:
        """Rows of no_change by the set of labels, then by split and space (filled as needed)."""
        return {}

    @cached_property
    def world(self) -> World:
        """The world of the training cells."""
        from twinlib.environment.assembly import make_world

        return make_world(
            self.prepared, self.embedding.embedding, pairs=self.train_pairs, actions=self.actions
        )

    @property
    def actions(self) -> str:
        """What a policy adjusts: genes; doses where every perturbation is a cytokine; both where some are."""
        kinds = set(self.prepared.cells.obs["perturbation_type"].astype(str)) - {"control"}
        if "cytokine" not in kinds:
            return "genes"
        return "cytokines" if kinds == {"cytokine"} else "both"

    @cached_property
    def plain_environment(self) -> EnvironmentConfig:
        """The environment's own settings, with the action scale fixed from the whole training world.

        Doses have a unit of their own (`cytokine_scale`), so a world without gene actions has no such scale.
        """
        from twinlib.environment.dynamics import EnvironmentConfig

        plain = EnvironmentConfig()
        if self.actions == "cytokines":
            return plain
        return replace(plain, action_scale=self.world.action_scale(plain.horizon))

    def environment(self, algorithm: str | None) -> EnvironmentConfig:
        """The environment an algorithm is trained and scored in: its tuned multiple of the own action scale.

        None gives the environment's own scale. The dose of a cytokine is never scaled: it was not tuned.
        """
        own = self.plain_environment
        if algorithm is None or own.action_scale is None:
            return own
        return replace(own, action_scale=self.choices[algorithm].scale * own.action_scale)

    def training(self, algorithm: str) -> TrainingConfig:
        """The training settings of an algorithm, with its tuned step size."""
        return training_settings(algorithm, self.timesteps, self.choices[algorithm])

    @cached_property
    def small_world(self) -> World:
        """The same world with few stored cells, for rollouts of given cells: they bring their own starts."""
        return replace(self.world.rows(slice(0, 64)), embedding=cast("Embedding", self.embedding))

    @property
    def horizon(self) -> int:
        """H of the environment and of every trajectory."""
        from twinlib.environment.dynamics import EnvironmentConfig

        return EnvironmentConfig().horizon

    # -- rows --------------------------------------------------------------------------------------------
    def rows(
        self,
        predictor: questions.Predictor,
        head: Row,
        labels: Sequence[str] | None = None,
        first_seed: int = 0,
    ) -> list[Row]:
        """Score a predictor on both splits: one row a replica, split and space, with its skill."""
        rows = []
        for split, whole in self.asked.items():
            asked = whole if labels is None else whole.only(labels)
            for seed, spaces in enumerate(questions.score(predictor, asked), start=first_seed):
                for row in spaces:
                    base = self._baseline_row(asked, split, row["space"])
                    rows.append(head | {"Seed": seed} | questions.with_skill(row, base))
        return rows

    def _baseline_row(self, asked: questions.Questions, split: str, space: str) -> Row:
        """Return the row of no_change on the same questions."""
        known = self.no_change.setdefault((split, *asked.labels), {})
        if not known:
            rows = questions.score(questions.no_change, asked)[0]
            known.update({(split, row["space"]): row for row in rows})
        return known[split, space]

    def _references(self) -> Part:
        """Score no_change, do_nothing through the environment, random actions, the baselines, the ceiling."""
        regression = self.rows(questions.no_change, {"System": "reference", "Algorithm": "no_change"})
        for name in BASELINES:
            regression += self._baseline_rows(name)
        regression += self._ceiling_rows()
        similarity = paths.reference_rows(self.courses)
        for name, policy in self._plain_policies().items():
            head = {"System": "insilico", "Algorithm": name}
            settings = self.environment(None)
            regression += self.rows(self.predictor(policy, settings), head)
            if name == "random":
                similarity += paths.twin_rows(self.courses, self.paths(policy, settings), [0], head)
        return Part({"regression": regression, "similarity": similarity}, run=self._about())

    def _plain_policies(self) -> dict[str, Mean]:
        actions = len(self.world.action_names)
        return {"do_nothing": Mean(actions), "random": Mean(actions, seed=0)}

    def _baseline_rows(self, name: str) -> list[Row]:
        """Fit and score a baseline on the labels that it can reach; no row where it cannot be fitted."""
        from twinlib.errors import DataError
        from twinlib.experimental.baselines import BASELINES as FIT

        labels = self._reached() if name == "linear" else None
        if labels == ():
            return []
        try:
            fitted = FIT[name](self.prepared, self.embedding)
        except DataError:
            if name != "linear":
                raise
            return []  # too few measured targets
        return self.rows(questions.one(fitted), {"System": "baseline", "Algorithm": name}, labels)

    def _reached(self) -> tuple[str, ...]:
        """Return the scored perturbations whose targets are all measured."""
        from twinlib.data.schema import parts

        measured = set(self.prepared.measured)
        return tuple(label for label in self.asked["test"].labels if set(parts(label)) <= measured)

    def _ceiling_rows(self) -> list[Row]:
        """Return the technical duplicate: one half of the real test cells against the other."""
        from twinlib.experimental.baselines import ceiling

        asked, scores = self.asked["test"], []
        for name in asked.labels:
            guess, truth = ceiling(self.prepared, name, seed=0)
            scores.append(questions.population_metrics(truth, guess, None, asked.reference))
        row: Row = {"System": "reference", "Algorithm": "ceiling", "Seed": 0, "Split": "Test"}
        row |= {"space": "log1p", "perturbations": len(asked.labels)}
        row |= {n: float(np.mean([s[n] for s in scores])) for n in scores[0]}
        return [questions.with_skill(row, self._baseline_row(asked, "test", "log1p"))]

    def _experimental(self, seeds: Sequence[int], scratch: Scratch) -> Part:
        """Fit and score the experimental twin, one fit a seed; keep its mean paths for the in-silico rows."""
        from twinlib.experimental.perturbation_model import fit_perturbation_model

        regression, similarity = [], []
        head = {"System": "experimental", "Algorithm": "experimental"}
        for seed in seeds:
            model = fit_perturbation_model(self.prepared, self.embedding, seed=seed)
            regression += [row | {"Seed": seed} for row in self.rows(questions.one(model), head)]
            track = self._model_paths(model)
            similarity += paths.twin_rows(self.courses, track, [seed], head)
            if seed == 0:
                np.savez(scratch.folder / EXPERIMENTAL_PATHS, **{n: track(n)[0] for n in self.courses})
                shuffled = {"System": "experimental", "Algorithm": "experimental_shuffled"}
                similarity += paths.shuffled_rows(self.courses, track, shuffled)
        return Part({"regression": regression, "similarity": similarity})

    def _model_paths(self, model: PerturbationModel) -> paths.Paths:
        """Return the mean latent path [1, H + 1, D] of the experimental twin over the test controls."""
        controls = self.asked["test"].controls

        def track(name: str) -> Array:
            path = model.trajectory(controls, [name] * len(controls), self.horizon)
            return np.asarray(path, dtype=np.float64).mean(axis=0)[None]

        return track

    # -- policies ----------------------------------------------------------------------------------------
    def predictor(self, policy: Any, settings: EnvironmentConfig) -> questions.Predictor:
        """Return a policy's predictions in its environment: mean action, process noise and kick off."""
        from twinlib.environment.prediction import predict

        return lambda x, labels: predict(policy, self.small_world, settings, x, list(labels))

    def paths(self, policy: Any, settings: EnvironmentConfig) -> paths.Paths:
        """Return the mean latent paths [R, H + 1, D] of a policy over the test controls."""
        from twinlib.environment.prediction import rollout_cells

        controls = self.asked["test"].controls

        def track(name: str) -> Array:
            path = rollout_cells(policy, self.small_world, settings, controls, [name] * len(controls))
            return path.mean(dim=1).double().numpy()

        return track

    def _trained(self, part: str, algorithm: str, seeds: Sequence[int], scratch: Scratch) -> Part:
        """Train an algorithm on its seeds side by side, score it, and measure its paths."""
        result, wall = self._train(part, algorithm, seeds, scratch)
        head, settings = {"System": "insilico", "Algorithm": algorithm}, self.environment(algorithm)
        last = result.history.groupby("seed").tail(1).set_index("seed")
        regression = [
            row | {"optimizer_steps": int(last["optimizer_steps"][row["Seed"]])}
            for row in self.rows(self.predictor(result.policy, settings), head, first_seed=seeds[0])
        ]
        with np.load(scratch.folder / EXPERIMENTAL_PATHS) as other:
            twins = {name: other[name] for name in other.files}
        track = self.paths(result.policy, settings)
        similarity = paths.twin_rows(self.courses, track, list(seeds), head, twins)
        if algorithm == "two_stage" and seeds[0] == 0:
            shuffled = {"System": "insilico", "Algorithm": "two_stage_shuffled"}
            similarity += paths.shuffled_rows(self.courses, track, shuffled)
        history = result.history.assign(Algorithm=algorithm)
        facts = {"training_s": round(wall, 1), "steps_per_s": round(self.timesteps * len(seeds) / wall, 1)}
        return Part({"regression": regression, "similarity": similarity, "history": history}, facts)

    def _train(
        self, part: str, algorithm: str, seeds: Sequence[int], scratch: Scratch
    ) -> tuple[TrainingResult, float]:
        """Train, or continue training; return the result and the seconds this process spent on it."""
        from twinlib.environment.dynamics import Dynamics
        from twinlib.policy.training import train

        settings, checkpoint = self.environment(algorithm), scratch.folder / f"{part}.checkpoint"
        dynamics = Dynamics(self.world, settings, replicas=len(seeds), n_cells=self.n_cells)
        started = time.perf_counter()
        training = self.training(algorithm)
        result = train(dynamics, training, list(seeds), progress=scratch.progress, checkpoint=checkpoint)
        return result, time.perf_counter() - started

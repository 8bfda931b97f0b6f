"""The question turned round: the label of test cells is hidden, and the twin is asked which one it was.

A policy is trained on the test cells with nothing that tells the label: no kick, and in place of the label's
embedding a random code. Its mean action ranks the genes. The greedy action, the genes' own change, and the
correlation with each label's training change are ranked alike, among the targets that were perturbed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.part import Row
from experiments.policy_runs import CELLS, Place, Trained
from twinlib.environment.assembly import make_world
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.greedy import GreedyLinear
from twinlib.environment.hits import mean_actions, overlap_of_seeds
from twinlib.evaluation.metrics import pearson

if TYPE_CHECKING:
    from twinlib.environment.world import World
    from twinlib.policy.actor_critic import ActorCritic
    from twinlib.policy.contracts import Policy

Array = NDArray[np.floating]

#: Datasets on which it is asked.
HIT_DATASETS = ("waddington", "papalexi2021", "norman2019", "chi11")
#: Genes of a seed whose overlap with other seeds says how stable its answer is.
TOP = 8


@dataclass(frozen=True, eq=False)
class Hidden:
    """Test cells whose label is hidden, in the units of the training world."""

    #: The test cells, with random codes in place of their labels' embeddings.
    world: World
    #: The training cells, whose labels are known.
    training: World
    #: The environment without a kick, which would tell the target.
    config: EnvironmentConfig

    @staticmethod
    def of(place: Place) -> Hidden:
        """Hide the labels of the test cells of a place."""
        test = make_world(place.prepared, place.embedding.embedding, split="test", like=place.world)
        codes = torch.randn(test.conditions.shape, generator=torch.Generator().manual_seed(0))
        columns = slice(test.latent_dim, None)
        scaled = test.units.mean[columns] + test.units.std[columns] * codes
        return Hidden(replace(test, conditions=scaled), place.world, replace(place.config, kick=False))

    def task(self, replicas: int) -> Dynamics:
        """Return the test cells as a task."""
        return Dynamics(self.world, self.config, replicas=replicas, n_cells=CELLS)

    @cached_property
    def candidates(self) -> tuple[str, ...]:
        """The perturbed targets that an action adjusts: one of them made the cells."""
        present = {self.training.labels[i] for i in self.training.label.unique().tolist()}
        return tuple(name for name in self.world.action_names if name in present)

    def asked(self, with_effect: Sequence[str]) -> list[str]:
        """Return the labels that are asked for: candidates with an effect whose test cells are there."""
        present = {self.world.labels[i] for i in self.world.label.unique().tolist()}
        return [name for name in self.candidates if name in with_effect and name in present]

    def places(self, strength: Array, label: str) -> dict[str, int]:
        """Return the rank of a label's target by the strength [A] of all actions, among two sets of names."""
        names = self.world.action_names
        own = strength[names.index(label)]
        among = {"targets": [names.index(name) for name in self.candidates], "panel": range(len(names))}
        return {name: 1 + int((strength[list(rows)] > own).sum()) for name, rows in among.items()}

    def rows(self, model: str, policy: Policy, seeds: Sequence[int], labels: Sequence[str]) -> Iterator[Row]:
        """Yield the rank of each label's target by the mean action of each replica."""
        for label in labels:
            # asked for nothing but its replicas and its actions, as any policy can be
            actions = mean_actions(cast("ActorCritic", policy), self.world, self.config, label).numpy()
            shared = overlap_of_seeds(actions, TOP)
            for seed, action in zip(seeds, actions, strict=True):
                yield from self._ranked(model, label, np.abs(action), seed, {"stability": shared})

    def _ranked(self, model: str, label: str, strength: Array, seed: int, more: Row) -> Iterator[Row]:
        sizes = {"targets": len(self.candidates), "panel": len(self.world.action_names)}
        for among, rank in self.places(strength, label).items():
            head = {"model": model, "seed": seed, "perturbation": label, "among": among}
            yield head | {"rank": rank, "candidates": sizes[among]} | more

    def baselines(self, with_effect: Sequence[str]) -> list[Row]:
        """Return the ranks of the greedy action, of the genes' own change, and of the training changes."""
        labels = self.asked(with_effect)
        rows = list(self.rows("greedy", GreedyLinear(self.world, self.config), [0], labels))
        hidden, known = _changes(self.world), _changes(self.training)
        for label in labels:
            rows += self._own_change(label, hidden[label])
            likeness = {name: pearson(hidden[label], known[name]) for name in self.candidates}
            rank = 1 + sum(value > likeness[label] for value in likeness.values())
            head = {"model": "training_change", "seed": 0, "perturbation": label, "among": "targets"}
            rows.append(head | {"rank": rank, "candidates": len(self.candidates)})
        return rows

    def _own_change(self, label: str, change: Array) -> list[Row]:
        """Rank the genes of the panel by their own change [G]; stimuli are no genes."""
        genes = self.world.action_gene.numpy()
        if (genes < 0).all():
            return []
        strength = np.where(genes >= 0, np.abs(change)[genes], -np.inf)
        return list(self._ranked("own_change", label, strength, 0, {}))


def _changes(world: World) -> dict[str, Array]:
    """Return the mean change [G] of each label in z-scores."""
    changes = (world.mean_changes() / world.std).numpy()
    return dict(zip(world.labels, changes, strict=True))


def hit_rows(
    hidden: Hidden, model: str, trained: Trained, seeds: Sequence[int], with_effect: Sequence[str]
) -> list[Row]:
    """Return the rows of a trained arm; none where nothing was trained."""
    if trained.policy is None:
        return []
    own = [seeds[i] for i in trained.kept]
    return list(hidden.rows(model, trained.policy, own, hidden.asked(with_effect)))

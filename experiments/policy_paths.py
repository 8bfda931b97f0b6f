"""The in-silico twin's paths beside the real trajectories: the rows of Tables 3, 6 and 9 by the common rules.

A policy's path is that of its mean predicted profile, seen in the principal components in which the
experimental twin's paths are judged. The same twin with shuffled labels is asked for another perturbation's
path, another one for each seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.part import Row
from experiments.trajectories import HALVINGS, HORIZON, MIN_CELLS, Fold, Unit
from twinlib.data.schema import CONTROL
from twinlib.environment.prediction import profiles, rollout_cells
from twinlib.evaluation import trajectories as tracks

if TYPE_CHECKING:
    from experiments.policy_runs import Place
    from twinlib.policy.contracts import Policy

Array = NDArray[np.float64]

#: Datasets with several perturbations, so that labels can be shuffled without another training.
PATH_DATASETS = ("papalexi2021", "norman2019", "waddington")
#: Distances that are kept.
DISTANCES = ("dtw", "w1")


@dataclass(frozen=True, eq=False)
class PolicyPaths:
    """Mean paths of a policy on one fold."""

    #: Where the policy was trained.
    place: Place
    #: R replicas.
    policy: Policy
    #: The cells of the same fold, in principal components.
    fold: Fold
    #: Paths by perturbation and context, filled as needed.
    known: dict[Unit, Array] = field(default_factory=dict)

    def of(self, unit: Unit) -> Array:
        """Return the mean path [R, H + 1, D] over the test controls of a context, asked for a label."""
        if unit not in self.known:
            self.known[unit] = self._path(unit)
        return self.known[unit]

    def _path(self, unit: Unit) -> Array:
        controls = self.place.prepared.expression("test", CONTROL, unit.context)
        world, labels = self.place.asked, [unit.perturbation] * len(controls)
        steps = rollout_cells(self.policy, world, self.place.config, controls, labels)
        means = [profiles(world, controls, steps[:, :, 0], z).mean(1) for z in steps.unbind(2)]
        flat = np.stack(means, 1).reshape(-1, controls.shape[1])
        codes = self.fold.space.encode(torch.from_numpy(self.place.prepared.scale(flat)))
        return np.asarray(codes.numpy(), dtype=np.float64).reshape(len(means[0]), len(means), -1)


def path_rows(place: Place, model: str, policy: Policy, seeds: Sequence[int]) -> Iterator[Row]:
    """Yield the distances of a policy's paths, and of its references, from the real ones of a fold."""
    fold = Fold(place.prepared)
    paths = PolicyPaths(place, policy, fold)
    turned = _turned(list(place.prepared.train_perturbations), seeds)
    for unit in fold.units(least=MIN_CELLS):
        if unit.perturbation not in place.world.labels:
            continue
        cells = fold.cells(unit)
        own = [(model, seed, path) for seed, path in zip(seeds, paths.of(unit), strict=True)]
        others = [Unit(other[unit.perturbation], unit.context) for other in turned]
        pairs = enumerate(zip(seeds, others, strict=True))
        own += [(f"{model}_shuffled", seed, paths.of(other)[r]) for r, (seed, other) in pairs]
        own += [("do_nothing", 0, tracks.do_nothing(cells.start, HORIZON))]
        own += [("straight_line", 0, fold.line(unit, cells.start))]
        yield from _distances(unit, cells, own)


def _turned(names: list[str], seeds: Sequence[int]) -> list[dict[str, str]]:
    """Return for each seed another perturbation for every one."""
    orders = [[str(n) for n in np.random.default_rng([1, seed]).permutation(names)] for seed in seeds]
    return [dict(zip(order, [*order[1:], order[0]], strict=True)) for order in orders]


def _distances(unit: Unit, cells: tracks.RealCells, asked: list[tuple[str, int, Array]]) -> Iterator[Row]:
    """Yield the distances of paths [H + 1, D] from a real trajectory, with those of its own halves."""
    rng = np.random.default_rng(3)
    halves = [cells.halves(rng) for _ in range(HALVINGS)]
    head: Row = {"perturbation": unit.perturbation, "cell_context": unit.context}
    for metric in DISTANCES:
        floor = np.mean([tracks.trajectory_distance(a, b, metric) for a, b in halves])
        yield head | {"model": "real_halves", "seed": 0, "metric": metric, "value": float(floor)}
        for model, seed, path in asked:
            placed = tracks.at_positions(path, cells.positions)
            value = tracks.trajectory_distance(placed, cells.trajectory, metric)
            yield head | {"model": model, "seed": seed, "metric": metric, "value": value}

"""The same tuning budget for every algorithm, and the sensitivity map that comes out of it.

Twelve settings an algorithm (four step sizes x three action scales), three seeds, 50,000 steps each. Policies
are trained on the training cells and scored on the validation cells by the primary
metric: pearson_delta of the mean prediction over all validation controls, reference the mean of the fitted
controls, averaged over perturbations with at least ten validation cells. No test cell is read. The step size
is delta for algorithms that take trust region steps, and the learning rate for the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from experiments.experiment import Experiment, Scratch, at_least_one, one_of, option
from experiments.part import Part, Row
from experiments.settings import Choice, training_settings
from twinlib.environment.assembly import make_world
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.prediction import predict
from twinlib.evaluation.metrics import pearson_delta
from twinlib.policy.algorithms import ALGORITHMS
from twinlib.policy.training import TrainingConfig, train

if TYPE_CHECKING:
    from experiments.folder import Parts
    from twinlib.policy.actor_critic import ActorCritic

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
DELTAS = (0.01, 0.05, 0.2, 1.0)
#: Multiples of the environment's own action scale.
SCALES = (0.5, 1.0, 2.0)
SEEDS = (0, 1, 2)


class Setting(NamedTuple):
    """One point of the grid."""

    algorithm: str
    step_size: float
    scale: float

    @property
    def name(self) -> str:
        """A name for a file."""
        return f"{self.algorithm}-{self.step_size:g}-{self.scale:g}"


def tuned() -> tuple[str, ...]:
    """Return the datasets that are tuned themselves."""
    from twinlib.data.sources import DATASETS

    return tuple(name for name, entry in DATASETS.items() if not entry.tuned_on)


def training_config(algorithm: str, step_size: float, timesteps: int) -> TrainingConfig:
    """Return the described protocol's settings with one step size."""
    return training_settings(algorithm, timesteps, Choice(step_size, 1.0, ""))


class Validation:
    """The validation cells, and the question asked of every policy."""

    def __init__(self, dataset: str, least: int = 10) -> None:
        from twinlib.data.preparation import standard
        from twinlib.embedding.train import pretrained

        prepared = standard(dataset)
        self.hashes = {"data_hash": prepared.data_hash, "fingerprint": prepared.fingerprint}
        self.world = make_world(prepared, pretrained(dataset))
        self.reference = prepared.expression("train", "control").mean(0)
        self.controls = prepared.expression("validation", "control")
        cells_of = {p: prepared.expression("validation", p) for p in self.world.labels}
        self.truth = {p: cells.mean(0) for p, cells in cells_of.items() if len(cells) >= least}

    def score(self, policy: ActorCritic, config: EnvironmentConfig) -> np.ndarray:
        """Return the primary metric of each replica [R]."""
        values = []
        for label, truth in self.truth.items():
            labels = [label] * len(self.controls)
            mean = predict(policy, self.world, config, self.controls, labels).mean(1)
            values.append([pearson_delta(truth, m, self.reference) for m in mean])
        return np.mean(values, 0)


@dataclass(frozen=True)
class Tuning(Experiment):
    """Twelve settings for each algorithm, scored on validation cells; chosen.csv keeps the best of each."""

    name = "tuning"

    datasets: tuple[str, ...] = option(tuned(), "names of datasets, all tuned into one folder")
    algorithms: tuple[str, ...] = option(tuple(ALGORITHMS), "algorithms to tune")
    timesteps: int = option(50_000, "environment steps of each seed and setting")

    def __post_init__(self) -> None:
        from twinlib.data.sources import dataset

        for name in self.datasets:
            dataset(name)
        one_of("algorithm", self.algorithms, tuple(ALGORITHMS))
        at_least_one(self, "timesteps")

    def parts(self, finished: Parts) -> Sequence[str]:
        """One part a dataset and setting."""
        return [f"{data}@{setting.name}" for data in self.datasets for setting in self.settings()]

    def settings(self) -> list[Setting]:
        """Return twelve settings for each algorithm."""
        second_order = [name for name in self.algorithms if ALGORITHMS[name].takes_trust_region_steps]
        sizes = {name: DELTAS if name in second_order else LEARNING_RATES for name in self.algorithms}
        return [
            Setting(name, size, scale)
            for name in self.algorithms
            for size, scale in itertools.product(sizes[name], SCALES)
        ]

    @cached_property
    def validations(self) -> dict[str, Validation]:
        """The question by dataset, filled as needed."""
        return {}

    def compute(self, part: str, scratch: Scratch) -> Part:
        """Train the seeds of one setting side by side and score them."""
        data, _, name = part.partition("@")
        if data not in self.validations:
            self.validations[data] = Validation(data)
        validation = self.validations[data]
        setting = next(s for s in self.settings() if s.name == name)
        own = Dynamics(validation.world, EnvironmentConfig(), n_cells=1).action_scale
        environment = EnvironmentConfig(action_scale=setting.scale * own)
        dynamics = Dynamics(validation.world, environment, replicas=len(SEEDS), n_cells=64)
        config = training_config(setting.algorithm, setting.step_size, self.timesteps)
        policy, history = train(dynamics, config, SEEDS, progress=scratch.progress)
        last = history[history.iteration > 0.9 * history.iteration.max()].groupby("seed").reward.mean()
        scores = validation.score(policy, environment)
        rows = [
            {"dataset": data, **setting._asdict(), "seed": seed, "pearson_delta": score, "reward": last[seed]}
            | {"timesteps": self.timesteps}
            for seed, score in zip(SEEDS, scores, strict=True)
        ]
        return Part({data: rows}, run={f"hashes of {data}": validation.hashes})

    def tables(self, finished: Parts) -> dict[str, pd.DataFrame]:
        """Return the rows of each dataset, and the best setting of each algorithm on it."""
        tables = super().tables(finished)
        return tables | {"chosen": pd.concat([best(rows) for rows in tables.values()], ignore_index=True)}

    def facts(self, finished: Parts) -> Row:
        """Say what the score is."""
        return {
            "score": "pearson_delta on the validation cells, mean of the seeds",
            "seeds": list(SEEDS),
        }


def best(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the setting of each algorithm with the highest mean validation score, one row each."""
    keys = ["dataset", "algorithm", "step_size", "scale"]
    means = rows.groupby(keys, sort=False)["pearson_delta"].mean().reset_index()
    return means.loc[means.groupby("algorithm")["pearson_delta"].idxmax()].reset_index(drop=True)

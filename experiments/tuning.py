"""Random settings for every tuned algorithm at full length, chosen on validation and scored on test cells.

All arms meet one environment: fold 1, population target, action scale fixed by the world. The draws are
shared where settings are, and settings of one shape train side by side. No choice is made here: the tables
hold what each setting came to, and `twinlib.results.tuning_curves` reads the choice off them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from experiments.experiment import Experiment, Scratch, at_least_one, one_of, option
from experiments.experimental import texts
from experiments.part import Part, Row
from experiments.policy_runs import (
    Place,
    Trained,
    forget,
    references,
    thinned,
    told,
    train_replicas,
)
from twinlib.data.preparation import standard
from twinlib.evaluation.judge import evaluate
from twinlib.policy.algorithms import TUNED
from twinlib.policy.random_settings import DRAWS, draw, side_by_side, training_config

if TYPE_CHECKING:
    import pandas as pd

    from experiments.folder import Parts
    from twinlib.policy.training import TrainingConfig

#: Datasets that are tuned; the others take the settings of their `tuned_on`.
DATASETS = ("waddington", "papalexi2021", "norman2019", "kang2018", "chi11")
#: Algorithms in the order in which they are run: those of the primary claim first.
ORDER = ("PPO", "two_stage", *(name for name in TUNED if name not in ("PPO", "two_stage")))
#: Seeds of each setting.
SEEDS = (0, 1, 2)
#: Parts of the split on which every setting is scored.
SCORED = ("validation", "test")
#: Metrics that are kept of every setting.
METRICS = ("pearson_delta", "pseudobulk_mse", "pds")
#: Points of each learning curve.
POINTS = 12


def setting_name(k: int) -> str:
    """Return the name of draw k in tables."""
    return f"s{k:02}"


@dataclass(frozen=True)
class Tuning(Experiment):
    """Random settings of each tuned algorithm on one dataset."""

    name = "tuning"
    grows = "algorithms"
    packed: ClassVar[tuple[str, ...]] = ("scores", "groups", "runs", "curves")

    dataset: str = option("waddington", f"one of {', '.join(DATASETS)}; several: DIR/NAME each")
    algorithms: tuple[str, ...] = option(ORDER, "algorithms to tune; a resume may name more")
    timesteps: int = option(150_000, "environment steps of each seed and setting")
    draws: int = option(DRAWS, "random settings of each algorithm")
    block: int = option(4, "settings side by side in one part")
    epochs: int = option(1, "passes of an embedding that is not packaged")

    def __post_init__(self) -> None:
        one_of("tuned dataset", [self.dataset], DATASETS)
        one_of("tuned algorithm", self.algorithms, ORDER)
        at_least_one(self, "timesteps", "draws", "block", "epochs")

    def identity(self) -> Row:
        """Algorithms may be added by a resume: their parts stand beside those of the others."""
        return {key: value for key, value in super().identity().items() if key != "algorithms"}

    def parts(self, finished: Parts) -> Sequence[str]:
        """The yardsticks, then blocks of settings of one shape of each algorithm."""
        blocks = [f"{name}~{i}" for name in self.algorithms for i in range(len(self.blocks[name]))]
        return ["references", *blocks]

    @cached_property
    def blocks(self) -> dict[str, list[list[int]]]:
        """Numbers of the settings that train side by side, by algorithm."""
        return {name: self._blocks(name) for name in self.algorithms}

    def _blocks(self, algorithm: str) -> list[list[int]]:
        """Split the settings of each shape into blocks."""
        shapes = side_by_side([self.config(algorithm, k) for k in range(self.draws)])
        return [group[i : i + self.block] for group in shapes for i in range(0, len(group), self.block)]

    def config(self, algorithm: str, k: int) -> TrainingConfig:
        """Return what draw k means for an algorithm."""
        return training_config(algorithm, draw(k), self.timesteps)

    @cached_property
    def place(self) -> Place:
        """Fold 1 of the dataset."""
        return Place.of(standard(self.dataset), self.epochs)

    def compute(self, part: str, scratch: Scratch) -> Part:
        """Train a block of settings and score it, or score the yardsticks."""
        if part == "references":
            return self._references()
        algorithm, _, number = part.partition("~")
        chosen = [k for k in self.blocks[algorithm][int(number)] for _ in SEEDS]
        configs, seeds = [self.config(algorithm, k) for k in chosen], [*SEEDS] * (len(chosen) // len(SEEDS))
        checkpoint = scratch.folder / f"{part}.checkpoint"
        trained = train_replicas(self.place.task, configs, seeds, checkpoint, scratch.progress)
        tables = self._tables(algorithm, trained, chosen, seeds)
        forget(checkpoint)
        return Part(tables)

    def _references(self) -> Part:
        """Score the yardsticks and the plain rows on both parts."""
        policies = self.place.yardsticks(SEEDS, self.timesteps)
        made = references(self.place, self.name, SCORED, policies)
        scores = made.scores[made.scores["metric"].isin(METRICS) & (made.scores["against"] == "")]
        runs = [
            {"model": name, "setting": "", "seed": seed, "validation_return": value, "lost": False}
            for name, policy in policies.items()
            for seed, value in enumerate(self.place.returns(policy))
        ]
        about = {"embedding": self.place.origin, "dataset": self.dataset, **self.place.facts()}
        return Part({"scores": scores, "groups": made.groups, "runs": runs}, run=about)

    def _tables(
        self, algorithm: str, trained: Trained, chosen: Sequence[int], seeds: Sequence[int]
    ) -> dict[str, Sequence[Row] | pd.DataFrame]:
        """Return scores, runs and curves of replicas whose settings are `chosen` [R]."""
        names = [setting_name(k) for k in chosen]
        heads = [{"model": algorithm, "setting": s, "seed": i} for s, i in zip(names, seeds, strict=True)]
        if trained.policy is None:
            return {"runs": [head | {"lost": True} for head in heads]}
        history = trained.history.assign(model=algorithm)
        history["setting"] = history["replica"].map(dict(enumerate(names)))
        returns = dict(zip(trained.kept, self.place.returns(trained.policy), strict=True))
        means = history.groupby("replica")[["kl", "clip_fraction"]].mean()
        steps = trained.last("optimizer_steps")
        runs = [
            head
            | {"validation_return": returns.get(i, np.nan), "lost": i not in trained.kept}
            | {"mean_kl": means["kl"].get(i), "clip_fraction": means["clip_fraction"].get(i)}
            | {"optimizer_steps": steps.get(i)}
            for i, head in enumerate(heads)
        ]
        scores = self._scores(algorithm, trained, names, seeds)
        return {"scores": scores, "runs": runs, "curves": thinned(history, ["model", "setting"], POINTS)}

    def _scores(
        self, algorithm: str, trained: Trained, names: Sequence[str], seeds: Sequence[int]
    ) -> pd.DataFrame:
        """Score replicas on both parts in one call each; their numbers become settings and seeds."""
        import pandas as pd

        assert trained.policy is not None
        row = self.place.predictor(algorithm, trained.policy, answers=False)
        made = [evaluate(self.place.prepared, [row], experiment=self.name, part=p).scores for p in SCORED]
        scores = pd.concat(made, ignore_index=True)
        scores = scores[(scores["model"] == algorithm) & scores["metric"].isin(METRICS)]
        replica = scores["seed"].map(dict(enumerate(trained.kept)))
        return scores.assign(
            setting=replica.map(dict(enumerate(names))), seed=replica.map(dict(enumerate(seeds)))
        )

    def tables(self, finished: Parts) -> dict[str, pd.DataFrame]:
        """Return the tables of the parts, has_effect filled, and the settings."""
        import pandas as pd

        tables = {name: texts(table) for name, table in super().tables(finished).items()}
        tables["groups"] = told(tables["groups"], self.dataset)
        rows = [{"setting": setting_name(k), **dataclasses.asdict(draw(k))} for k in range(self.draws)]
        return tables | {"settings": pd.DataFrame(rows)}

    def facts(self, finished: Parts) -> Row:
        """Say what was drawn and where it was scored."""
        return {"seeds": list(SEEDS), "split": "cells, fold 1", "scored": list(SCORED), "draws": self.draws}

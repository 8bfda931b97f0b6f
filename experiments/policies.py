"""Every arm at its tuned setting with fresh seeds: five folds of cells, held-out groups, both targets.

The second stages that stand alone take the KL target that two_stage measured, seed by seed, so that arms
differ in their first stage only. An arm whose tuning holds no setting with a positive validation return is
doing nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from experiments.experiment import Experiment, Scratch, at_least_one, one_of, option
from experiments.experimental import TRUTH, ExperimentalSplits, texts, were_tested
from experiments.hits import HIT_DATASETS, Hidden, hit_rows
from experiments.part import Part, Row
from experiments.policy_paths import PATH_DATASETS, path_rows
from experiments.policy_runs import (
    PLAIN,
    Place,
    Trained,
    acting_perturbations,
    forget,
    nothing_trained,
    references,
    thinned,
    told,
    train_replicas,
)
from twinlib.data.folds import FOLDS
from twinlib.data.held_out import held_out_groups
from twinlib.data.sources import dataset as entry
from twinlib.environment.yardsticks import Nothing
from twinlib.errors import InputError
from twinlib.evaluation.cases import groups_of, split_name
from twinlib.evaluation.judge import evaluate
from twinlib.policy.algorithms import ALGORITHMS, tuned_as
from twinlib.policy.random_settings import Settings, training_config
from twinlib.results.tuning_curves import Tuned

if TYPE_CHECKING:
    import pandas as pd

    from experiments.folder import Parts
    from twinlib.policy.contracts import Policy, Task
    from twinlib.policy.training import TrainingConfig

#: Splits beside the folds of cells, by dataset.
HELD_OUT: dict[str, tuple[str, ...]] = {
    "waddington": ("perturbations", "contexts"),
    "papalexi2021": ("perturbations",),
    "norman2019": (),
    "kang2018": ("contexts",),
    "chi11": ("contexts",),
    "cross_study": (),
}
#: Arms of the primary claim: they get all seeds. The folds spread the scores of an arm far more than its
#: seeds do, so that further seeds of the other arms would not narrow an interval.
PRIMARY = ("PPO", "two_stage")
#: Arms beside the yardsticks on held-out groups, with the target `cell`, and where the label is hidden.
FEW = ("PPO", "TRPO", "two_stage")
#: Arms that take over the KL target of two_stage.
TAKE_OVER = tuple(
    name
    for name in ALGORITHMS
    if tuned_as(name) == "two_stage" and not ALGORITHMS[name].takes_trust_region_steps
)
#: The row of the yardsticks and of the rows without training.
REFERENCES = "references"
#: The split in which the label of test cells is hidden, and arms are asked for it.
HIDDEN = "hidden"
#: Rows that no environment has a part in.
PLAIN_ROWS = (*PLAIN, "no_change", "replicate")
#: Seeds of the tuning were 0, 1, 2.
FIRST_SEED = 100
#: Points of each learning curve.
POINTS = 36
#: Seeds whose metrics of single cells are kept, in fold 1.
SHOWN_SEEDS = 3


@dataclass(frozen=True)
class Job:
    """One part: an arm on one piece of a split."""

    #: An arm, or `REFERENCES`.
    arm: str
    #: Kind of the split; "hidden": the label is hidden, and the arm is asked for it.
    kind: str
    #: Number of its fold or held-out group, from 1 on.
    number: int = 1
    #: What the environment aims at.
    target: str = "population"

    @property
    def name(self) -> str:
        """Name of the part."""
        return "~".join((self.arm, self.kind, str(self.number), self.target))

    @staticmethod
    def of(part: str) -> Job:
        """Return the job of a part."""
        arm, kind, number, target = part.split("~")
        return Job(arm, kind, int(number), target)

    @property
    def handed(self) -> str:
        """Name of the file with the KL targets that two_stage hands to other arms."""
        return f"{replace(self, arm='two_stage').name}.npz"

    @property
    def shows_cells(self) -> bool:
        """Whether metrics of single cells are kept: those of fold 1."""
        return self.kind == "cells" and self.number == 1

    @property
    def setting(self) -> str:
        """What tables call it: nothing for the population target."""
        return "" if self.target == "population" else self.target


@dataclass(frozen=True)
class Policies(Experiment):
    """Every arm on every split of one dataset."""

    name = "policies"
    grows = "arms"
    packed: ClassVar[tuple[str, ...]] = ("scores", "groups", "runs", "curves", "hits", "paths")

    dataset: str = option("waddington", f"one of {', '.join(HELD_OUT)}; several: DIR/NAME each")
    arms: tuple[str, ...] = option(
        tuple(ALGORITHMS), "arms to train on the folds of cells; a resume may name more"
    )
    seeds: int = option(10, "seeds of PPO and two_stage on each fold of cells")
    few_seeds: int = option(3, "seeds of other arms, on held-out groups and with the target `cell`")
    timesteps: int = option(150_000, "environment steps of each seed")
    epochs: int = option(1, "passes of an embedding that is trained for a part")

    def __post_init__(self) -> None:
        one_of("dataset of policies", [self.dataset], tuple(HELD_OUT))
        one_of("arm", self.arms, tuple(ALGORITHMS))
        at_least_one(self, "seeds", "few_seeds", "timesteps", "epochs")
        if set(self.arms) & set(TAKE_OVER) and "two_stage" not in self.arms:
            raise InputError(
                f"{', '.join(TAKE_OVER)} take the KL target of two_stage; name it among the arms."
            )
        _ = self.settings  # a missing tuning stops the run before it costs

    # -- what is run
    def identity(self) -> Row:
        """Arms may be added by a resume: their parts stand beside those of the others."""
        return {key: value for key, value in super().identity().items() if key != "arms"}

    def parts(self, finished: Parts) -> Sequence[str]:
        """Arms that take over a KL target wait for two_stage on the same piece."""
        return [job.name for job in self.jobs if not self._waits(job, finished)]

    def _waits(self, job: Job, finished: Parts) -> bool:
        return job.arm in TAKE_OVER and replace(job, arm="two_stage").name not in finished

    @cached_property
    def jobs(self) -> list[Job]:
        """Every part, in the order of the tables."""
        folds = range(1, FOLDS + 1)
        arms = (REFERENCES, *self.arms)
        jobs = [Job(arm, "cells", fold) for fold in folds for arm in arms]
        few = (REFERENCES, *(name for name in FEW if name in self.arms))
        jobs += [Job(arm, "cells", fold, "cell") for fold in folds for arm in few]
        for kind in HELD_OUT[self.dataset]:
            jobs += [Job(arm, kind, number) for number in self._numbers(kind) for arm in few]
        return jobs + [Job(arm, HIDDEN) for arm in few if self.dataset in HIT_DATASETS]

    def _numbers(self, kind: str) -> list[int]:
        """Return the groups that are held out; of perturbations those alone that are known to act."""
        groups = held_out_groups(kind, self.splits.cells(kind))
        acting = acting_perturbations(self.dataset) if kind == "perturbations" else frozenset()
        return [i for i, names in enumerate(groups, 1) if not acting or acting & {str(n) for n in names}]

    def seeds_of(self, job: Job) -> list[int]:
        """Return the seeds of a part."""
        many = job.arm in (REFERENCES, *PRIMARY) and (job.kind, job.target) == ("cells", "population")
        return list(range(FIRST_SEED, FIRST_SEED + (self.seeds if many else self.few_seeds)))

    # -- settings
    @cached_property
    def tuned(self) -> Tuned:
        """The tuning that this dataset takes its settings from."""
        return Tuned.of(entry(self.dataset).tuned_on or self.dataset)

    @cached_property
    def settings(self) -> dict[str, Settings | None]:
        """The best setting of each tuned algorithm; None: its entry is doing nothing."""
        table = self.tuned.settings
        known: dict[str, Settings | None] = {}
        for algorithm in dict.fromkeys(tuned_as(name) for name in self.arms):
            best = self.tuned.best(algorithm)
            known[algorithm] = None if best is None else settings_of(table, best)
        return known

    def config(self, arm: str) -> TrainingConfig | None:
        """Return what an arm trains with, None where it does nothing."""
        settings = self.settings[tuned_as(arm)]
        return None if settings is None else training_config(arm, settings, self.timesteps)

    # -- where it is run
    @cached_property
    def splits(self) -> ExperimentalSplits:
        """The pieces of every split, as the experimental twin has them."""
        return ExperimentalSplits(self.dataset)

    def place(self, job: Job) -> Place:
        """Return where a part is computed."""
        kind = "cells" if job.kind == HIDDEN else job.kind
        return place_of(self.splits, kind, job.number, self.epochs, job.target)

    def compute(self, part: str, scratch: Scratch) -> Part:
        """Train an arm and score it, or score the yardsticks."""
        job = Job.of(part)
        place, seeds = self.place(job), self.seeds_of(job)
        if job.kind == HIDDEN:
            return self._hidden(job, place, seeds, scratch)
        if job.arm == REFERENCES:
            return self._references(job, place, seeds)
        trained = self._train(job, place.task, seeds, scratch)
        tables = self._tables(job, place, trained, seeds)
        forget(scratch.folder / job.name)
        return Part(tables, {"lost": len(seeds) - len(trained.kept)})

    def _hidden(self, job: Job, place: Place, seeds: Sequence[int], scratch: Scratch) -> Part:
        """Ask an arm, or the greedy action and the baselines, for the labels of test cells."""
        hidden, asked = Hidden.of(place), self._asked(place)
        if job.arm == REFERENCES:
            return Part({"hits": hidden.baselines(asked)})
        trained = self._train(job, hidden.task, seeds, scratch)
        rows = hit_rows(hidden, job.arm, trained, seeds, asked)
        forget(scratch.folder / job.name)
        return Part({"hits": rows})

    def _train(
        self, job: Job, task: Callable[[int], Task], seeds: Sequence[int], scratch: Scratch
    ) -> Trained:
        """Train an arm on its seeds; two_stage leaves its KL targets for others."""
        config, handed = self.config(job.arm), scratch.folder / job.handed
        if config is None:
            return nothing_trained()
        configs = [config] * len(seeds)
        if job.arm in TAKE_OVER:
            with np.load(handed) as file:
                configs = [with_target(config, target) for target in file["target_kl"][: len(seeds)]]
        trained = train_replicas(task, configs, seeds, scratch.folder / job.name, scratch.progress)
        if job.arm == "two_stage" and job.kind != HIDDEN:
            last = trained.last("target_kl")
            np.savez(handed, target_kl=[last.get(i, np.nan) for i in range(len(seeds))])
        return trained

    def _asked(self, place: Place) -> list[str]:
        """Return the perturbations with an effect, of which a hidden label may be one."""
        groups = told(groups_of(place.prepared, "test"), self.dataset)
        return sorted(groups.loc[groups["has_effect"].eq(True), "perturbation"].unique())

    # -- tables
    def _references(self, job: Job, place: Place, seeds: Sequence[int]) -> Part:
        """Score yardsticks and plain rows."""
        policies = place.yardsticks(seeds, self.timesteps)
        made = references(place, self.name, ("test",), policies)
        runs = [
            {"model": name, "seed": seeds[0] + r, "validation_return": value, "lost": False}
            for name, policy in policies.items()
            for r, value in enumerate(place.returns(policy))
        ]
        facts = {"embedding": place.origin, "fingerprint": place.prepared.fingerprint, **place.facts()}
        scores = made.scores[(made.scores["against"] == "") | job.shows_cells]
        return Part(marked(job, place, scores=scores, groups=made.groups, runs=runs), facts)

    def _tables(
        self, job: Job, place: Place, trained: Trained, seeds: Sequence[int]
    ) -> dict[str, Sequence[Row] | pd.DataFrame]:
        """Return scores, runs and curves of an arm; an arm without a setting is doing nothing."""
        policy: Policy | None = trained.policy
        runs: list[Row] = [
            {"model": job.arm, "seed": seed, "lost": i not in trained.kept} for i, seed in enumerate(seeds)
        ]
        if self.config(job.arm) is None:
            policy, runs = Nothing(place.world), [{"model": job.arm, "seed": seeds[0], "lost": False}]
        if policy is None:
            return marked(job, place, runs=runs)
        kept = trained.kept or (0,)
        for i, value in zip(kept, place.returns(policy), strict=True):
            runs[i]["validation_return"] = value
        scores = self._scores(job, place, policy).replace({"seed": dict(enumerate(seeds[i] for i in kept))})
        if not trained.kept:
            return marked(job, place, scores=scores, runs=runs)
        means = trained.history.groupby("replica")["kl"].mean()
        for i in kept:
            runs[i]["mean_kl"] = means[i]
        curves = thinned(trained.history.assign(model=job.arm), ["model", "seed"], POINTS)
        paths = self._paths(job, place, policy, [seeds[i] for i in kept])
        return marked(job, place, scores=scores, runs=runs, curves=curves, **paths)

    def _paths(self, job: Job, place: Place, policy: Policy, seeds: Sequence[int]) -> dict[str, list[Row]]:
        """Return the distances of two_stage's paths from the real ones, on folds of cells."""
        if job != Job("two_stage", "cells", job.number) or self.dataset not in PATH_DATASETS:
            return {}
        return {"paths": list(path_rows(place, job.arm, policy, seeds))}

    def _scores(self, job: Job, place: Place, policy: Policy) -> pd.DataFrame:
        """Return the judge's values of an arm; metrics of single cells for few seeds of fold 1 alone."""
        row = place.predictor(job.arm, policy, answers=job.shows_cells)
        scores = evaluate(place.prepared, [row], experiment=self.name).scores
        few = (scores["against"] == "") | (scores["seed"] < SHOWN_SEEDS)
        return scores[(scores["model"] == job.arm) & few]

    def tables(self, finished: Parts) -> dict[str, pd.DataFrame]:
        """Return the tables of the parts, has_effect filled, and the setting of each arm."""
        import pandas as pd

        tables = {name: texts(table) for name, table in super().tables(finished).items()}
        tested = were_tested(tables["groups"], self.dataset)
        known = told(tables["groups"][tested], self.dataset)
        tables["groups"] = pd.concat([known, tables["groups"][~tested]])
        rows = [
            {"model": arm, "tuned_as": tuned_as(arm), "setting": self.tuned.best(tuned_as(arm)) or "nothing"}
            | ({} if settings is None else dataclasses.asdict(settings))
            for arm in self.arms
            for settings in [self.settings[tuned_as(arm)]]
        ]
        return tables | {"settings": pd.DataFrame(rows)}

    def facts(self, finished: Parts) -> Row:
        """Return the rules of the tables."""
        rules: Row = {"truth_rule": TRUTH, "folds": FOLDS, "first_seed": FIRST_SEED}
        return rules | {"tuned_on": entry(self.dataset).tuned_on or self.dataset}


@lru_cache(maxsize=1)
def place_of(splits: ExperimentalSplits, kind: str, number: int, epochs: int, target: str) -> Place:
    """Return the place of one piece of a split; the last one is remembered, since arms share it."""
    return Place.of(splits.fold_of(kind, splits.cells(kind), number), epochs, target)


def marked(
    job: Job, place: Place, **made: Sequence[Row] | pd.DataFrame
) -> dict[str, Sequence[Row] | pd.DataFrame]:
    """Write into tables which piece of which split, and which target, they are of."""
    import pandas as pd

    about = {"split_kind": job.kind, "split": split_name(place.prepared)}
    frames = {name: pd.DataFrame(rows).assign(**about) for name, rows in made.items()}
    return {
        name: table if name == "groups" else table.assign(setting=_setting(job, table))
        for name, table in frames.items()
    }


def _setting(job: Job, table: pd.DataFrame) -> list[str]:
    """Return the target of each row [n]; rows that know of none, of the judge's own, keep an empty one."""
    return ["" if name in PLAIN_ROWS else job.setting for name in table["model"]]


def settings_of(table: pd.DataFrame, name: str) -> Settings:
    """Return a row of a table of settings as settings again."""
    row = table[table["setting"] == name].iloc[0].to_dict()
    values = {field.name: row[field.name] for field in dataclasses.fields(Settings)}
    return Settings(**values | {"minibatch_size": int(values["minibatch_size"])})


def with_target(config: TrainingConfig, target: float) -> TrainingConfig:
    """Return the configuration with a KL target in its second stage; NaN leaves it as it is."""
    if not np.isfinite(target):
        return config
    return replace(config, fine_tuning=replace(config.fine_tuning, target_kl=float(target)))

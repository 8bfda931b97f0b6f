"""What every experiment with policies shares: the world of a split, training that survives lost replicas."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

from twinlib.environment.assembly import make_world
from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
from twinlib.environment.prediction import PolicyPredictor
from twinlib.environment.units import mean_return
from twinlib.environment.yardsticks import yardstick_policies
from twinlib.errors import Divergence, ResultsError
from twinlib.evaluation.judge import Predictor, evaluate
from twinlib.evaluation.summaries import with_effects
from twinlib.experimental.baselines import BASELINES
from twinlib.experimental.fold_rows import RememberedCoder, embedding_of
from twinlib.policy.training import TrainingConfig, train
from twinlib.results import tables

if TYPE_CHECKING:
    import pandas as pd

    from twinlib.data.preparation import Prepared
    from twinlib.embedding.attention import Embedding
    from twinlib.environment.world import World
    from twinlib.evaluation.judge import Tables
    from twinlib.policy.actor_critic import ActorCritic
    from twinlib.policy.contracts import Policy, Task

#: Cells stepped side by side for each seed.
CELLS = 64
#: Rows without training, beside those that the judge adds.
PLAIN = ("mean", "matching_mean")
#: Columns of a learning curve.
CURVE = ("episode_return", "kl", "clip_fraction", "explained_variance", "optimizer_steps")


@dataclass(frozen=True, eq=False)
class Place:
    """Where policies train and are judged: one prepared split, its embedding and its world."""

    #: One fold of a split.
    prepared: Prepared
    #: The embedding of its training cells.
    embedding: RememberedCoder
    #: Where the embedding comes from.
    origin: str
    #: The world of its training cells.
    world: World
    #: The environment, one for all arms.
    config: EnvironmentConfig

    @staticmethod
    def of(prepared: Prepared, epochs: int, target: str = "population") -> Place:
        """Make the world of a prepared split."""
        embedding, origin = embedding_of(prepared, epochs)
        world = make_world(prepared, embedding.embedding)
        return Place(prepared, embedding, origin, world, EnvironmentConfig(target=target))

    @cached_property
    def asked(self) -> World:
        """The same world with an embedding that encodes the same controls once, however many rows ask."""
        return replace(self.world, embedding=cast("Embedding", self.embedding))

    @cached_property
    def validation(self) -> World:
        """The validation cells, in the units of the training world."""
        return make_world(self.prepared, self.embedding.embedding, split="validation", like=self.world)

    def task(self, replicas: int) -> Dynamics:
        """Return the training cells as a task."""
        return Dynamics(self.world, self.config, replicas=replicas, n_cells=CELLS)

    def predictor(self, name: str, policy: Policy, answers: bool = True) -> Predictor:
        """Return a policy as a row of a table; without `answers` no metric of single cells is worked out."""
        return PolicyPredictor(name, policy, self.asked, self.config, answers)

    def returns(self, policy: Policy) -> list[float]:
        """Return the validation return of each replica [R], in units of the attainable gain."""
        return [float(value) for value in mean_return(policy, self.validation, self.config)]

    def yardsticks(self, seeds: Sequence[int], timesteps: int) -> dict[str, Policy]:
        """Return doing nothing, random actions, the greedy optimum and the pathwise gradient by their row."""
        return yardstick_policies(self.world, self.config, seeds, timesteps)

    def facts(self) -> dict[str, object]:
        """Return what a manifest says of the place."""
        return {
            "data_hash": self.prepared.data_hash,
            "panel_rule": self.prepared.panel_rule,
            "genes": len(self.prepared.genes),
            "actions": len(self.world.action_names),
            "reward_unit": dict(self.world.units.gain),
        }


@dataclass(frozen=True, eq=False)
class Trained:
    """Replicas that were trained side by side; those whose numbers stopped being finite are lost."""

    #: The networks of the replicas that are left; None where none is.
    policy: ActorCritic | None
    #: Number of each replica that is left, in the order of the networks.
    kept: tuple[int, ...]
    #: The learning history, `replica` as they were numbered at first.
    history: pd.DataFrame

    def last(self, column: str) -> dict[int, float]:
        """Return a column of the history after the last update, by replica; {} where all are lost."""
        if self.history.empty:
            return {}
        rows = self.history.groupby("replica")[column].last()
        return dict(zip(rows.index.astype(int).tolist(), rows.astype(float).tolist(), strict=True))


def nothing_trained() -> Trained:
    """Return what is left where nothing was trained."""
    import pandas as pd

    return Trained(None, (), pd.DataFrame())


def train_replicas(
    task: Callable[[int], Task],
    configs: Sequence[TrainingConfig],
    seeds: Sequence[int],
    checkpoint: pathlib.Path | None = None,
    progress: bool = False,
) -> Trained:
    """Train one replica a configuration and seed; where one is lost, train the others again without it.

    Replicas do not mix, so that those that are left end as they would have.
    """
    kept = list(range(len(configs)))
    while kept:
        own, numbers = [configs[i] for i in kept], [seeds[i] for i in kept]
        path = checkpoint and checkpoint.with_name(f"{checkpoint.name}-{len(kept)}")
        try:
            result = train(task(len(kept)), own, numbers, progress=progress, checkpoint=path)
        except Divergence as lost:
            kept = [number for i, number in enumerate(kept) if i not in lost.replicas]
        else:
            history = result.history.assign(replica=[kept[i] for i in result.history["replica"]])
            return Trained(result.policy, tuple(kept), history)
    return nothing_trained()


def forget(checkpoint: pathlib.Path) -> None:
    """Remove the checkpoints of a finished part."""
    for path in checkpoint.parent.glob(f"{checkpoint.name}-*"):
        path.unlink()


def thinned(history: pd.DataFrame, by: Sequence[str], points: int) -> pd.DataFrame:
    """Return learning curves averaged over seeds: columns `by`, environment_steps and `CURVE`."""
    every = max(1, int(history["iteration"].max()) // points)
    rows = history[history["iteration"] % every == 0]
    columns = [name for name in CURVE if name in rows]
    return rows.groupby([*by, "environment_steps"], sort=False)[columns].mean().reset_index()


def references(place: Place, experiment: str, parts: Sequence[str], policies: dict[str, Policy]) -> Tables:
    """Score the yardsticks and the plain rows on some parts of the split."""
    import pandas as pd

    from twinlib.evaluation.judge import Tables, supervised

    rows: list[Predictor] = [place.predictor(name, policy) for name, policy in policies.items()]
    rows += [supervised(name, [BASELINES[name](place.prepared, place.embedding)]) for name in PLAIN]
    made = [evaluate(place.prepared, rows, experiment=experiment, part=part) for part in parts]
    return Tables(
        pd.concat([table.scores for table in made], ignore_index=True),
        pd.concat([table.groups for table in made], ignore_index=True),
    )


def acting_perturbations(dataset: str) -> frozenset[str]:
    """Return what the packaged effect tests call in most folds; nothing where there are no tests."""
    try:
        effects = tables.read_table("experimental", dataset, "effects")
        groups = tables.read_table("experimental", dataset, "groups")
    except ResultsError:
        return frozenset()
    told_groups = with_effects(groups.fillna({"cell_context": ""}), effects)
    return frozenset(told_groups.loc[told_groups["has_effect"].eq(True), "perturbation"].astype(str))


def told(groups: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Fill `has_effect` from the packaged effect tests; a dataset without one stays untold."""
    try:
        effects = tables.read_table("experimental", dataset, "effects")
    except ResultsError:
        return groups
    return with_effects(groups.fillna({"cell_context": ""}), effects)

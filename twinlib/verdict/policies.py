"""The in-silico twin of a file: policies that learn in the world of a fold, as rows beside the twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from twinlib.errors import DataError, RunError, WorldError
from twinlib.evaluation.judge import Group

if TYPE_CHECKING:
    import pandas as pd

    from twinlib.embedding.attention import Embedding
    from twinlib.environment.dynamics import EnvironmentConfig
    from twinlib.environment.world import World
    from twinlib.evaluation.judge import Predictor
    from twinlib.experimental.fold_rows import FoldRows
    from twinlib.policy.contracts import Policy
    from twinlib.policy.training import TrainingConfig

#: Rows that learn, and the optimum of the linear model beside them.
TRAINED, GREEDY = ("two_stage", "PPO"), "greedy"
#: All rows of policies.
NAMES = (*TRAINED, GREEDY)
#: Environment steps of a replica where no number is given.
STEPS = 16_384
#: Matched pairs of a world at most, and cells that it keeps when it is asked about others.
PAIRS, KEPT = 4_000, 64
#: The dose of the labels that a world knows.
WORLD_DOSE = 1.0


@dataclass(frozen=True, eq=False)
class PolicyRow:
    """A policy at the end of its episode, as the judge's predictor: mean action, noise and kick off."""

    #: Name of the row.
    name: str
    #: R replicas of an actor.
    policy: Policy
    #: Where it was trained.
    world: World
    #: The settings of its training.
    config: EnvironmentConfig
    #: Row i answers control i.
    answers: bool = True

    @property
    def replicas(self) -> int:
        """R."""
        return self.policy.replicas

    def reaches(self, group: Group) -> bool:
        """Whether the world knows this label at this dose."""
        return group.perturbation in self.world.labels and group.dose == WORLD_DOSE

    def predict(self, group: Group, cells: NDArray[np.floating]) -> NDArray[np.float64]:
        """Move controls [n, G] to predictions [R, n, G], in the data's scale."""
        from twinlib.environment.prediction import predict

        labels = [group.perturbation] * len(cells)
        moved = predict(self.policy, self.world, self.config, cells.astype(np.float32), labels)
        return moved.astype(np.float64)


@dataclass(frozen=True)
class NoPolicies:
    """A row that reaches nothing, and why."""

    #: One sentence.
    reason: str
    #: Name of the row.
    name: str = "no policies"
    #: One replica.
    replicas: int = 1
    #: Row i answers control i.
    answers: bool = True

    def reaches(self, group: Group) -> bool:
        """Return that no group is reached."""
        return False

    def predict(self, group: Group, cells: NDArray[np.floating]) -> NDArray[np.float64]:
        """Refuse: there is nothing to predict with."""
        raise DataError(self.reason)


def policy_rows(fold: FoldRows, steps: int, seeds: Sequence[int]) -> list[Predictor]:
    """Train the policies on a fold; where that is not possible, return one row that says why."""
    try:
        return _rows(fold, steps, seeds)
    except (DataError, WorldError, RunError) as error:
        return [NoPolicies(str(error))]


def reasons(rows: Sequence[Predictor]) -> list[str]:
    """Return why a part has no policies; nothing where it has some."""
    return [row.reason for row in rows if isinstance(row, NoPolicies)]


def _rows(fold: FoldRows, steps: int, seeds: Sequence[int]) -> list[Predictor]:
    from twinlib.environment.assembly import make_world
    from twinlib.environment.dynamics import Dynamics, EnvironmentConfig
    from twinlib.environment.greedy import GreedyLinear
    from twinlib.policy.training import train

    prepared, config = fold.prepared, EnvironmentConfig()
    actions = actions_of(prepared.cells.obs)
    world = make_world(prepared, fold.embedding.embedding, pairs=fold.pairs, actions=actions, n_pairs=PAIRS)
    policies: dict[str, Policy] = {}
    for name in TRAINED:
        task = Dynamics(world, config, replicas=len(seeds))
        policies[name] = train(task, settings_of(name, steps), seeds).policy
    if actions == "genes":
        policies[GREEDY] = GreedyLinear(world, config)
    asked = _to_ask(world, fold)
    return [PolicyRow(name, policy, asked, config) for name, policy in policies.items()]


def actions_of(obs: pd.DataFrame) -> str:
    """Return what a policy adjusts: genes, the dose where cells were given cytokines, or both."""
    kinds = set(obs["perturbation_type"].astype(str)) - {"none"}
    if "drug" in kinds:
        raise DataError("The environment knows neither a target gene nor a dose of a drug.")
    if "cytokine" not in kinds:
        return "genes"
    return "cytokines" if kinds == {"cytokine"} else "both"


def settings_of(algorithm: str, steps: int) -> TrainingConfig:
    """Return how an algorithm is trained: nothing is tuned, and the reward of a step stands for itself."""
    from twinlib.policy.proximal import ProximalConfig
    from twinlib.policy.training import TrainingConfig

    proximal = ProximalConfig(minibatch_size=256)
    return TrainingConfig(
        algorithm=algorithm,
        timesteps=steps,
        warm_start_steps=steps // 4,
        steps_per_iteration=min(1024, steps),
        gamma=0.0,
        log_std=-1.0,
        proximal=proximal,
        fine_tuning=replace(proximal, beta=0.1),
    )


def _to_ask(world: World, fold: FoldRows) -> World:
    """Return the world with few of its own cells and a code that encodes the same controls once."""
    rows = slice(0, KEPT)
    few = replace(world, x=world.x[rows], y=world.y[rows], z0=world.z0[rows], label=world.label[rows])
    # a rollout asks the embedding for encode and decode alone, which a remembered code has, too
    return replace(few, embedding=cast("Embedding", fold.embedding))

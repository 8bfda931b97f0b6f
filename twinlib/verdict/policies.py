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
    from twinlib.environment.world import World
    from twinlib.evaluation.judge import Predictor
    from twinlib.experimental.fold_rows import FoldRows
    from twinlib.policy.contracts import Policy
    from twinlib.policy.training import TrainingConfig

#: Rows that learn by trial; beside them the exact gradient, and the optimum of the linear model.
TRAINED, PATHWISE, GREEDY = ("two_stage", "PPO"), "pathwise", "greedy"
#: All rows of policies.
NAMES = (*TRAINED, PATHWISE, GREEDY)
#: Environment steps of a replica where no number is given.
STEPS = 16_384
#: Matched pairs of a world at most, and cells that it keeps when it is asked about others.
PAIRS, KEPT = 4_000, 64


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
    from twinlib.environment.pathwise import train_pathwise
    from twinlib.environment.prediction import PolicyPredictor
    from twinlib.policy.training import train

    require_no_drug(fold.prepared.cells.obs)
    config = EnvironmentConfig()
    world = make_world(fold.prepared, fold.embedding.embedding, pairs=fold.pairs, n_pairs=PAIRS)
    policies: dict[str, Policy] = {}
    for name in TRAINED:
        task = Dynamics(world, config, replicas=len(seeds))
        policies[name] = train(task, settings_of(name, steps), seeds).policy
    policies[PATHWISE] = train_pathwise(world, config, seeds, steps)
    policies[GREEDY] = GreedyLinear(world, config)
    asked = _to_ask(world, fold)
    return [PolicyPredictor(name, policy, asked, config) for name, policy in policies.items()]


def require_no_drug(obs: pd.DataFrame) -> None:
    """Refuse drugs: the environment has no action that stands for one."""
    if (obs["perturbation_type"].astype(str) == "drug").any():
        raise DataError("The environment knows neither a target gene nor a dose of a drug.")


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
    few = world.rows(slice(0, KEPT))
    # a rollout asks the embedding for encode and decode alone, which a remembered code has, too
    return replace(few, embedding=cast("Embedding", fold.embedding))

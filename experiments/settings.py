"""The settings each algorithm of the described protocol runs with: those its own tuning chose."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from twinlib.errors import SettingsError

if TYPE_CHECKING:
    from twinlib.policy.training import TrainingConfig


@dataclass(frozen=True)
class Choice:
    """What the tuning chose for one algorithm, on validation cells."""

    #: Delta of algorithms that take trust region steps; learning rate of the others.
    step_size: float
    #: Multiple of the environment's own action scale.
    scale: float
    #: The dataset on which it was chosen.
    tuned_on: str


def choice(dataset: str, algorithm: str, table: pathlib.Path | None = None) -> Choice:
    """Return the tuned choice of an algorithm from results/tuning/chosen.csv, or from another `table`.

    A dataset that was not tuned takes the choice made on its `tuned_on`. Raises SettingsError where the file
    or the row is missing: there is no default to fall back to.
    """
    import pandas as pd

    from twinlib.data import sources
    from twinlib.results.tables import results_folder

    source = sources.dataset(dataset).tuned_on or dataset
    path = table or results_folder() / "tuning" / "chosen.csv"
    mend = f"make it with 'python -m experiments tuning --dataset {source} --out DIR'"
    if not path.is_file():
        raise SettingsError(f"There is no table of tuned settings ({path.name}); {mend}.")
    rows = pd.read_csv(path)
    row = rows[(rows["dataset"] == source) & (rows["algorithm"] == algorithm)]
    if len(row) != 1:
        raise SettingsError(
            f"{path.name} has {len(row)} rows for {algorithm} on {source} in place of 1; {mend}."
        )
    return Choice(float(row["step_size"].iloc[0]), float(row["scale"].iloc[0]), source)


def training_settings(algorithm: str, timesteps: int, chosen: Choice) -> TrainingConfig:
    """Return the described protocol's training settings: the same networks and steps for all algorithms.

    The paper states only the steps (150,000, of which 10,000 TRPO: one fifteenth). Minibatches are larger
    than its code's (256 in place of 64), the exploration starts at a standard deviation of exp(-1), since 200
    summed actions at 1 drown the signal. The step size is the tuned one; everything else is the customary
    default.
    """
    from twinlib.policy.algorithms import ALGORITHMS
    from twinlib.policy.proximal import ProximalConfig
    from twinlib.policy.training import TrainingConfig
    from twinlib.policy.trust_region import TrustRegionConfig

    second_order = ALGORITHMS[algorithm].takes_trust_region_steps
    proximal = ProximalConfig(minibatch_size=256)
    if not second_order:
        proximal = replace(proximal, learning_rate=chosen.step_size)
    return TrainingConfig(
        algorithm=algorithm,
        timesteps=timesteps,
        warm_start_steps=timesteps // 15,
        log_std=-1.0,
        proximal=proximal,
        fine_tuning=replace(proximal, beta=0.1),
        trust_region=TrustRegionConfig(delta=chosen.step_size if second_order else 0.05),
    )

"""The published distribution of settings that tuning draws from: the same draws for every algorithm."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twinlib.errors import InputError
from twinlib.policy.algorithms import ALGORITHMS
from twinlib.policy.proximal import ProximalConfig
from twinlib.policy.training import TrainingConfig
from twinlib.policy.trust_region import TrustRegionConfig

#: Settings drawn for each tuned algorithm and dataset.
DRAWS = 24
#: What is tuned, and how it is drawn: "uniform" and "log-uniform" between two bounds, or "one of" several.
DISTRIBUTION: dict[str, tuple[str, tuple[float, ...]]] = {
    "learning_rate": ("log-uniform", (1e-5, 3e-3)),
    "delta": ("log-uniform", (0.003, 3.0)),
    "minibatch_size": ("one of", (64, 128, 256, 512)),
    "clip_range": ("log-uniform", (0.05, 0.5)),
    "log_std": ("uniform", (-2.0, 0.0)),
    "gamma": ("one of", (0.0, 0.9, 0.99)),
}
#: Draw k comes from the generator of (_SEED, k), so that it does not depend on the number of draws.
_SEED = 17


@dataclass(frozen=True)
class Settings:
    """One draw of all that is tuned; an algorithm takes those that it has (`used_by`)."""

    #: step size of Adam in every PPO stage
    learning_rate: float
    #: largest mean KL of a TRPO update
    delta: float
    #: rows of a minibatch of PPO
    minibatch_size: int
    #: clip range of PPO's ratio
    clip_range: float
    #: start value of the log standard deviation of each action: the exploration noise
    log_std: float
    #: discount factor
    gamma: float

    def used_by(self, algorithm: str) -> dict[str, float]:
        """Names and values that the algorithm reads; what its stages fix themselves is not among them."""
        stages = ALGORITHMS[algorithm].stages
        names = {"log_std", "gamma"}
        if any("PPO" in stage.updates for stage in stages):
            names |= {"learning_rate", "minibatch_size", "clip_range"}
        if any(stage.has_target or set(stage.updates) & {"TRPO", "plain"} for stage in stages):
            names.add("delta")
        fixed = set.intersection(*(set(stage.changes) for stage in stages))
        return {name: value for name, value in dataclasses.asdict(self).items() if name in names - fixed}


def draw(number: int) -> Settings:
    """The settings of draw `number` (from 0), numbers rounded to three digits.

    >>> draw(0) == draw(0), draw(0) == draw(1)
    (True, False)
    """
    if number < 0:
        raise InputError(f"draw: number is {number}; count draws from 0.")
    generator = np.random.default_rng((_SEED, number))
    values = {name: _drawn(generator, *rule) for name, rule in DISTRIBUTION.items()}
    return Settings(minibatch_size=int(values.pop("minibatch_size")), **values)


def _drawn(generator: np.random.Generator, kind: str, values: tuple[float, ...]) -> float:
    """One number by a rule of `DISTRIBUTION`."""
    if kind == "one of":
        return values[generator.integers(len(values))]
    low, high = np.log(values) if kind == "log-uniform" else values
    at = generator.uniform(low, high)
    return float(f"{np.exp(at) if kind == 'log-uniform' else at:.3g}")


def training_config(algorithm: str, settings: Settings, timesteps: int) -> TrainingConfig:
    """The training of an algorithm with drawn settings; all that is not drawn is the same for every one.

    Of the steps one fifteenth is the first stage (the paper's 10,000 of 150,000), and the KL penalty of the
    second stage has the weight 0.1.
    """
    proximal = ProximalConfig(
        learning_rate=settings.learning_rate,
        minibatch_size=settings.minibatch_size,
        clip_range=settings.clip_range,
    )
    return TrainingConfig(
        algorithm=algorithm,
        timesteps=timesteps,
        warm_start_steps=timesteps // 15,
        gamma=settings.gamma,
        log_std=settings.log_std,
        proximal=proximal,
        fine_tuning=dataclasses.replace(proximal, beta=0.1),
        trust_region=TrustRegionConfig(delta=settings.delta),
    )


def side_by_side(configs: Sequence[TrainingConfig]) -> list[list[int]]:
    """Positions of the configs that one call of `train` can take together, group by group."""
    groups: dict[TrainingConfig, list[int]] = {}
    for at, config in enumerate(configs):
        groups.setdefault(config.shape, []).append(at)
    return list(groups.values())

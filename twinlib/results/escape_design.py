"""The design of the escape experiment: what is varied and held fixed, as results/escape keeps it.

The experiment is run from these records, and chapter 13 reads them back.
"""

from __future__ import annotations

import base64
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twinlib.errors import InputError

if TYPE_CHECKING:
    from twinlib.policy.training import TrainingConfig


@dataclass(frozen=True)
class Barrier:
    """One landscape with its bounded control."""

    #: Its name in the tables.
    name: str
    #: Self-activation a: the tilt; the larger it is, the deeper the progenitor.
    a: float
    #: Noise intensity D.
    noise: float
    #: Largest control on each gene, in expression units per time unit.
    strength: float


@dataclass(frozen=True)
class Design:
    """Everything that the experiment varies and holds fixed; the defaults are the committed run."""

    #: Environment steps of each run.
    timesteps: int = 60_000
    #: Seeds of each setting: 0, 1, ...
    seeds: int = 20
    #: Landscapes that can be escaped from, and one whose control is below the threshold, without noise.
    barriers: tuple[Barrier, ...] = (
        Barrier("low", 1.0, 0.005, 0.3),
        Barrier("middle", 1.1, 0.005, 0.3),
        Barrier("high", 1.2, 0.005, 0.3),
        Barrier("below", 1.0, 0.0, 0.18),
    )
    #: Landscape of the tuning and of everything that is varied one at a time.
    ablation_barrier: str = "middle"
    #: Cost of the mean absolute action of a step: the L1 weight of the released reward.
    l1: float = 0.05
    #: Start value of the log standard deviation of an action: that of the described protocol.
    log_std: float = -1.0
    #: Small, medium and large learning rate of Adam, from which each contestant is tuned.
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    #: Small, medium and large trust region, tuned together with the learning rate.
    deltas: tuple[float, ...] = (0.01, 0.03, 0.1)
    #: Seeds of each setting in the tuning: `first_tuning_seed`, ...
    tuning_seeds: int = 4
    first_tuning_seed: int = 1000
    #: TRPO steps before PPO in two_stage, and PPO steps before the fresh optimizer in PPO_restart.
    warm_start: int = 10_000
    #: Lengths of the warm start that are tried.
    warm_starts: tuple[int, ...] = (0, 1000, 3000, 10_000, 30_000)
    #: Weight of the KL penalty in the second stage.
    beta: float = 0.1
    #: Penalty weights that are tried.
    betas: tuple[float, ...] = (0.01, 0.1, 1.0)
    #: Weight of the entropy in PPO_entropy.
    entropy: float = 0.01
    #: Fresh starts that share the steps of PPO_random_restarts.
    restarts: int = 3
    #: Environment steps of each replica between two updates; episodes have 40, so this is 25 whole ones.
    steps_per_iteration: int = 1000
    #: Episodes by which a final policy is judged.
    episodes: int = 200

    def __post_init__(self) -> None:
        if self.ablation_barrier not in [b.name for b in self.barriers]:
            raise InputError(f"ablation_barrier={self.ablation_barrier!r} is not the name of a barrier.")
        if min(self.timesteps, self.seeds, self.tuning_seeds, self.episodes, self.restarts) < 1:
            raise InputError("the design needs at least one step, seed, tuning seed, episode and restart.")
        if self.steps_per_iteration % 40:
            raise InputError("steps_per_iteration must be a multiple of 40, the length of an episode.")

    def barrier(self, name: str) -> Barrier:
        """The landscape of that name."""
        return next(b for b in self.barriers if b.name == name)


@dataclass(frozen=True)
class Setting:
    """One setting of one contestant on one landscape; its seeds run side by side."""

    #: "tuning", "main", "warm_start", "delta", "beta" or "cause".
    experiment: str
    #: An algorithm of `twinlib.policy`, one of its variants here, or a yardstick.
    contestant: str
    #: Name of the landscape.
    barrier: str
    #: What differs from the main setting, in words; "" in the main experiment.
    setting: str = ""
    #: Learning rate of Adam.
    learning_rate: float = 3e-4
    #: Trust region.
    delta: float = 0.01
    #: Steps of the warm start.
    warm_start: int = 10_000
    #: KL penalty of the second stage.
    beta: float = 0.1
    #: Start value of the log standard deviation.
    log_std: float = -1.0
    #: Does the warm start hand its KL to the second stage?
    hand_over: bool = True
    #: KL target of PPO, None for none.
    target_kl: float | None = None

    @property
    def name(self) -> str:
        """A name for a file."""
        parts = (self.experiment, self.contestant, self.barrier, self.setting)
        return "-".join(p for p in parts if p).replace(" ", "_")

    def head(self) -> dict[str, str]:
        """The columns that say which setting a row is about."""
        return {key: getattr(self, key) for key in ("experiment", "contestant", "barrier", "setting")}


def training_config(design: Design, setting: Setting, timesteps: int) -> TrainingConfig:
    """Return what `train` needs for a setting; networks and minibatches are the same for all."""
    from twinlib.policy.proximal import ProximalConfig
    from twinlib.policy.training import TrainingConfig
    from twinlib.policy.trust_region import TrustRegionConfig

    variant = setting.contestant in ("PPO_entropy", "PPO_random_restarts")
    plain = ProximalConfig(
        learning_rate=setting.learning_rate, minibatch_size=250, target_kl=setting.target_kl
    )
    entropy = design.entropy if setting.contestant == "PPO_entropy" else 0.0
    return TrainingConfig(
        algorithm="PPO" if variant else setting.contestant,
        timesteps=timesteps,
        warm_start_steps=setting.warm_start,
        steps_per_iteration=design.steps_per_iteration,
        proximal=dataclasses.replace(plain, entropy_coefficient=entropy),
        fine_tuning=dataclasses.replace(plain, beta=setting.beta),
        trust_region=TrustRegionConfig(delta=setting.delta),
        critic_minibatch_size=250,
        hand_over=setting.hand_over,
        hidden=(16, 16),
        log_std=setting.log_std,
    )


def packed(path: np.ndarray, upper: float) -> str:
    """Return a path [T + 1, n, 2] of values from 0 to `upper` as bytes in base64."""
    return base64.b64encode(np.rint(np.clip(path / upper, 0, 1) * 255).astype(np.uint8).tobytes()).decode()


def unpacked(text: str, steps: int, upper: float) -> np.ndarray:
    """Return a path [T + 1, n, 2] that was packed, to within upper / 510."""
    flat = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    return flat.reshape(steps + 1, -1, 2) / 255 * upper

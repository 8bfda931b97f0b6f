"""The one registry of algorithms: each is a list of stages, and everything that names algorithms reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from twinlib.errors import InputError


@dataclass(frozen=True)
class Stage:
    """What is done with each iteration's data until the next stage; a stage begins with a fresh optimizer."""

    #: "TRPO", "plain" (the same KL along the plain gradient) or "PPO"; several are taken on the same data
    updates: tuple[str, ...]
    #: field of TrainingConfig that holds the settings of its PPO updates
    settings: str = "proximal"
    #: what the algorithm itself fixes in these settings
    changes: Mapping[str, float | None] = field(default_factory=dict)
    #: field of TrainingConfig with the environment steps at which the stage ends
    until: str = "timesteps"
    #: PPO on the data of a TRPO step: "behaviour" pi_theta / pi_theta_k, or "printed" pi_theta / pi_theta'
    ratio: str = "behaviour"

    def __post_init__(self) -> None:
        if not self.updates or not set(self.updates) <= {"TRPO", "plain", "PPO"}:
            raise InputError(f"Stage: updates is {self.updates!r}; use 'TRPO', 'plain', 'PPO' in a tuple.")
        if self.ratio not in ("behaviour", "printed"):
            raise InputError(f"Stage: ratio is {self.ratio!r}; use 'behaviour' or 'printed'.")

    @property
    def name(self) -> str:
        """What the history calls it: TRPO, plain, PPO or TRPO+PPO."""
        return "+".join(self.updates)

    @property
    def has_target(self) -> bool:
        """Do its PPO updates aim at a KL target (Remark 3.1)? PPO by itself does not."""
        return "PPO" in self.updates and self.settings == "fine_tuning"


@dataclass(frozen=True)
class Algorithm:
    """Stages in their order; the KL of the first one's steps is PPO's target in the second (Remark 3.1)."""

    #: what it is, in the words that tables and pages print
    label: str
    #: from the first environment step to the last
    stages: tuple[Stage, ...]
    #: the algorithm whose tuned settings it takes, because it controls for a part of it; None: its own
    controls_for: str | None = None

    @property
    def takes_trust_region_steps(self) -> bool:
        """Is there a TRPO update in any stage?"""
        return any("TRPO" in stage.updates for stage in self.stages)


#: PPO with clip, penalty and KL target: what two_stage does after its TRPO steps.
SECOND_STAGE = Stage(("PPO",), "fine_tuning")


def _before(*updates: str) -> tuple[Stage, ...]:
    """The second stage after a first one of these updates; everything else is two_stage's."""
    return (Stage(updates, "fine_tuning", until="warm_start_steps"), SECOND_STAGE)


#: Every algorithm by its name, in the order of tables; a new one is one more entry (and a colour in plots).
#: two_stage and the last three are a matched ablation: one second stage after natural steps, after its own
#: steps and a fresh optimizer, after plain gradient steps of the same KL, and after nothing.
ALGORITHMS = {
    "PPO": Algorithm("clip", (Stage(("PPO",)),)),
    "PPO_KL": Algorithm(
        "KL penalty, no clip (Eq. 8 as printed)",
        (Stage(("PPO",), changes={"clip_range": None, "beta": 1.0}),),
        controls_for="PPO",
    ),
    "TRPO": Algorithm("natural gradient throughout", (Stage(("TRPO",)),)),
    "two_stage": Algorithm("TRPO, then PPO with clip, penalty and handed-over KL target", _before("TRPO")),
    "alternating": Algorithm(
        "a TRPO step and PPO epochs in every iteration",
        (Stage(("TRPO", "PPO"), "fine_tuning"),),
    ),
    "alternating_printed": Algorithm(
        "the same with the ratio of Algorithm 1 as printed",
        (Stage(("TRPO", "PPO"), "fine_tuning", ratio="printed"),),
        controls_for="alternating",
    ),
    "PPO_restart": Algorithm(
        "two_stage with PPO in its first stage: a fresh optimizer at the switch",
        _before("PPO"),
        controls_for="two_stage",
    ),
    "second_stage_after_plain": Algorithm(
        "two_stage with plain gradient steps of the same KL in its first stage",
        _before("plain"),
        controls_for="two_stage",
    ),
    "second_stage_alone": Algorithm(
        "two_stage without its first stage", (SECOND_STAGE,), controls_for="two_stage"
    ),
}
#: The algorithms that are tuned; every other one takes the settings of the one that it controls for.
TUNED = tuple(name for name, algorithm in ALGORITHMS.items() if algorithm.controls_for is None)


def tuned_as(name: str) -> str:
    """The algorithm whose tuned settings `name` takes: its own, or those of the one that it controls for."""
    return ALGORITHMS[name].controls_for or name

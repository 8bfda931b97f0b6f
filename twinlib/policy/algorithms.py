"""The one registry of algorithms: each is a list of stages, and everything that names algorithms reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from twinlib.errors import InputError


@dataclass(frozen=True)
class Stage:
    """What is done with each iteration's data until the next stage; a stage begins with a fresh optimizer."""

    #: "TRPO", "PPO" or both, taken one after the other on the same data
    updates: tuple[str, ...]
    #: field of TrainingConfig that holds the settings of its PPO updates
    settings: str = "proximal"
    #: what the algorithm itself fixes in these settings
    changes: Mapping[str, float | None] = field(default_factory=dict)
    #: field of TrainingConfig with the environment steps at which the stage ends
    until: str = "timesteps"

    def __post_init__(self) -> None:
        if not self.updates or not set(self.updates) <= {"TRPO", "PPO"}:
            raise InputError(f"Stage: updates is {self.updates!r}; use 'TRPO', 'PPO' or both, in a tuple.")

    @property
    def name(self) -> str:
        """What the history calls it: TRPO, PPO or TRPO+PPO."""
        return "+".join(self.updates)


@dataclass(frozen=True)
class Algorithm:
    """Stages in their order; after TRPO updates PPO can be handed their KL as its target (Remark 3.1)."""

    #: what it is, in the words that tables and pages print
    label: str
    #: from the first environment step to the last
    stages: tuple[Stage, ...]

    @property
    def takes_trust_region_steps(self) -> bool:
        """Is there a TRPO update in any stage?"""
        return any("TRPO" in stage.updates for stage in self.stages)

    @property
    def step_size(self) -> str:
        """What sets the length of its steps, and so what tuning varies: delta or the learning rate."""
        return "delta" if self.takes_trust_region_steps else "learning rate"


#: Every algorithm by its name, in the order of tables; a new one is one more entry (and a colour in plots).
ALGORITHMS = {
    "PPO": Algorithm("clip", (Stage(("PPO",)),)),
    "PPO_KL": Algorithm(
        "KL penalty, no clip (Eq. 8 as printed)",
        (Stage(("PPO",), changes={"clip_range": None, "beta": 1.0}),),
    ),
    "TRPO": Algorithm("natural gradient throughout", (Stage(("TRPO",)),)),
    "two_stage": Algorithm(
        "TRPO, then PPO with clip, penalty and handed-over KL target",
        (Stage(("TRPO",), until="warm_start_steps"), Stage(("PPO",), "fine_tuning")),
    ),
    "alternating": Algorithm(
        "a TRPO step and PPO epochs in every iteration",
        (Stage(("TRPO", "PPO"), "fine_tuning"),),
    ),
    "PPO_restart": Algorithm(
        "PPO with a fresh optimizer where two_stage switches",
        (Stage(("PPO",), until="warm_start_steps"), Stage(("PPO",))),
    ),
}

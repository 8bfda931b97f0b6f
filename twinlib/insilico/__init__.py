"""The in-silico twin: an environment of latent cells and the policies trained in it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinlib.insilico.actor_critic import ActorCritic
    from twinlib.insilico.environment import (
        CombinationEnv,
        CombinationVectorEnv,
        CytokineEnv,
        CytokineVectorEnv,
        Dynamics,
        EnvironmentConfig,
        GeneScreenEnv,
        GeneScreenVectorEnv,
        World,
        make_dynamics,
        make_world,
        packaged_world,
    )
    from twinlib.insilico.greedy import GreedyLinear, best_dose
    from twinlib.insilico.landscapes import (
        MyeloidConfig,
        MyeloidDynamics,
        MyeloidEnv,
        ToggleConfig,
        ToggleDynamics,
        ToggleSwitchEnv,
    )
    from twinlib.insilico.prediction import predict, rollout_cells
    from twinlib.insilico.proximal import proximal_update
    from twinlib.insilico.released import ReleasedDynamics, ReleasedWorld
    from twinlib.insilico.rollout import generalized_advantage
    from twinlib.insilico.screen import screen_hits
    from twinlib.insilico.trust_region import (
        backtracking_line_search,
        conjugate_gradient,
        fisher_vector_product,
        step_length,
        trust_region_update,
    )
    from twinlib.insilico.two_stage import TrainingConfig, TrainingResult, train

_WHERE = {
    "ReleasedDynamics": "released",
    "ReleasedWorld": "released",
    "make_dynamics": "environment",
    "GreedyLinear": "greedy",
    "best_dose": "greedy",
    "CytokineEnv": "environment",
    "CytokineVectorEnv": "environment",
    "CombinationEnv": "environment",
    "CombinationVectorEnv": "environment",
    "ToggleConfig": "landscapes",
    "ToggleDynamics": "landscapes",
    "ToggleSwitchEnv": "landscapes",
    "MyeloidConfig": "landscapes",
    "MyeloidDynamics": "landscapes",
    "MyeloidEnv": "landscapes",
    "Dynamics": "environment",
    "EnvironmentConfig": "environment",
    "GeneScreenEnv": "environment",
    "GeneScreenVectorEnv": "environment",
    "World": "environment",
    "make_world": "environment",
    "packaged_world": "environment",
    "ActorCritic": "actor_critic",
    "generalized_advantage": "rollout",
    "backtracking_line_search": "trust_region",
    "conjugate_gradient": "trust_region",
    "fisher_vector_product": "trust_region",
    "step_length": "trust_region",
    "trust_region_update": "trust_region",
    "proximal_update": "proximal",
    "TrainingConfig": "two_stage",
    "TrainingResult": "two_stage",
    "train": "two_stage",
    "screen_hits": "screen",
    "predict": "prediction",
    "rollout_cells": "prediction",
}

__all__ = [
    "ActorCritic",
    "CombinationEnv",
    "CombinationVectorEnv",
    "CytokineEnv",
    "CytokineVectorEnv",
    "Dynamics",
    "EnvironmentConfig",
    "GeneScreenEnv",
    "GeneScreenVectorEnv",
    "GreedyLinear",
    "MyeloidConfig",
    "MyeloidDynamics",
    "MyeloidEnv",
    "ReleasedDynamics",
    "ReleasedWorld",
    "ToggleConfig",
    "ToggleDynamics",
    "ToggleSwitchEnv",
    "TrainingConfig",
    "TrainingResult",
    "World",
    "backtracking_line_search",
    "best_dose",
    "conjugate_gradient",
    "fisher_vector_product",
    "generalized_advantage",
    "make_dynamics",
    "make_world",
    "packaged_world",
    "predict",
    "proximal_update",
    "rollout_cells",
    "screen_hits",
    "step_length",
    "train",
    "trust_region_update",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name when the name is first asked for."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

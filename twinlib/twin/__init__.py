"""The comparison: trajectories, dynamic time warping, Wasserstein distances, metrics and statistics."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinlib.twin.metrics import pearson_delta, regression_metrics, skill
    from twinlib.twin.similarity import (
        dtw,
        dtw_distances,
        mean_absolute_difference,
        sliced_wasserstein,
        wasserstein_1,
        wasserstein_2,
    )
    from twinlib.twin.statistics import (
        bootstrap_interval,
        iqm,
        paired_difference,
        probability_of_improvement,
        wilson_interval,
    )
    from twinlib.twin.trajectories import real_trajectory, straight_line, twin_score

_WHERE = {
    "pearson_delta": "metrics",
    "regression_metrics": "metrics",
    "skill": "metrics",
    "dtw": "similarity",
    "dtw_distances": "similarity",
    "mean_absolute_difference": "similarity",
    "sliced_wasserstein": "similarity",
    "wasserstein_1": "similarity",
    "wasserstein_2": "similarity",
    "real_trajectory": "trajectories",
    "straight_line": "trajectories",
    "twin_score": "trajectories",
    "bootstrap_interval": "statistics",
    "iqm": "statistics",
    "paired_difference": "statistics",
    "probability_of_improvement": "statistics",
    "wilson_interval": "statistics",
}

__all__ = [
    "bootstrap_interval",
    "dtw",
    "dtw_distances",
    "iqm",
    "mean_absolute_difference",
    "paired_difference",
    "pearson_delta",
    "probability_of_improvement",
    "real_trajectory",
    "regression_metrics",
    "skill",
    "sliced_wasserstein",
    "straight_line",
    "twin_score",
    "wasserstein_1",
    "wasserstein_2",
    "wilson_interval",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name when the name is first asked for."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

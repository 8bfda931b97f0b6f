"""The experimental twin: supervised prediction f(x, p) -> y and the baselines it must beat."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinlib.experimental.baselines import BASELINES, ceiling
    from twinlib.experimental.perturbation_model import (
        PerturbationModel,
        PerturbationModelConfig,
        fit_perturbation_model,
        predict_anndata,
    )

_WHERE = {
    "PerturbationModel": "perturbation_model",
    "PerturbationModelConfig": "perturbation_model",
    "fit_perturbation_model": "perturbation_model",
    "predict_anndata": "perturbation_model",
    "BASELINES": "baselines",
    "ceiling": "baselines",
}

__all__ = [
    "BASELINES",
    "PerturbationModel",
    "PerturbationModelConfig",
    "ceiling",
    "fit_perturbation_model",
    "predict_anndata",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name when the name is first asked for."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Predicted cells under the names of other tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from twinlib.data.schema import CONTROL
from twinlib.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Convention:
    """How a tool calls columns and controls."""

    #: Its names of our columns of obs.
    columns: Mapping[str, str] = field(default_factory=dict)
    #: Its label of controls.
    control: str = CONTROL
    #: Whether the controls stand in the file beside the predicted cells.
    with_controls: bool = False
    #: Whether X holds counts.
    counts: bool = False


#: Counts this near to a whole number were measured, not predicted.
NEAR_WHOLE = 2e-3

#: Tools whose names can be asked for.
CONVENTIONS = {
    "twinlib": Convention(),
    "cell-eval2": Convention(
        {"perturbation": "target_gene", "cell_context": "context"}, "non-targeting", True, counts=True
    ),
    "scperturb": Convention({"cell_context": "celltype", "dose": "dose_value"}, with_controls=True),
}


def written_as(predicted: AnnData, convention: str, seed: int = 0) -> AnnData:
    """Return predicted cells [n, G] under a tool's names, with the controls beside them if it asks for them.

    cell-eval2 reads counts: where the total counts of the controls are known, X holds whole numbers whose
    expectation is the prediction (drawn with `seed`), else it stays log1p (its input type `lognorm`).
    """
    if convention not in CONVENTIONS:
        raise InputError(f"convention={convention!r} is unknown: give one of {', '.join(CONVENTIONS)}.")
    asked = CONVENTIONS[convention]
    made = _beside_controls(predicted) if asked.with_controls else predicted.copy()
    if asked.counts and "total_counts" in made.obs:
        made.X = _as_counts(made, np.random.default_rng(seed))
        made.uns["twinlib"] = {**made.uns["twinlib"], "scale": "counts"}
    made.obs["perturbation"] = made.obs["perturbation"].astype(str).replace({CONTROL: asked.control})
    taken = [name for ours, name in asked.columns.items() if name in made.obs and name != ours]
    made.obs = made.obs.drop(columns=taken).rename(columns=dict(asked.columns))
    return made


def _beside_controls(predicted: AnnData) -> AnnData:
    """Return predicted cells with the controls they start from below them [2n, G]."""
    from anndata import AnnData

    obs = predicted.obs.copy()
    obs["perturbation"], obs["dose"], obs["extrapolated"] = CONTROL, 0.0, False
    controls = obs.set_index(pd.Index(obs["control"].astype(str), name=None))
    x = np.vstack([predicted.X, predicted.layers["control"]])
    both = pd.concat([predicted.obs, controls]).astype({"perturbation": str})
    return AnnData(x, obs=both, var=predicted.var.copy(), uns=dict(predicted.uns))


def _as_counts(made: AnnData, rng: np.random.Generator) -> np.ndarray:
    """Return counts [n, G] of log1p(counts per 10,000), fractions rounded up as often as they are large."""
    totals = made.obs["total_counts"].to_numpy(dtype=float)[:, None]
    expected = np.expm1(np.asarray(made.X, dtype=float)) * totals / 1e4
    near = np.abs(expected - np.rint(expected)) < NEAR_WHOLE
    drawn = np.floor(expected) + (rng.random(expected.shape) < expected % 1)
    return np.where(near, np.rint(expected), drawn).astype(np.float32)

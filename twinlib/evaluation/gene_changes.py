"""The measured and the predicted change of every gene: what the scores of a perturbation are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from twinlib.data.schema import CONTROL
from twinlib.evaluation.calibration import Arms, arms, observed_change
from twinlib.evaluation.judge import Group, Predictor

if TYPE_CHECKING:
    from twinlib.data.preparation import Prepared


def gene_rows(prepared: Prepared, models: Sequence[Predictor]) -> Iterator[dict[str, object]]:
    """Yield the measured and the predicted change of every gene, for every test perturbation and dose."""
    obs = prepared.cells.obs
    test, values = (obs["split"] == "test").to_numpy(), np.asarray(prepared.cells.X)
    label, context = (obs[name].to_numpy(dtype=str) for name in ("perturbation", "cell_context"))
    dose = obs["dose"].to_numpy(dtype=float)
    for name, level in sorted(set(zip(label[test], dose[test], strict=True))):
        here = test & (label == name) & (dose == level)
        cells = arms(values, here, test & (label == CONTROL), context)
        if name == CONTROL or cells is None:
            continue
        columns = {"measured": observed_change(cells)}
        columns |= {model.name: _change(model, cells, str(name), float(level)) for model in models}
        for i, gene in enumerate(prepared.genes):
            yield {"perturbation": name, "dose": level, "gene": gene} | {k: v[i] for k, v in columns.items()}


def _change(model: Predictor, cells: Arms, label: str, dose: float) -> np.ndarray:
    """Return the change [G] that the first replica predicts for one label, its contexts weighted.

    NaN where the model does not reach every context.
    """
    groups = [Group(label, dose, name, "") for name in cells.contexts]
    if not all(map(model.reaches, groups)):
        return np.full(cells.controls[0].shape[1], np.nan)
    pairs = zip(groups, cells.controls, strict=True)
    shifts = [(model.predict(group, x)[0] - x).mean(axis=0) for group, x in pairs]
    return np.asarray(cells.weights @ np.stack(shifts))

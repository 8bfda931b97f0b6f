"""How much every gene changes under a perturbation, and how surely: a test within contexts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twinlib.data import blocks
from twinlib.data.schema import CONTROL
from twinlib.errors import InputError
from twinlib.evaluation.calibration import MIN_CELLS
from twinlib.verdict.parts import labels_by_dose

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Array = NDArray[np.float64]


def gene_tests(cells: AnnData, perturbation: str) -> pd.DataFrame:
    """Return change, p and q (Benjamini-Hochberg) of every gene [G] under a perturbation (at a dose).

    The change is mean(perturbed) - mean(controls) within contexts, weighted by perturbed cells; its variance
    is Welch's, added up over contexts, and p is two-sided from the normal.
    """
    import pandas as pd
    from scipy.stats import false_discovery_control, norm

    labels = labels_by_dose(cells).to_numpy().astype(str)
    contexts = cells.obs["cell_context"].astype(str).to_numpy()
    change, variance, total = np.zeros(cells.n_vars), np.zeros(cells.n_vars), 0
    for context in np.unique(contexts[labels == perturbation]):
        arms = [np.flatnonzero((labels == name) & (contexts == context)) for name in (perturbation, CONTROL)]
        if min(map(len, arms)) >= MIN_CELLS:
            (mean, square), (start, spread) = (_moments(cells, rows) for rows in arms)
            n = len(arms[0])
            change, variance = change + n * (mean - start), variance + n**2 * (square + spread)
            total += n
    if not total:
        raise InputError(f"{perturbation!r} shares no context of {MIN_CELLS} cells an arm with the controls.")
    z = np.divide(change, np.sqrt(variance), out=np.zeros_like(change), where=variance > 0)
    p = 2.0 * norm.sf(np.abs(z))
    columns = {"gene": cells.var_names.astype(str), "change": change / total, "p": p}
    return pd.DataFrame(columns | {"q": false_discovery_control(p)})


def _moments(cells: AnnData, rows: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return mean and squared standard error [G] of some cells."""
    n = len(rows)
    moments = blocks.group_moments(blocks.take(cells.X, rows), np.zeros(n, dtype=np.int64), 1)
    mean = moments.sums[0] / n
    return mean, np.maximum(moments.squares / n - mean**2, 0.0) / (n - 1)

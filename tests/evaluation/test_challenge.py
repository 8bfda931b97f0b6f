"""The challenge's six metrics: against cell-eval2 (extra [oracle]) on real counts, and where the answer is known.

cell-eval2 brings its own numpy stack, so that it is installed by hand; without it the comparison is skipped.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from twinlib.data.sources import load
from twinlib.errors import InputError
from twinlib.evaluation.challenge import Screen, challenge_metrics

REASON = "pip install 'twinlib[oracle]' to hold the challenge's metrics to cell-eval2"
METRICS = (
    "pds_cosine",
    "expr_mse_unbiased_capped_norm",
    "de_wilcoxon_direction_fidelity_yield_raw",
    "de_wilcoxon_direction_reach_raw",
    "de_wilcoxon_sig_jaccard",
    "de_wilcoxon_lfc_nmae",
)


def screens(cells):
    """Half of the cells of every label as truth; as prediction the other half, a fifth of it from a neighbour."""
    rng = np.random.default_rng(0)
    x = np.asarray(cells.layers["counts"].todense() if hasattr(cells.layers["counts"], "todense") else cells.layers["counts"])
    x, labels = np.rint(x), cells.obs["perturbation"].astype(str).to_numpy()
    genes = tuple(cells.var_names)
    first = np.zeros(len(x), dtype=bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        first[rows[: len(rows) // 2]] = True
    kinds = sorted(set(labels) - {"control"})
    neighbour = dict(zip(kinds, kinds[1:] + kinds[:1], strict=True)) | {"control": "control"}
    told = np.array([neighbour[name] if rng.random() < 0.2 else name for name in labels])
    return Screen.of(x[first], labels[first], genes), Screen.of(x[~first], told[~first], genes)


def of_cell_eval2(real, guess):
    cell_eval2 = pytest.importorskip("cell_eval2", reason=REASON)
    import anndata

    def brought(screen):
        obs = pd.DataFrame({"target": screen.labels}, index=[f"c{i}" for i in range(len(screen.labels))])
        x = screen.counts.astype(np.float32)
        return anndata.AnnData(x, obs.replace("control", "non-targeting"), pd.DataFrame(index=list(screen.genes)))

    config = cell_eval2.EvalConfig.from_preset("vcc2026")
    tidy = cell_eval2.compute_metrics(brought(guess), brought(real), config=config)
    return dict(cell_eval2.aggregate_metrics(tidy).iter_rows())


@pytest.mark.parametrize("name", ["vcc_h1", "norman2019"])
def test_values_are_those_of_cell_eval2(name, real_data):
    real, guess = screens(load(name, data_dir=real_data))
    theirs, ours = of_cell_eval2(real, guess), challenge_metrics(real, guess)
    assert set(ours) == set(METRICS)
    np.testing.assert_allclose([ours[key] for key in METRICS], [theirs[key] for key in METRICS], atol=1e-6)

"""The challenge's six metrics: against cell-eval2 (extra [oracle]) on real counts, and by known answers."""

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
    """Half of the cells of every label as truth, the rest as prediction, a fifth under another label."""
    rng = np.random.default_rng(0)
    x = np.rint(cells.to_df(layer="counts").to_numpy(dtype=float))
    labels = cells.obs["perturbation"].astype(str).to_numpy()
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
        return anndata.AnnData(
            x, obs.replace("control", "non-targeting"), pd.DataFrame(index=list(screen.genes))
        )

    config = cell_eval2.EvalConfig.from_preset("vcc2026")
    tidy = cell_eval2.compute_metrics(brought(guess), brought(real), config=config, num_threads=1)
    return dict(cell_eval2.aggregate_metrics(tidy).iter_rows())


@pytest.mark.parametrize("name", ["vcc_h1", "norman2019"])
def test_values_are_those_of_cell_eval2(name, real_data):
    real, guess = screens(load(name, data_dir=real_data))
    theirs, ours = of_cell_eval2(real, guess), challenge_metrics(real, guess)
    assert set(ours) == set(METRICS)
    np.testing.assert_allclose([ours[key] for key in METRICS], [theirs[key] for key in METRICS], atol=1e-6)


def made(effect, seed=0, genes=60, n=120):
    """Counts in which p0 .. p3 each double ten genes of their own by `effect`."""
    rng = np.random.default_rng(seed)
    names = tuple(f"g{i}" for i in range(genes))
    mean = np.exp(rng.normal(1.5, 0.5, genes))
    counts, labels = [rng.poisson(mean, (n, genes))], ["control"] * n
    for i in range(4):
        own = mean * np.where(np.arange(genes) // 10 == i, 2.0**effect, 1.0)
        counts.append(rng.poisson(own, (n, genes)))
        labels += [f"p{i}"] * n
    return Screen.of(np.concatenate(counts), labels, names)


def test_the_real_screen_itself_is_perfect_and_controls_are_no_prediction():
    real = made(1.0)
    best = challenge_metrics(real, real)
    assert [best[name] for name in METRICS if name != "expr_mse_unbiased_capped_norm"] == [1, 1, 1, 1, 0]
    still = Screen.of(np.tile(real.cells("control"), (5, 1)), real.labels, real.genes)
    none = challenge_metrics(real, still)
    assert none["pds_cosine"] == 0.5 and none["de_wilcoxon_sig_jaccard"] == 0
    assert none["expr_mse_unbiased_capped_norm"] == pytest.approx(1, abs=0.1)
    assert none["de_wilcoxon_lfc_nmae"] == pytest.approx(1)


def test_what_is_no_count_is_refused():
    with pytest.raises(InputError, match="raw counts"):
        Screen.of(np.full((2, 2), 0.5), ["control", "a"], ["x", "y"])
    real = made(1.0)
    with pytest.raises(InputError, match="same genes"):
        challenge_metrics(real, Screen.of(real.counts, real.labels, [f"h{i}" for i in range(60)]))

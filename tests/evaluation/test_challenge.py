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


#: norman2019 holds 124 counts a cell; over all its labels cell-eval2 finds no effect to divide by and stops.
FAR = ("CBL+CNN1", "TMSB4X", "BPGM+SAMD1", "SGK1+TBX3", "NIT1", "MAPK1", "SAMD1+PTPN12", "FOXL2+HOXB9")
LABELS = {"vcc_h1": ("MED12", "SRC", "STAT1", "TET1", "TMSB4X"), "norman2019": FAR}


def screens(cells, labels):
    """All cells as truth; as prediction three quarters of their counts, half of them under another label."""
    rng = np.random.default_rng(0)
    chosen = cells[cells.obs["perturbation"].isin([*labels, "control"])]
    x = np.rint(chosen.to_df(layer="counts").to_numpy(dtype=float))
    truth = chosen.obs["perturbation"].astype(str).to_numpy()
    neighbour = dict(zip(labels, labels[1:] + labels[:1], strict=True)) | {"control": "control"}
    told = np.array([neighbour[name] if rng.random() < 0.5 else name for name in truth])
    thinned = rng.binomial(x.astype(int), 0.75)
    return Screen.of(x, truth, chosen.var_names), Screen.of(thinned, told, chosen.var_names)


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
    table = cell_eval2.aggregate_metrics(tidy)
    return dict(zip(table["metric"], table["mean"], strict=True))


@pytest.mark.parametrize("name", LABELS)
def test_values_are_those_of_cell_eval2(name, real_data):
    real, guess = screens(load(name, data_dir=real_data), LABELS[name])
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

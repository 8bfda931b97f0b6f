"""Our metrics against cell-eval, the Virtual Cell Challenge code (extra [oracle], skipped without it)."""

import numpy as np
import pandas as pd
import pytest

from twinlib.evaluation import metrics


def test_metrics_equal_cell_eval(tmp_path):
    cell_eval = pytest.importorskip(
        "cell_eval", reason="pip install 'twinlib[oracle]' to hold metrics to cell-eval"
    )
    import anndata as ad

    rng = np.random.default_rng(0)
    genes = [f"g{i}" for i in range(30)]
    labels = np.repeat(["control", *genes[:6]], 40)
    effect = {name: 0.5 * rng.normal(size=30) for name in ["control", *genes[:6]]}
    effect["control"] *= 0
    noise = [rng.gamma(2.0, 1.0, size=(len(labels), 30)) for _ in range(2)]
    shift = np.stack([effect[name] for name in labels])
    real, pred = np.abs(noise[0] + shift), np.abs(noise[1] + 0.6 * shift)
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))])
    pair = [ad.AnnData(x, obs=obs.copy(), var=pd.DataFrame(index=genes)) for x in (pred, real)]
    evaluator = cell_eval.MetricsEvaluator(
        *pair,
        control_pert="control",
        pert_col="perturbation",
        num_threads=1,
        outdir=str(tmp_path),
        skip_de=True,
    )
    skipped = ["pearson_edistance", "clustering_agreement"]
    theirs = evaluator.compute(profile="anndata", skip_metrics=skipped, write_csv=False)[0].to_pandas()
    theirs = theirs.set_index("perturbation")

    names = genes[:6]
    means = {
        which: {n: x[labels == n].mean(0) for n in effect} for which, x in (("real", real), ("pred", pred))
    }
    truth, guess = (np.stack([m[n] - m["control"] for n in names]) for m in (means["real"], means["pred"]))
    ours = {
        "mse": [metrics.pseudobulk_mse(means["real"][n], means["pred"][n]) for n in names],
        "mae": [np.abs(means["real"][n] - means["pred"][n]).mean() for n in names],
        "pearson_delta": [
            metrics.pearson_delta(t, g, np.zeros(30)) for t, g in zip(truth, guess, strict=True)
        ],
        "discrimination_score_l1": metrics.pds(truth, guess, target=np.arange(6)),
    }
    for name, values in ours.items():
        np.testing.assert_allclose(theirs.loc[names, name], values, atol=1e-12, err_msg=name)

"""The overlap of the tables against cell-eval's `overlap_at_N` (extra [oracle], skipped without it)."""

from __future__ import annotations

import numpy as np
import pytest

from twinlib.evaluation.metrics import overlap_at_n


def test_overlap_equals_cell_eval_when_every_gene_is_significant():
    """The two rank genes by absolute change; cell-eval first drops those that its test does not find."""
    reason = "pip install 'twinlib[oracle]' to hold the overlap to cell-eval"
    overlap = pytest.importorskip("cell_eval.metrics", reason=reason).de_overlap_metric
    from cell_eval import initialize_de_comparison

    rng = np.random.default_rng(0)
    labels, genes = [f"p{i}" for i in range(8)], [f"g{i}" for i in range(60)]
    real = rng.normal(size=(8, 60))
    predicted = 0.7 * real + rng.normal(size=(8, 60))
    both = initialize_de_comparison(*(findings(labels, genes, change) for change in (real, predicted)))
    for n in (5, 20, 50):
        theirs = overlap(both, k=n)
        ours = [overlap_at_n(t, p, n) for t, p in zip(real, predicted, strict=True)]
        assert 0 < np.mean(ours) < 1
        np.testing.assert_allclose([theirs[label] for label in labels], ours, atol=1e-6)


def findings(labels, genes, change):
    """Changes [P, G] as cell-eval's table of differential expression, every gene significant."""
    import polars as pl

    columns = {"target": np.repeat(labels, len(genes)), "feature": np.tile(genes, len(labels))}
    values = {"log2_fold_change": change.ravel(), "p_value": 0 * change.ravel(), "fdr": 0 * change.ravel()}
    return pl.DataFrame(columns | values)

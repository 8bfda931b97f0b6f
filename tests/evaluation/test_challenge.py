"""The challenge's six metrics by known answers; test_cell_eval2.py holds them to their package."""

from __future__ import annotations

import numpy as np
import pytest

from twinlib.errors import InputError
from twinlib.evaluation.challenge import Screen, challenge_metrics

METRICS = (
    "pds_cosine",
    "expr_mse_unbiased_capped_norm",
    "de_wilcoxon_direction_fidelity_yield_raw",
    "de_wilcoxon_direction_reach_raw",
    "de_wilcoxon_sig_jaccard",
    "de_wilcoxon_lfc_nmae",
)


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
    assert set(best) == set(METRICS)
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

"""Folds: disjoint, stratified, deterministic, with the validation cells outside all of them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from twinlib.data.folds import FOLDS, SET_ASIDE, VALIDATION, assign_folds


def cells(sizes):
    rows = [(label, 1.0, "a", batch) for (label, batch), n in sizes.items() for _ in range(n)]
    return pd.DataFrame(rows, columns=["perturbation", "dose", "cell_context", "batch"])


def test_every_stratum_is_shared_out_to_one_cell():
    obs = cells({("control", "x"): 200, ("A", "x"): 47, ("A", "y"): 103})
    fold = assign_folds(obs, np.random.default_rng(0))
    for _, rows in obs.groupby(["perturbation", "batch"]).indices.items():
        counts = np.bincount(fold[rows] + 1, minlength=FOLDS + 1)
        assert counts.sum() == len(rows) and abs(counts[0] - VALIDATION * len(rows)) <= 1
        assert np.ptp(counts[1:]) <= 1
    assert set(fold) == {SET_ASIDE, *range(FOLDS)}


def test_small_strata_do_not_all_end_in_one_fold():
    obs = cells({(f"P{i}", "x"): 2 for i in range(300)})
    fold = assign_folds(obs, np.random.default_rng(0))
    shares = np.bincount(fold + 1, minlength=FOLDS + 1) / len(obs)
    assert abs(shares[0] - VALIDATION) < 0.04 and np.ptp(shares[1:]) < 0.06


def test_the_same_seed_gives_the_same_folds_whatever_the_order_of_the_labels():
    obs = cells({("control", "x"): 60, ("A", "x"): 40})
    one = assign_folds(obs, np.random.default_rng(3))
    other = assign_folds(obs.astype({"perturbation": "category"}), np.random.default_rng(3))
    assert (one == other).all()
    assert (one != assign_folds(obs, np.random.default_rng(4))).any()

"""The energy test: its statistic, its level, its strata."""

from __future__ import annotations

import numpy as np
import pytest

from twinlib.data.effect_tests import called, energy_test, has_effect, merged_strata
from twinlib.errors import DataError
from twinlib.evaluation.metrics import e_distance


def test_the_statistic_is_the_energy_distance():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(30, 4)), rng.normal(1.0, 1, size=(50, 4))])
    first = np.arange(80) < 30
    outcome = energy_test(x, first, ["a"] * 80, ["1"] * 80, 99, rng)
    np.testing.assert_allclose(outcome.distance, e_distance(x[first], x[~first]))
    assert outcome.p_value == 0.01 and outcome.n_cells == 30


def test_p_values_are_uniform_where_nothing_happened():
    rng = np.random.default_rng(0)
    first = np.arange(60) < 20
    p = [
        energy_test(rng.normal(size=(60, 5)), first, ["a"] * 60, ["1"] * 60, 99, rng).p_value
        for _ in range(100)
    ]
    assert 0.35 < np.mean(p) < 0.65 and np.mean(np.array(p) <= 0.05) <= 0.12


def test_a_batch_that_one_arm_prefers_is_no_effect():
    rng = np.random.default_rng(0)
    batch = np.array(["a"] * 40 + ["b"] * 10 + ["a"] * 10 + ["b"] * 40)
    first = np.arange(100) < 50
    x = rng.normal(size=(100, 3)) + 3.0 * (batch == "b")[:, None]
    assert energy_test(x, first, ["a"] * 100, batch, 199, rng).p_value > 0.05
    assert energy_test(x, first, ["a"] * 100, ["one"] * 100, 199, rng).p_value < 0.01


def test_small_strata_are_merged_and_none_is_lost():
    first = np.array([True] * 6 + [False] * 6 + [True] * 2 + [False] * 9)
    groups = merged_strata(first, ["c"] * 23, ["a"] * 12 + ["b"] * 11)
    assert len(groups) == 1 and sorted(groups[0]) == list(range(23))
    with pytest.raises(DataError, match="5 perturbed cells and 5 controls"):
        merged_strata(first[12:], ["c"] * 11, ["b"] * 11)


def test_calls_hold_the_false_discovery_rate_and_folds_vote():
    assert called(np.array([0.001, 0.011, 0.9, 0.5])).tolist() == [True, True, False, False]
    assert has_effect(np.array([[1, 1], [1, 0], [1, 1], [0, 0], [0, 0]], bool)).tolist() == [True, False]


def test_the_known_knock_outs_are_called_and_shams_are_not(papalexi):
    """JAK2, STAT1, IFNGR1 and SMAD4 answer; cells of the controls under a made-up label do not."""
    rng = np.random.default_rng(0)
    label = papalexi.obs["perturbation"].astype(str).to_numpy()
    batch = papalexi.obs["batch"].astype(str).to_numpy()
    control = rng.permutation(np.flatnonzero(label == "control"))[:600]
    p = {}
    for name in ("JAK2", "STAT1", "IFNGR1", "SMAD4", "sham"):
        rows = control[:150] if name == "sham" else np.flatnonzero(label == name)[:150]
        others = control[150:]
        both = np.concatenate([rows, others])
        x = np.asarray(papalexi.X[both].todense())
        arm = np.arange(len(both)) < len(rows)
        p[name] = energy_test(x, arm, ["one"] * len(both), batch[both], 199, rng).p_value
    assert max(p[name] for name in ("JAK2", "STAT1", "IFNGR1", "SMAD4")) == 1 / 200 and p["sham"] > 0.05

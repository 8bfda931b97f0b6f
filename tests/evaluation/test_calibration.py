"""Changes within contexts, ceilings from halves that share nothing, intervals that hold what they promise."""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import pytest
from scipy import stats

from twinlib.evaluation.calibration import (
    MIN_UNITS,
    arms,
    ceiling,
    estimate,
    half_correlation,
    holm,
    observed_change,
    scaled,
)
from twinlib.evaluation.metrics import pearson_delta

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from simulated_counts import screen


def two_arms(perturbed, controls, contexts=None):
    x = np.concatenate([perturbed, controls])
    first = np.arange(len(x)) < len(perturbed)
    names = np.zeros(len(x)) if contexts is None else contexts
    return arms(x, first, ~first, names)


def delta(truth, guess):
    return pearson_delta(truth, guess, np.zeros_like(truth))


def test_a_change_is_taken_within_contexts_so_that_composition_is_no_response():
    rng = np.random.default_rng(0)
    context = np.array(["a"] * 90 + ["b"] * 10 + ["a"] * 10 + ["b"] * 90)
    x = rng.normal(size=(200, 5)) * 0.01 + (context == "b")[:, None] * 10.0
    perturbed = np.arange(200) < 100
    change = observed_change(arms(x, perturbed, ~perturbed, context))
    assert np.abs(change).max() < 0.02
    assert np.abs(x[perturbed].mean(0) - x[~perturbed].mean(0)).min() > 7


def test_contexts_weigh_as_many_as_they_hold_perturbed_cells_and_small_ones_leave():
    x = np.concatenate(
        [np.full((30, 2), 1.0), np.full((10, 2), 5.0), np.full((4, 2), 99.0), np.zeros((44, 2))]
    )
    context = np.array(["a"] * 30 + ["b"] * 10 + ["c"] * 4 + ["a"] * 20 + ["b"] * 20 + ["c"] * 4)
    sorted_arms = arms(x, np.arange(88) < 44, np.arange(88) >= 44, context)
    np.testing.assert_allclose(observed_change(sorted_arms), (30 * 1 + 10 * 5) / 40)
    assert sorted_arms.contexts == ("a", "b") and sorted_arms.dropped == ("c",)
    assert arms(x, np.arange(88) == 40, np.arange(88) >= 44, context) is None


def test_truth_from_training_controls_would_reward_nothing():
    """Every learned shift subtracts the training controls; so must not the truth."""
    shared = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        controls, perturbed, _, _ = screen(0.0, rng, controls=60)
        mean = np.mean([x[:30].mean(0) for x in perturbed], axis=0) - controls.mean(0)
        shared.append(np.mean([delta(x[30:].mean(0) - controls.mean(0), mean) for x in perturbed]))
    assert np.mean(shared) > 0.2


def test_halves_that_shared_their_controls_would_put_the_ceiling_too_high():
    rng = np.random.default_rng(0)
    x, controls = rng.normal(size=(40, 200)), rng.normal(size=(40, 200))
    apart = half_correlation(two_arms(x, controls), rng)
    halves = x[:20].mean(0) - controls.mean(0), x[20:].mean(0) - controls.mean(0)
    assert abs(apart) < 0.15 < 0.25 < delta(*halves)


def test_the_ceiling_of_a_unit_without_response_is_seldom_resolvable():
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(20):
        nothing = [two_arms(rng.normal(size=(30, 80)), rng.normal(size=(60, 80))) for _ in range(5)]
        called += ceiling([half_correlation(group, rng, 10) for group in nothing]).resolvable
    assert called <= 2
    assert ceiling([0.9, 0.91, 0.9]).resolvable


def test_low_ceilings_say_that_they_are_biased_and_small_groups_have_none():
    assert ceiling([0.02, 0.03, 0.02]).biased and not ceiling([0.5, 0.5]).biased
    assert np.isnan(half_correlation(two_arms(np.ones((7, 3)), np.ones((20, 3))), np.random.default_rng(0)))
    assert np.isnan(ceiling([np.nan]).value)


def folds_by_units(rng, folds=5, units=20, sd=(0.1, 0.05, 0.1)):
    by_unit, by_fold, noise = sd
    return (
        rng.normal(0, by_unit, units)
        + rng.normal(0, by_fold, (folds, 1))
        + rng.normal(0, noise, (folds, units))
    )


def test_the_interval_widens_with_both_kinds_of_chance_and_is_not_given_for_few_units():
    rng = np.random.default_rng(0)
    table = folds_by_units(rng)
    found = estimate(table)
    naive = table.std(ddof=1) / table.size**0.5
    assert found.high - found.mean > 2 * naive
    assert np.isnan(estimate(table[:, : MIN_UNITS - 1]).low)
    assert estimate(table[:, :8]).dof == 4
    one = estimate(table[0])
    np.testing.assert_allclose([one.low, one.high], stats.ttest_1samp(table[0], 0).confidence_interval())
    np.testing.assert_allclose(one.p_value(), stats.ttest_1samp(table[0], 0).pvalue)
    with pytest.raises(ValueError, match="folds x units"):
        estimate([[np.nan] * 8])


def test_error_and_p_value_do_not_hang_on_the_level_of_the_interval():
    table = folds_by_units(np.random.default_rng(0))
    usual = estimate(table)
    for level in (0.5, 0.9, 0.99):
        other = estimate(table, level=level)
        assert other.level == level and (other.high > usual.high) == (level > 0.95)
        assert other.error == pytest.approx(usual.error) and other.smallest == pytest.approx(usual.smallest)
        assert other.p_value() == pytest.approx(usual.p_value())


def coverage(repetitions, **design):
    rng = np.random.default_rng(1)
    intervals = [estimate(folds_by_units(rng, **design)) for _ in range(repetitions)]
    return np.mean([found.low <= 0 <= found.high for found in intervals])


@pytest.mark.parametrize("units", [8, 20])
def test_intervals_cover(units):
    assert coverage(200, units=units) >= 0.9


def overlapping_folds(rng, folds=5, units=20, genes=40, own=0.5):
    """Agreement of each unit's error in a fold with what the other folds share: nothing is to be found."""
    shared = rng.normal(size=(folds, genes))
    trained = (shared.sum(axis=0) - shared) / (folds - 1)
    tested = shared[:, None] + own * rng.normal(size=(folds, units, genes))
    return np.einsum("kug,kg->ku", tested, trained) / genes


@pytest.mark.parametrize("units", [8, 20])
@pytest.mark.parametrize("own", [0.5, 2.0])
def test_intervals_cover_where_all_units_share_an_error_and_folds_their_training(units, own):
    """As the row `mean` on shuffled labels: folds taken as independent held 0 in 83 to 90 of 100 screens."""
    rng = np.random.default_rng(4)
    intervals = [estimate(overlapping_folds(rng, units=units, own=own)) for _ in range(300)]
    assert np.mean([found.low <= 0 <= found.high for found in intervals]) >= 0.92


def test_intervals_stay_finite_where_nothing_but_noise_is_left():
    """By chance the three variances nearly cancel: degrees of freedom of their sum gave any width."""
    rng = np.random.default_rng(3)
    widths = [
        (found.high - found.low) * 60**0.5
        for found in (estimate(folds_by_units(rng, units=12, sd=(0, 0, 1))) for _ in range(200))
    ]
    assert max(widths) < 20 and coverage(200, units=12, sd=(0, 0, 1)) >= 0.9


def test_the_scaled_column_is_zero_for_the_mean_and_one_for_a_replicate():
    rng = np.random.default_rng(0)
    mean = rng.normal(0.2, 0.02, (5, 10))
    replicate = mean + rng.normal(0.3, 0.02, (5, 10))
    assert scaled(mean, mean, replicate) == 0
    np.testing.assert_allclose(scaled(replicate, mean, replicate), 1)
    assert scaled(replicate + 0.1, mean, replicate) > 1
    assert np.isnan(scaled(mean, mean, mean + rng.normal(0, 0.1, (5, 10))))


def test_holm_is_the_rule_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(0).random(12) ** 3
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])

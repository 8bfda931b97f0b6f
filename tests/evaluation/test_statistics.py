"""Statistics against scipy, and their behaviour on few seeds."""

import numpy as np
import pytest

from twinlib.evaluation import statistics as s


def test_iqm_equals_scipy_trim_mean():
    from scipy.stats import trim_mean

    values = np.random.default_rng(0).normal(size=(10, 4))
    assert s.iqm(values) == pytest.approx(trim_mean(values, 0.25, axis=None), abs=1e-12)
    assert s.iqm([1.0, 2.0, 3.0, 1000.0]) == 2.5


def test_many_samples_at_once_give_what_each_gives_alone():
    samples = np.random.default_rng(0).normal(size=(50, 11))
    assert s.iqms(samples).tolist() == [s.iqm(sample) for sample in samples]


def test_bootstrap_interval_covers_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = s.bootstrap_interval(rng.normal(size=30), rng, resamples=300)
        hits += low <= 0 <= high
    assert 0.86 <= hits / 200 <= 0.99


def test_bootstrap_is_stratified_by_task():
    values = np.array([[0.0, 100.0]] * 8)  # no spread inside a task
    assert s.bootstrap_interval(values, np.random.default_rng(0), resamples=50) == (50.0, 50.0)


def test_bootstrap_of_the_iqm_of_one_run_is_a_point():
    assert s.bootstrap_interval([3.0], np.random.default_rng(0), s.iqms, resamples=20) == (3.0, 3.0)


def test_paired_difference_equals_scipy():
    from scipy.stats import permutation_test, ttest_rel

    rng = np.random.default_rng(2)
    a, b = rng.normal(0.5, size=9), rng.normal(size=9)
    found = s.paired_difference(a, b)
    interval = ttest_rel(a, b).confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    oracle = permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found.p_value == pytest.approx(oracle.pvalue, abs=1e-12)


def test_five_seeds_cannot_reach_five_percent():
    found = s.paired_difference(np.arange(5) + 10.0, np.zeros(5))
    assert found.p_value == pytest.approx(2 / 2**5) and found.low > 0


def test_many_seeds_use_random_signs_and_one_seed_says_nothing():
    rng = np.random.default_rng(3)
    assert s.paired_difference(rng.normal(3, size=20), np.zeros(20)).p_value < 0.001
    lone = s.paired_difference([1.0], [0.0])
    assert (lone.low, lone.high, lone.p_value) == (-np.inf, np.inf, 1.0)


def test_probability_of_improvement_equals_mann_whitney():
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(4)
    a, b = rng.normal(0.4, size=10), rng.normal(size=12)
    assert s.probability_of_improvement(a, b) == pytest.approx(mannwhitneyu(a, b).statistic / 120)
    assert s.probability_of_improvement(a, a) == 0.5


def test_wilson_interval_equals_scipy():
    from scipy.stats import binomtest

    for k, n in [(0, 20), (7, 20), (20, 20)]:
        oracle = binomtest(k, n).proportion_ci(method="wilson")
        assert s.wilson_interval(k, n) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@pytest.mark.parametrize(
    "bad", [lambda: s.iqm([]), lambda: s.paired_difference([1, 2], [1]), lambda: s.wilson_interval(3, 2)]
)
def test_bad_input_is_refused(bad):
    with pytest.raises(ValueError):
        bad()

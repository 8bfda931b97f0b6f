"""Eq. 10-12 against dtaidistance and POT, and the properties they must have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from twinlib.evaluation import similarity as sim
from twinlib.evaluation.calibration import estimate

FLOATS = st.floats(-50, 50, allow_nan=False, width=32)


def series(max_size=12):
    return st.integers(1, max_size).flatmap(lambda n: arrays(np.float64, n, elements=FLOATS))


def test_dtw_equals_dtaidistance_c_for_unequal_lengths():
    oracle = pytest.importorskip("dtaidistance.dtw")
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(60):
        a, b = rng.normal(size=rng.integers(1, 30)), rng.normal(size=rng.integers(1, 30))
        expected = oracle.distance(a, b, inner_dist="euclidean", use_c=True)
        worst = max(worst, abs(sim.dtw(a, b)[0] - expected), abs(float(sim.dtw_distances(a, b)) - expected))
    assert worst < 1e-12


@pytest.mark.parametrize("t, s", [(16, 16), (1, 7), (7, 1), (1, 1), (5, 19), (19, 5), (2, 2)])
def test_batched_dtw_equals_the_plain_table(t, s):
    rng = np.random.default_rng(t * 100 + s)
    a, b = rng.normal(size=(3, 5, t)), rng.normal(size=(5, s))
    expected = [[sim.dtw_matrix(a[i, j], b[j])[-1, -1] for j in range(5)] for i in range(3)]
    np.testing.assert_allclose(sim.dtw_distances(a, b), expected, atol=1e-12)


def test_batched_dtw_beyond_one_chunk():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(300, 9)), rng.normal(size=(300, 11))
    np.testing.assert_allclose(
        sim.dtw_distances(a, b), [sim.dtw(x, y)[0] for x, y in zip(a, b, strict=True)], atol=1e-12
    )


@settings(max_examples=60, deadline=None)
@given(series(), series())
def test_path_is_an_alignment_and_pays_the_distance(a, b):
    distance, path = sim.dtw(a, b)
    steps = np.diff(path, axis=0)
    assert path[0].tolist() == [0, 0] and path[-1].tolist() == [len(a) - 1, len(b) - 1]
    assert {tuple(s) for s in steps} <= {(0, 1), (1, 0), (1, 1)}
    assert np.abs(a[path[:, 0]] - b[path[:, 1]]).sum() == pytest.approx(distance, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(series(), series())
def test_dtw_is_symmetric_zero_on_itself_and_shift_free(a, b):
    assert sim.dtw_distances(a, a) == 0
    assert sim.dtw_distances(a, b) == pytest.approx(float(sim.dtw_distances(b, a)), abs=1e-9)
    assert sim.dtw_distances(a[::-1], b[::-1]) == pytest.approx(float(sim.dtw_distances(a, b)), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12).flatmap(lambda n: arrays(np.float64, (2, n), elements=FLOATS)))
def test_dtw_never_exceeds_the_unwarped_sum_and_w1_never_exceeds_eq12(pair):
    a, b = pair
    eq12 = float(sim.mean_absolute_difference(a, b))
    assert float(sim.dtw_distances(a, b)) <= len(a) * eq12 + 1e-9
    assert float(sim.wasserstein_1(a, b)) <= eq12 + 1e-9


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (2, 2), elements=FLOATS))
def test_at_two_points_dtw_is_twice_eq12(pair):
    a, b = pair
    assert float(sim.dtw_distances(a, b)) == pytest.approx(2 * float(sim.mean_absolute_difference(a, b)))


def test_reversed_ramp_has_no_w1_but_an_eq12():
    ramp = np.arange(16) / 15
    assert sim.wasserstein_1(ramp, ramp[::-1]) == pytest.approx(0, abs=1e-15)
    assert sim.mean_absolute_difference(ramp, ramp[::-1]) == pytest.approx(0.533, abs=5e-4)
    assert sim.dtw_distances(ramp, ramp[::-1]) > 1


def test_wasserstein_equals_scipy_and_the_sorted_form():
    from scipy.stats import wasserstein_distance

    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(4, 3, 16)), rng.normal(1, 2, size=(4, 3, 16))
    expected = [[wasserstein_distance(a[i, j], b[i, j]) for j in range(3)] for i in range(4)]
    np.testing.assert_allclose(sim.wasserstein_1(a, b), expected, atol=1e-12)
    sorted_form = np.sqrt(((np.sort(a) - np.sort(b)) ** 2).mean(-1))
    np.testing.assert_allclose(sim.wasserstein_2(a, b), sorted_form, atol=1e-12)
    uneven = sim.wasserstein_1(a[0, 0], b[0, 0][:7])
    assert uneven == pytest.approx(wasserstein_distance(a[0, 0], b[0, 0][:7]), abs=1e-12)


def test_sliced_wasserstein_of_a_shift_and_of_the_same_cloud():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 4))
    assert sim.sliced_wasserstein(x, x, np.random.default_rng(0)) == pytest.approx(0, abs=1e-12)
    shift = np.array([3.0, 0, 0, 0])
    # Along direction u the shift is 3 u_1, and the mean of u_1^2 over directions in four dimensions is 1/4.
    found = sim.sliced_wasserstein(x, x + shift, np.random.default_rng(0), n_projections=4000)
    assert found == pytest.approx(np.sqrt(9 / 4), rel=0.05)


@pytest.mark.parametrize("call", [sim.dtw_distances, sim.mean_absolute_difference, sim.wasserstein_1])
def test_nan_is_refused(call):
    with pytest.raises(ValueError, match="NaN"):
        call([0.0, np.nan], [0.0, 1.0])


def test_eq12_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="must pair up"):
        sim.mean_absolute_difference([0.0, 1.0], [0.0, 1.0, 2.0])


def test_a_verdict_needs_the_twin_nearer_than_every_reference():
    rng = np.random.default_rng(4)
    twin = 1.0 + 0.05 * rng.normal(size=(5, 8))
    far, same = twin + 0.5 + 0.05 * rng.normal(size=(5, 8)), twin + 0.05 * rng.normal(size=(5, 8))
    good = sim.similarity_verdict(twin, {"shuffled": far, "straight_line": far + 0.1, "do_nothing": far})
    assert good.holds and str(good) == "similar: nearer than shuffled, straight_line, do_nothing"
    bad = sim.similarity_verdict(twin, {"shuffled": far, "straight_line": twin - 0.2, "do_nothing": same})
    assert bad.fails_against == ("straight_line", "do_nothing") and not bad.holds
    assert str(bad) == "not shown: fails against straight_line (nearer), do_nothing (cannot be told)"


def test_few_units_have_an_interval_over_the_folds_alone():
    from scipy.stats import t

    table = np.random.default_rng(5).normal(0.3, 0.1, size=(5, 2))
    found, folds = sim.mean_over_folds(table), table.mean(1)
    half = t.ppf(0.975, 4) * folds.std(ddof=1) / 5**0.5
    assert (found.low, found.high) == pytest.approx((folds.mean() - half, folds.mean() + half))
    assert found.units == 2 and found.dof == 4
    many = np.random.default_rng(6).normal(size=(5, 6))
    assert sim.mean_over_folds(many) == estimate(many)


def test_a_verdict_refuses_tables_that_do_not_pair_up():
    with pytest.raises(ValueError, match="must pair up"):
        sim.similarity_verdict(np.ones((5, 3)), {"do_nothing": np.ones((5, 2))})

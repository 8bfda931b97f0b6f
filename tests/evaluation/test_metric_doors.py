"""Any shapes and values at the metrics' doors: a right number or an error of the project."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from twinlib.errors import InputError
from twinlib.evaluation import alarm, metrics, similarity, trajectories
from twinlib.evaluation import statistics as s

ordinary = st.floats(-10, 10)
#: What a metric must not take for a number, or may not survive.
odd = st.sampled_from([np.nan, np.inf, -np.inf, 1e308, 1e200, 1e-200, 5e-324, 0.0, 1.0])
shapes = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
inputs = st.one_of(
    arrays(np.float64, shapes, elements=ordinary),
    arrays(np.float64, shapes, elements=st.one_of(ordinary, odd)),
    arrays(np.float64, st.tuples(st.integers(2, 4), st.integers(2, 3)), elements=ordinary),
    arrays(np.float64, st.integers(2, 3), elements=ordinary),
)


def fits(shape: tuple[str, ...], *values: np.ndarray) -> bool:
    """Whether arrays have the declared axes, agree in them and hold plain finite numbers."""
    sizes: dict[str, int] = {}
    for axes, array in zip(shape, values, strict=True):
        words = axes.split()
        if array.ndim != len(words) or not array.size or not (np.abs(array) <= 1e60).all():
            return False
        for word, size in zip(words, array.shape, strict=True):
            if sizes.setdefault(word, size) != size:
                return False
    return True


def answer(call, *values):
    """The metric's answer, None where it refused; numpy must have nothing to complain of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return call(*values)
        except InputError:
            return None


def mse_of_means(a, b):
    return np.mean([(x - y) ** 2 for x, y in zip(a, b, strict=True)])


def energy(x, y):
    between = [cdist(a, b) for a, b in ((x, y), (x, x), (y, y))]
    sizes = len(x) * len(y), len(x) * (len(x) - 1), len(y) * (len(y) - 1)
    terms = [d.sum() / size for d, size in zip(between, sizes, strict=True)]
    return 2 * terms[0] - terms[1] - terms[2]


@given(inputs, inputs)
def test_pseudobulk_mse(a, b):
    got = answer(metrics.pseudobulk_mse, a, b)
    assert (got is not None) == fits(("G", "G"), a, b)
    if got is not None:
        assert got == pytest.approx(mse_of_means(a, b))


@given(inputs, inputs)
def test_regression_metrics(a, b):
    got = answer(metrics.regression_metrics, a, b)
    assert (got is not None) == fits(("n G", "n G"), a, b)
    if got is not None:
        assert got["MSE"] == pytest.approx(np.mean([mse_of_means(x, y) for x, y in zip(a, b, strict=True)]))
        assert all(np.isfinite(value) for value in got.values()) and -1 <= got["Pearson"] <= 1


@given(inputs, inputs, inputs)
def test_pearson_delta(truth, guess, reference):
    got = answer(metrics.pearson_delta, truth, guess, reference)
    usable = fits(("G", "G", "G"), truth, guess, reference) and len(truth) > 1
    assert (got is not None) == usable
    if got is not None:
        assert -1 <= got <= 1
        change, predicted = truth - reference, guess - reference
        if min(np.ptp(change), np.ptp(predicted)) > 1e-3 and np.abs(reference).max() < 100:
            assert got == pytest.approx(np.corrcoef(change, predicted)[0, 1], abs=1e-6)


@given(inputs, inputs)
def test_e_distance(a, b):
    got = answer(metrics.e_distance, a, b)
    usable = fits(("n G", "m G"), a, b) and min(len(a), len(b)) > 1
    assert (got is not None) == usable
    if got is not None:
        scale = max(np.abs(a).max(), np.abs(b).max())
        assert got == pytest.approx(energy(a, b), abs=1e-6 * scale)


@given(inputs, inputs)
def test_w1(a, b):
    got = answer(metrics.w1_per_gene, a, b)
    assert (got is not None) == fits(("n G", "m G"), a, b)
    if got is not None:
        expected = [wasserstein_distance(a[:, g], b[:, g]) for g in range(a.shape[1])]
        assert got == pytest.approx(expected, rel=1e-9)


@given(inputs, inputs, st.one_of(st.none(), inputs))
def test_pds(truth, guess, target):
    got = answer(metrics.pds, truth, guess, target)
    if not fits(("P G", "P G"), truth, guess):
        assert got is None
    elif target is None:
        nearer = cdist(guess, truth, "cityblock")
        own = np.diag(nearer)[:, None]
        expected = 1 - ((nearer < own).sum(1) + 0.5 * ((nearer == own).sum(1) - 1)) / len(truth)
        assert got == pytest.approx(expected)
    elif got is not None:
        assert fits(("P",), target) and target.shape == (len(truth),)
        assert set(target) <= set(range(-1, truth.shape[1]))


@given(inputs, inputs, st.one_of(st.integers(-1, 4), st.sampled_from([1.5, np.nan, None, "2", True])))
def test_overlap_at_n(truth, guess, n):
    got = answer(metrics.overlap_at_n, truth, guess, n)
    whole = isinstance(n, int) and not isinstance(n, bool)
    assert (got is not None) == (fits(("G", "G"), truth, guess) and whole and 1 <= n <= len(truth))
    if got is not None and np.ptp(guess) > 0:
        best = [sorted(range(len(c)), key=lambda g: -abs(c[g]))[:n] for c in (truth, guess)]
        assert got == len(set(best[0]) & set(best[1])) / n


@given(inputs, inputs)
def test_series(a, b):
    got = answer(similarity.dtw, a, b)
    assert (got is not None) == fits(("T", "S"), a, b)
    if got is not None:
        assert got[0] == pytest.approx(float(similarity.dtw_distances(a, b)))
    paired = answer(similarity.mean_absolute_difference, a, b)
    if fits(("T", "T"), a, b):
        assert float(paired) == pytest.approx(np.mean([abs(x - y) for x, y in zip(a, b, strict=True)]))


@given(inputs, inputs, st.sampled_from(["dtw", "mean_absolute_difference"]))
def test_trajectories(a, b, distance):
    got = answer(trajectories.trajectory_distance, a, b, distance)
    shape = ("T D", "S D") if distance == "dtw" else ("T D", "T D")
    assert (got is not None) == fits(shape, a, b)
    if got is not None:
        one = similarity.dtw_distances if distance == "dtw" else similarity.mean_absolute_difference
        assert got == pytest.approx(np.mean([one(a[:, d], b[:, d]) for d in range(a.shape[1])]))


@given(inputs, inputs, st.integers(-1, 3))
def test_binned(latent, time, horizon):
    got = answer(trajectories.binned, latent, time, horizon)
    usable = fits(("n D", "n"), latent, time) and 0 <= horizon < len(latent)
    assert (got is not None) == usable
    if got is not None:
        assert got.shape == (horizon + 1, latent.shape[1])
        assert (got <= latent.max(0) + 1e-9 * np.abs(latent).max()).all()


@given(inputs, inputs)
def test_runs(a, b):
    got = answer(s.probability_of_improvement, a, b)
    tables = [x[:, None] if x.ndim == 1 else x for x in (a, b)]
    assert (got is not None) == fits(("R tasks", "Q tasks"), *tables)
    if got is not None:
        pairs = [(x > y) + 0.5 * (x == y) for x in tables[0] for y in tables[1]]
        assert got == pytest.approx(np.mean(pairs))
    middle = answer(s.iqm, a)
    assert (middle is not None) == bool(a.size and (np.abs(a) <= 1e60).all())


def test_a_panel_of_one_gene_has_no_correlation() -> None:
    with pytest.raises(InputError, match="at least two genes"):
        metrics.pearson_delta([1.0], [2.0], [0.0])


def test_genes_of_another_panel_are_refused_not_broadcast() -> None:
    cells = np.random.default_rng(0).normal(size=(20, 5))
    for call in (metrics.e_distance, metrics.w1, metrics.pds, trajectories.trajectory_distance):
        with pytest.raises(InputError, match="must pair up"):
            call(cells, cells[:, :1])
    with pytest.raises(InputError, match="must pair up"):
        s.probability_of_improvement(cells, cells[:, :1])


def test_cells_with_numbers_for_flags_or_without_controls_are_refused() -> None:
    latent, time = np.zeros((4, 2)), np.arange(4.0)
    with pytest.raises(InputError, match="True or False"):
        trajectories.RealCells(latent, time, np.array([0, 0, 1, 1]), 1)
    with pytest.raises(InputError, match="no control"):
        _ = trajectories.RealCells(latent, time, np.ones(4, bool), 1).start
    with pytest.raises(InputError, match="NaN"):
        trajectories.RealCells(latent, np.full(4, np.nan), np.ones(4, bool), 1)


def test_pseudotime_of_too_few_cells_is_refused() -> None:
    with pytest.raises(InputError, match="distinct cells"):
        trajectories.diffusion_pseudotime([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], 0)
    with pytest.raises(InputError, match="root"):
        trajectories.diffusion_pseudotime(np.eye(6), 6)


def test_a_twin_of_another_latent_space_is_refused() -> None:
    cells = trajectories.RealCells(np.eye(4), np.arange(4.0), np.array([False, False, True, True]), 1)
    with pytest.raises(InputError, match="where D is 1"):
        alarm.realised(np.zeros((2, 1)), cells)
    with pytest.raises(InputError, match="where D is 1"):
        trajectories.twin_score(np.zeros((2, 1)), cells, np.random.default_rng(0), resamples=3)

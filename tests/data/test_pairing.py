import numpy as np
import pytest

from twinlib.data import pairing
from twinlib.data.pairing import match_space, pair, transport_plan
from twinlib.data.preparation import prepare
from twinlib.errors import DataError, InputError


@pytest.fixture
def prepared(cells):
    return prepare(cells, 12)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("method", ["ot", "random"])
def test_one_control_of_the_same_split_and_context_for_every_perturbed_cell(prepared, split, method):
    pairs = pair(prepared, split, method)
    obs = prepared.cells.obs
    perturbed = np.flatnonzero((obs["split"] == split) & (obs["perturbation"] != "control"))
    np.testing.assert_array_equal(pairs.perturbed, perturbed)
    partner, cell = obs.iloc[pairs.control], obs.iloc[pairs.perturbed]
    assert (partner["perturbation"] == "control").all() and (partner["split"] == split).all()
    assert (partner["cell_context"].to_numpy() == cell["cell_context"].to_numpy()).all()
    assert (cell["perturbation"].to_numpy() == pairs.perturbation).all()
    assert ((pairs.share > 0) & (pairs.share <= 1 + 1e-9)).all()
    assert len(pairs) == len(perturbed) and pairs.method == method


def test_pairs_are_reproducible(prepared):
    for method in ("ot", "random"):
        first, second = pair(prepared, method=method, seed=1), pair(prepared, method=method, seed=1)
        np.testing.assert_array_equal(first.control, second.control)
    assert (pair(prepared, method="random", seed=2).control != first.control).any()


def test_the_plan_is_the_cheapest_assignment():
    """With equal numbers exact transport is an assignment; scipy's solver is the oracle."""
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 3)), rng.normal(size=(40, 3))
    plan, exact = transport_plan(a, b)
    cost = ((a[:, None] - b[None]) ** 2).sum(-1)
    rows, columns = linear_sum_assignment(cost)
    assert exact
    assert (plan * cost).sum() == pytest.approx(cost[rows, columns].mean(), rel=1e-9)
    np.testing.assert_allclose(plan.sum(axis=0), 1 / 40)
    np.testing.assert_allclose(plan.sum(axis=1), 1 / 40)


def test_the_entropic_plan_has_the_same_margins_and_says_so(prepared, monkeypatch):
    monkeypatch.setattr(pairing, "EXACT_ENTRIES", 10)
    rng = np.random.default_rng(0)
    plan, exact = transport_plan(rng.normal(size=(30, 3)), rng.normal(size=(20, 3)))
    assert not exact
    np.testing.assert_allclose(plan.sum(axis=0), 1 / 20, rtol=1e-4)
    np.testing.assert_allclose(plan.sum(axis=1), 1 / 30, rtol=1e-3)
    pairs = pair(prepared)
    assert "A | type 0" in pairs.entropic and len(pairs.entropic) == 8


def test_transport_is_closer_than_chance(prepared):
    space = match_space(prepared)

    def distance(pairs):
        return ((space[pairs.control] - space[pairs.perturbed]) ** 2).sum(axis=1).mean()

    assert distance(pair(prepared)) < 0.8 * distance(pair(prepared, method="random"))


def test_the_space_is_fitted_on_training_cells_only(cells):
    before = prepare(cells, 12, seed=1)
    test = (before.cells.obs["split"] == "test").to_numpy()
    changed = cells.copy()
    x = changed.X.toarray()
    x[test] = x[test][:, np.random.default_rng(0).permutation(x.shape[1])]  # totals stay 10,000 a cell
    changed.X = x
    after = prepare(changed, 12, seed=1)
    np.testing.assert_allclose(match_space(after)[~test], match_space(before)[~test], atol=1e-9)
    np.testing.assert_array_equal(pair(after).control, pair(before).control)


def test_bad_requests_are_one_sentence(prepared):
    for named, word in (({"method": "nearest"}, "'nearest'"), ({"split": "all"}, "'all'")):
        with pytest.raises(DataError, match=word):
            pair(prepared, **named)


def test_a_context_without_controls_is_named(cells):
    lonely = (cells.obs["cell_context"] == "type 1") & (cells.obs["perturbation"] == "control")
    with pytest.raises(DataError, match="'type 1' has perturbed cells but no control"):
        pair(prepare(cells[~lonely].copy(), 12))


def test_transport_finds_the_true_counterpart_more_often_than_chance():
    """The simulator runs each perturbed cell again without its perturbation: who it would have been."""
    from twinlib.data.simulated import simulate_waddington

    cells = simulate_waddington(1500, perturbations=["Gata1", "Pu1", "Gfi1"], counterparts=True)
    known = prepare(cells, 60)
    expected, truth = cells.layers["expected"], cells.layers["counterpart"]
    fate, other = cells.obs["fate"].to_numpy(str), cells.obs["counterpart_fate"].to_numpy(str)
    found = {}
    for method in ("ot", "random"):
        pairs = pair(known, "train", method)
        distance = np.linalg.norm(expected[pairs.control] - truth[pairs.perturbed], axis=1).mean()
        found[method] = distance, (fate[pairs.control] == other[pairs.perturbed]).mean()
    assert found["ot"][0] < 0.85 * found["random"][0]
    assert found["ot"][1] > found["random"][1] + 0.1


def masses_hold(plan, n, m):
    return np.allclose(plan.sum(0), 1 / m, rtol=1e-6) and np.allclose(plan.sum(1), 1 / n, rtol=1e-6)


@pytest.mark.parametrize("distance", [1.0, 15.0, 1e3, 1e6])
def test_one_far_cell_leaves_every_mass_in_the_entropic_plan(distance, monkeypatch):
    monkeypatch.setattr("twinlib.data.pairing.EXACT_ENTRIES", 0)
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(51, 32)), rng.normal(size=(50, 32))
    b[0] *= distance
    plan, exact = transport_plan(a, b)
    assert not exact and masses_hold(plan, 51, 50) and (plan >= 0).all()


@pytest.mark.parametrize("sizes", [(30, 20), (20, 30), (25, 25), (1, 5), (5, 1)])
def test_the_entropic_plan_is_that_of_the_logarithmic_iteration(sizes, monkeypatch):
    import ot

    monkeypatch.setattr("twinlib.data.pairing.EXACT_ENTRIES", 0)
    rng = np.random.default_rng(2)
    a, b = (rng.normal(size=(size, 4)) for size in sizes)
    cost = ot.dist(a, b)
    expected = ot.bregman.sinkhorn_log(
        ot.unif(len(a)), ot.unif(len(b)), cost, 0.05 * cost.mean(), numItermax=100_000
    )
    plan, _ = transport_plan(a, b)
    np.testing.assert_allclose(plan, expected, atol=1e-4 / len(a))


def test_equal_cells_are_matched_with_entropy_too(monkeypatch):
    monkeypatch.setattr("twinlib.data.pairing.EXACT_ENTRIES", 0)
    plan, _ = transport_plan(np.zeros((4, 3)), np.zeros((3, 3)))
    np.testing.assert_allclose(plan, 1 / 12)


@pytest.mark.parametrize("entries", [0, 25_000_000])
def test_cells_that_are_not_finite_have_no_plan(entries, monkeypatch):
    monkeypatch.setattr("twinlib.data.pairing.EXACT_ENTRIES", entries)
    cells = np.random.default_rng(0).normal(size=(6, 3))
    broken = cells.copy()
    broken[2, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        transport_plan(cells, broken)
    with pytest.raises(InputError, match="where D is 3"):
        transport_plan(cells, cells[:, :2])

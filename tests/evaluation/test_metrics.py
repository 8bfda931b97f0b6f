"""Metrics against scikit-learn and scipy, and the rule that doing nothing has no skill."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinlib.evaluation import metrics as m


@pytest.fixture
def clouds():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 12)), rng.normal(0.3, 1.2, size=(55, 12))


def test_regression_metrics_equal_scikit_learn(clouds):
    from scipy.stats import pearsonr
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score, root_mean_squared_error

    x, y = clouds[0], clouds[1][:40]
    found = m.regression_metrics(x, y)
    assert found["MSE"] == pytest.approx(mean_squared_error(x, y), abs=1e-12)
    assert found["RMSE"] == pytest.approx(root_mean_squared_error(x, y), abs=1e-12)
    assert found["MAE"] == pytest.approx(mean_absolute_error(x, y), abs=1e-12)
    assert found["R2"] == pytest.approx(r2_score(x, y), abs=1e-12)
    assert found["Pearson"] == pytest.approx(
        np.mean([pearsonr(a, b)[0] for a, b in zip(x.T, y.T, strict=True)]), abs=1e-12
    )


def test_constant_columns_follow_the_written_rule():
    flat, moving = np.ones((5, 1)), np.arange(5.0)[:, None]
    assert m.regression_metrics(flat, moving)["Pearson"] == 0
    assert m.regression_metrics(flat, flat)["R2"] == 1
    assert m.regression_metrics(flat, moving)["R2"] == 0
    assert m.regression_metrics(moving, moving) == {"MSE": 0, "RMSE": 0, "MAE": 0, "R2": 1, "Pearson": 1}


def test_rmse_is_not_the_root_of_mse(clouds):
    found = m.regression_metrics(clouds[0], clouds[1][:40] * np.linspace(0.1, 4, 12))
    assert found["RMSE"] < np.sqrt(found["MSE"]) - 0.01


def test_pearson_delta_is_blind_to_scale_and_needs_a_direction():
    rng = np.random.default_rng(1)
    control, change = rng.normal(size=30), rng.normal(size=30)
    assert m.pearson_delta(control + change, control + 5 * change, control) == pytest.approx(1)
    assert m.pearson_delta(control + change, control - change, control) == pytest.approx(-1)
    assert m.pearson_delta(control + change, control, control) == 0
    assert m.pearson_delta(control + change, control + 0.7, control) == 0


def test_e_distance_equals_its_double_sum(clouds):
    x, y = clouds

    def mean_distance(a, b, same):
        total = sum(np.linalg.norm(p - q) for p in a for q in b)
        return total / (len(a) * (len(a) - 1) if same else len(a) * len(b))

    expected = 2 * mean_distance(x, y, False) - mean_distance(x, x, True) - mean_distance(y, y, True)
    assert m.e_distance(x, y) == pytest.approx(expected, abs=1e-10)


def test_e_distance_sees_shape_where_means_agree():
    rng = np.random.default_rng(2)
    assert m.e_distance(rng.normal(size=(300, 3)), 3 * rng.normal(size=(300, 3))) > 0.5
    assert abs(m.e_distance(rng.normal(size=(300, 3)), rng.normal(size=(300, 3)))) < 0.05


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10_000))
def test_w1_per_gene_equals_scipy_for_any_sizes(n, k, seed):
    from scipy.stats import wasserstein_distance

    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(k, 2))
    expected = [wasserstein_distance(x[:, g], y[:, g]) for g in range(2)]
    np.testing.assert_allclose(m.w1_per_gene(x, y), expected, atol=1e-12)


def test_pds_is_one_for_the_truth_half_for_chance_and_low_for_the_opposite():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(40, 60))
    assert (m.pds(truth, truth) == 1).all()
    assert m.pds(truth, rng.normal(size=truth.shape)).mean() == pytest.approx(0.5, abs=0.1)
    assert m.pds(truth, -truth).mean() < 0.1


def test_pds_leaves_the_target_gene_out():
    truth = np.zeros((2, 3))
    truth[0], truth[1] = [9, 0, 0], [0, 1, 0]
    guess = np.array([[0, 1.0, 0], [0, 1.0, 0]])
    assert m.pds(truth, guess, target=[0, -1])[0] == 0.5
    assert m.pds(np.array([[9.0, 0, 0], [0, 1, 0]]), np.array([[9.0, 1, 0], [0, 1, 0]]), [0, -1])[0] == 0.5


def test_overlap_at_n():
    truth = np.array([5.0, -4, 3, 0.1, 0.2])
    assert m.overlap_at_n(truth, truth, 3) == 1
    assert m.overlap_at_n(truth, np.array([5.0, 0, 0, 4, 3]), 3) == pytest.approx(1 / 3)
    assert m.overlap_at_n(truth, np.zeros(5), 3) == 0


ERRORS = [name for name, best in m.BEST.items() if best == "error"]
SCORES = [name for name, best in m.BEST.items() if best == "score"]


@pytest.mark.parametrize("name", [*ERRORS, *SCORES])
def test_doing_nothing_has_no_skill(name):
    assert abs(m.skill(name, 0.37, 0.37)) < 1e-6


@pytest.mark.parametrize("name", ["MSE", "RMSE", "MAE", "R2", "Pearson"])
def test_doing_nothing_has_no_skill_on_cells(name, clouds):
    control, perturbed = clouds[0], clouds[1][:40]
    no_change = m.regression_metrics(perturbed, control)[name]
    do_nothing = m.regression_metrics(perturbed, control + np.zeros_like(control))[name]
    assert abs(m.skill(name, do_nothing, no_change)) < 1e-6


@pytest.mark.parametrize(
    "name", ["pearson_delta", "pseudobulk_mse", "e_distance", "w1", "pds", "overlap_at_n"]
)
def test_doing_nothing_has_no_skill_on_populations(name, clouds):
    control, perturbed = clouds
    change = (perturbed - control.mean(0)).mean(0)

    def value(predicted):
        mean = predicted.mean(0)
        return {
            "pearson_delta": lambda: m.pearson_delta(perturbed.mean(0), mean, control.mean(0)),
            "pseudobulk_mse": lambda: m.pseudobulk_mse(perturbed.mean(0), mean),
            "e_distance": lambda: m.e_distance(perturbed, predicted),
            "w1": lambda: m.w1(perturbed, predicted),
            "pds": lambda: m.pds(np.stack([change, -change]), np.stack([mean - control.mean(0)] * 2)).mean(),
            "overlap_at_n": lambda: m.overlap_at_n(change, mean - control.mean(0), 4),
        }[name]()

    assert abs(m.skill(name, value(control.copy()), value(control))) < 1e-6


def test_skill_is_one_for_a_perfect_prediction_and_negative_for_a_worse_one():
    for name in ERRORS:
        assert m.skill(name, 0.0, 0.4) == 1 and m.skill(name, 0.8, 0.4) == pytest.approx(-1)
    for name in SCORES:
        assert m.skill(name, 1.0, 0.4) == 1 and m.skill(name, 0.0, 0.4) < 0
    assert np.isnan(m.skill("MSE", 0.1, 0.0)) and m.skill("MSE", 0.0, 0.0) == 0


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda: m.regression_metrics(np.ones((2, 3)), np.ones((3, 3))), "must pair up"),
        (lambda: m.regression_metrics(np.full((2, 3), np.nan), np.ones((2, 3))), "NaN"),
        (lambda: m.e_distance(np.ones((1, 3)), np.ones((3, 3))), "at least two cells"),
        (lambda: m.overlap_at_n(np.ones(3), np.ones(3), 4), "from 1 to 3"),
        (lambda: m.skill("nonsense", 1, 1), "No skill is defined"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


def test_two_genes_have_a_correlation_and_none_exceeds_one():
    assert m.pearson([1, 2], [3, 5]) == 1
    rows = np.random.default_rng(4).normal(size=(300, 3))
    assert all(m.pearson(row, 3 * row) <= 1 and m.pearson(row, -3 * row) >= -1 for row in rows)


def test_differences_whose_squares_vanish_count_as_constant():
    tiny, moving = np.array([[0.0], [1e-200]]), np.array([[0.0], [1.0]])
    assert m.pearson([0, 1e-200], [0, 1e-200]) == 0
    assert m.regression_metrics(tiny, tiny)["R2"] == 1
    assert m.regression_metrics(tiny, moving)["R2"] == 0


def test_a_constant_whose_mean_is_rounded_is_constant():
    flat = np.full((3, 1), 0.1)
    assert flat.mean() != 0.1  # else this tests nothing
    assert m.regression_metrics(flat, np.arange(3.0)[:, None])["R2"] == 0
    odd = np.array([0.1, 0.7, 0.3])  # its distances from its mean do not quite sum to 0
    assert (odd - odd.mean()).sum() != 0
    assert m.pearson(flat[:, 0], odd) == m.pearson(odd, flat[:, 0]) == 0


def test_a_small_change_has_a_direction_and_rounding_has_none():
    rng = np.random.default_rng(5)
    control, change = rng.normal(size=30), rng.normal(size=30)
    assert m.pearson_delta(control + 0.01 * change, control + 0.001 * change, control) == pytest.approx(1)
    zero, unit = np.zeros(3), np.array([0.0, 1.0, 0.0])
    assert m.pearson_delta(unit, 1.5e-12 * unit, zero) == pytest.approx(1)
    assert m.pearson_delta(unit, 0.5e-12 * unit, zero) == 0
    assert m.pearson_delta(1e6 * control + change, 1e6 * control + 0.7, 1e6 * control) == 0


def test_two_cells_on_each_side_have_an_e_distance():
    x, y = np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[0.0, 1.0], [0.0, 3.0]])
    between = (1 + 3 + np.hypot(3, 3) + np.hypot(3, 1)) / 4
    assert m.e_distance(x, y) == pytest.approx(2 * between - 5 - 2, abs=1e-12)


def test_a_cloud_beside_itself_has_a_finite_e_distance(clouds):
    x = 100 + clouds[0]
    distances = np.linalg.norm(x[:, None] - x[None], axis=-1).sum()
    expected = 2 * distances / 40**2 - 2 * distances / (40 * 39)
    assert m.e_distance(x, x) == pytest.approx(expected, abs=1e-5)  # roots of rounding on the diagonal


@pytest.mark.parametrize("gene", range(3))
def test_pds_without_targets_leaves_no_gene_out(gene):
    truth = np.zeros((2, 3))
    truth[1, gene] = 1
    assert m.pds(truth, truth).tolist() == [1, 1]
    assert m.pds(truth, truth, target=[gene, gene]).tolist() == [0.75, 0.75]


@pytest.mark.parametrize("target", [[-2, 0], [3, 0], [0.5, 0]])
def test_a_target_outside_of_the_genes_is_refused(target):
    with pytest.raises(ValueError, match="from 0 to 2, or -1 for none"):
        m.pds(np.eye(3)[:2], np.eye(3)[:2], target=target)
    assert m.pds(np.eye(3)[:2], np.eye(3)[:2], target=[2, -1]).tolist() == [1, 1]


def test_one_gene_may_be_asked_for_and_none_may_not():
    change = np.array([1.0, -3.0, 2.0])
    assert m.overlap_at_n(change, change, 1) == 1 and m.overlap_at_n(change, [3.0, 1, 2], 1) == 0
    with pytest.raises(ValueError, match="from 1 to 3"):
        m.overlap_at_n(change, change, 0)


def test_skill_is_the_share_of_the_way_to_the_best_value():
    assert m.skill("R2", 0.7, 0.4) == pytest.approx(0.5) and m.skill("MSE", 0.1, 0.4) == pytest.approx(0.75)
    assert m.skill("R2", -0.6, -1.0) == pytest.approx(0.2)
    assert m.skill("pearson_delta", 0.3, 0.1) == 0.3
    assert m.skill("MSE", 1.5, 2.5) == pytest.approx(0.4) and np.isnan(m.skill("R2", 0.5, 1.0))

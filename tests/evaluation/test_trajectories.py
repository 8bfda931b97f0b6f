"""Trajectories of clouds whose order is known, and a twin score whose answer is known."""

import numpy as np
import pytest

from twinlib.evaluation import trajectories as t


@pytest.fixture
def moving_cells():
    """Cells that move along a line in four dimensions: controls at its start, perturbed cells further on."""
    rng = np.random.default_rng(0)
    time = np.concatenate([rng.uniform(0, 0.3, 200), rng.uniform(0.2, 1.0, 200)])
    latent = np.outer(time, [4.0, -2.0, 1.0, 0.0]) + rng.normal(scale=0.1, size=(400, 4))
    return t.RealCells(latent, time, np.arange(400) >= 200)


def test_bins_hold_equal_counts_in_the_order_of_time():
    values = np.arange(10.0)[:, None]
    np.testing.assert_allclose(t.binned(values, -values[:, 0], horizon=4)[:, 0], [8.5, 6.5, 4.5, 2.5, 0.5])
    with pytest.raises(ValueError, match="cannot fill 11 bins"):
        t.binned(values, values[:, 0], horizon=10)


def test_diffusion_pseudotime_finds_the_order_of_a_line(moving_cells):
    from scipy.stats import spearmanr

    root = int(moving_cells.time.argmin())
    found = t.diffusion_pseudotime(moving_cells.latent, root)
    assert found[root] == 0 and np.isfinite(found).all()
    assert spearmanr(found, moving_cells.time)[0] > 0.95


def test_diffusion_pseudotime_puts_unconnected_cells_last():
    rng = np.random.default_rng(1)
    latent = np.concatenate([rng.normal(size=(60, 3)), 1000 + rng.normal(size=(60, 3))])
    found = t.diffusion_pseudotime(latent, 0)
    assert np.isfinite(found).all() and found[60:].min() >= found[:60].max() - 1e-9


def test_diffusion_pseudotime_bears_many_equal_cells():
    """Sparse cells with few genes can be equal; more equal cells than neighbours make every distance 0."""
    rng = np.random.default_rng(7)
    time = np.sort(rng.uniform(size=150))
    latent = np.outer(time, [4.0, -2.0, 1.0]) + rng.normal(scale=0.05, size=(150, 3))
    repeated = np.concatenate([latent, np.repeat(latent[40:41], 60, axis=0)])
    found = t.diffusion_pseudotime(repeated, 0)
    assert np.isfinite(found).all() and np.ptp(found[150:]) == 0 and found[150] == found[40]
    np.testing.assert_allclose(found[:150], t.diffusion_pseudotime(latent, 0), atol=1e-12)


def test_medoid_is_the_cell_nearest_to_all_others():
    assert t.medoid([[0.0], [10.0], [4.0], [5.0], [3.0]]) == 2


def test_straight_line_and_do_nothing():
    line = t.straight_line([0.0, 1.0], [3.0, 1.0], horizon=3)
    np.testing.assert_allclose(line, [[0, 1], [1, 1], [2, 1], [3, 1]])
    assert (t.do_nothing([2.0, 1.0], horizon=3) == [[2.0, 1.0]] * 4).all()


def test_halves_are_disjoint_and_keep_both_kinds(moving_cells):
    marked = t.RealCells(np.arange(400.0)[:, None], moving_cells.time, moving_cells.perturbed, horizon=0)
    first, second = marked.halves(np.random.default_rng(0))
    assert (first + second) * 200 == pytest.approx(np.arange(400).sum())  # every cell in one of the halves


def test_scores_of_known_twins(moving_cells):
    rng = np.random.default_rng(2)
    real = t.twin_score(moving_cells.trajectory, moving_cells, rng, resamples=50)
    still = t.twin_score(t.do_nothing(moving_cells.start), moving_cells, rng, resamples=50)
    wrong = t.twin_score(t.straight_line(moving_cells.start, [-4, 2, -1, 0]), moving_cells, rng, resamples=50)
    assert real.resolvable and real.score > 1 and real.distance == 0  # nearer to itself than a half is
    assert still.score == pytest.approx(0) and still.low <= 0 <= still.high
    assert wrong.score < 0 and wrong.high < 0


def test_two_real_halves_score_about_one(moving_cells):
    other = moving_cells.rows(np.arange(0, 400, 2))
    held = moving_cells.rows(np.arange(1, 400, 2))
    found = t.twin_score(other.trajectory, held, np.random.default_rng(3), resamples=50)
    assert found.score == pytest.approx(1, abs=0.1)


def test_no_effect_is_not_resolvable():
    """Where the perturbation does nothing and time is noise, do-nothing is as near as the real halves are."""
    rng = np.random.default_rng(4)
    cells = t.RealCells(rng.normal(size=(320, 3)), rng.uniform(size=320), np.arange(320) >= 160)
    found = t.twin_score(t.do_nothing(cells.start), cells, rng, resamples=100)
    assert not found.resolvable or found.do_nothing < found.halves
    assert str(t.TwinScore(0, 0, 0, 0, 0, 0, False)) == "not resolvable"


def test_reversal_is_seen_by_dtw_and_eq12_but_not_by_w1(moving_cells):
    real = moving_cells.trajectory
    back = t.reversed_time(real)
    assert t.trajectory_distance(real, back, "w1") == pytest.approx(0, abs=1e-12)
    assert t.trajectory_distance(real, back, "dtw") > 1
    assert t.trajectory_distance(real, back, "mean_absolute_difference") > 0.5


def test_distances_are_means_over_dimensions(moving_cells):
    real, still = moving_cells.trajectory, t.do_nothing(moving_cells.start)
    parts = t.per_dimension(real, still, "dtw")
    assert parts.shape == (4,) and t.trajectory_distance(real, still) == pytest.approx(parts.mean())
    with pytest.raises(ValueError, match="no distance"):
        t.per_dimension(real, still, "euclid")


def test_path_length_of_a_line():
    assert t.path_length(t.straight_line([0.0, 0.0], [3.0, -1.0])) == pytest.approx(2.0)


def test_the_interval_of_a_score_holds_its_point(moving_cells):
    """Resampled trajectories are noisier than the real one; that must not move the interval off the score."""
    real, start = moving_cells.trajectory, moving_cells.start
    for distance in t.DISTANCES:
        stick = t.yardstick(moving_cells, np.random.default_rng(5), distance, resamples=100)
        for twin in (t.reversed_time(real), t.do_nothing(start), t.straight_line(start, real[-1]), real):
            found = stick.score(twin)
            assert found.resolvable and found.low <= found.score <= found.high, distance


def test_the_interval_covers_the_expected_score_about_as_often_as_it_says():
    rng, twin = np.random.default_rng(6), t.reversed_time(t.straight_line([0.0, 0.0], [2.0, -1.0]))
    found = []
    for _ in range(60):
        time = np.concatenate([rng.uniform(0, 0.3, 80), rng.uniform(0.2, 1.0, 80)])
        latent = np.outer(time, [2.0, -1.0]) + rng.normal(scale=0.5, size=(160, 2))
        cells = t.RealCells(latent, time, np.arange(160) >= 80)
        found.append(t.twin_score(twin, cells, rng, resamples=60))
    expected = np.mean([f.score for f in found])
    assert np.mean([f.low <= expected <= f.high for f in found]) >= 0.85


@pytest.fixture(scope="module")
def harvested():
    """Simulated cells harvested at known times, and a latent space for them."""
    import torch
    from sklearn.decomposition import PCA

    from twinlib.data.preparation import prepare
    from twinlib.data.simulated import simulate_waddington

    snapshots = (1, 2, 4, 8, 16, 40)
    cells = simulate_waddington(1400, perturbations=("Pu1", "EKLF"), snapshots=snapshots, onset=10.0)
    prepared = prepare(cells, 50)
    axes = PCA(5, random_state=0).fit(prepared.scale(prepared.expression("train")))

    class Components:
        def encode(self, x):
            return torch.from_numpy(axes.transform(x.numpy()))

    return prepared, Components()


def test_measured_times_give_one_point_each(harvested):
    cells = t.real_cells(*harvested, "Pu1", measured=True)
    assert set(cells.time[~cells.perturbed]) == {0.0} and cells.time.max() == 40
    assert len(cells.trajectory) == 7
    np.testing.assert_allclose(cells.trajectory[0], cells.start)
    np.testing.assert_allclose(cells.trajectory[2], cells.latent[cells.time == 2].mean(0))
    np.testing.assert_allclose(cells.positions, np.array([0, 1, 2, 4, 8, 16, 40]) / 40)


def test_halves_and_draws_keep_every_measured_time(harvested):
    cells, rng = t.real_cells(*harvested, "Pu1", measured=True), np.random.default_rng(0)
    assert [len(half) for half in cells.halves(rng)] == [7, 7]
    assert (np.unique(cells.resampled(rng).time) == np.unique(cells.time)).all()


def test_measured_time_is_refused_where_there_is_none(harvested):
    import dataclasses

    prepared, space = harvested
    same = prepared.cells.copy()
    same.obs["time"] = 40.0
    with pytest.raises(ValueError, match="one harvest time"):
        t.real_cells(dataclasses.replace(prepared, cells=same), space, "Pu1", measured=True)
    del same.obs["time"]
    with pytest.raises(ValueError, match="holds no harvest times; take pseudotime"):
        t.real_cells(dataclasses.replace(prepared, cells=same), space, "Pu1", measured=True)


def test_one_context_alone_can_be_asked_for(harvested):
    prepared, space = harvested
    every = t.real_cells(prepared, space, "Pu1", measured=True)
    assert len(t.real_cells(prepared, space, "Pu1", measured=True, context="reference").time) == len(
        every.time
    )
    with pytest.raises(ValueError, match="fewer than 2 test cells"):
        t.real_cells(prepared, space, "Pu1", context="elsewhere")


def test_a_path_is_read_at_the_measured_times():
    line = t.straight_line([0.0, 1.0], [3.0, 1.0], horizon=15)
    np.testing.assert_allclose(t.at_positions(line, [0, 1 / 3, 1]), [[0, 1], [1, 1], [3, 1]])
    with pytest.raises(ValueError, match="outside of 0 to 1"):
        t.at_positions(line, [0, 1, 3])


def test_a_random_line_has_the_asked_length():
    line = t.random_line([1.0, 2.0, 3.0], 2.5, 15, np.random.default_rng(0))
    assert np.linalg.norm(line[-1] - line[0]) == pytest.approx(2.5) and line[0].tolist() == [1, 2, 3]

"""A failed experiment whose answer is known: cells that moved along a line, and cells that did not."""

import numpy as np
import pytest

from twinlib.evaluation import alarm
from twinlib.evaluation.trajectories import RealCells, straight_line


@pytest.fixture
def experiment():
    rng = np.random.default_rng(0)
    shift = np.array([3.0, 0.0, -1.0])
    latent = rng.normal(size=(300, 3))
    perturbed = np.arange(300) >= 200
    latent[perturbed] += shift
    return RealCells(latent, latent @ shift, perturbed), straight_line(np.zeros(3), shift)


def test_spoiling_puts_controls_in_the_place_of_perturbed_cells(experiment):
    cells, _ = experiment
    none, all_of_them = (alarm.spoiled(cells, s, np.random.default_rng(1)) for s in (0.0, 1.0))
    assert none.latent[none.perturbed][:, 0].mean() > 2.5
    assert np.abs(all_of_them.latent[all_of_them.perturbed].mean(0)).max() < 0.4
    with pytest.raises(ValueError, match="from 0 to 1"):
        alarm.spoiled(cells, 1.5, np.random.default_rng(1))
    with pytest.raises(ValueError, match="a perturbed cell and two controls"):
        alarm.spoiled(cells.rows(np.arange(199, 300)), 0.5, np.random.default_rng(1))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_arms_share_no_cell_and_have_the_same_sizes_whatever_the_share(experiment, share):
    cells, _ = experiment
    for rows, sizes in ((np.arange(300), (100, 100)), (np.arange(180, 300), (10, 10))):
        failed = alarm.spoiled(cells.rows(rows), share, np.random.default_rng(1))
        assert ((~failed.perturbed).sum(), failed.perturbed.sum()) == sizes
        assert len(np.unique(failed.latent[:, 0])) == sum(sizes)


def test_a_swapped_label_takes_the_cells_of_another_experiment(experiment):
    cells, _ = experiment
    other = RealCells(cells.latent - 50.0 * cells.perturbed[:, None], cells.time, cells.perturbed)
    found = alarm.spoiled(cells, 1.0, np.random.default_rng(1), by=other)
    assert found.latent[found.perturbed].max() < -30


def test_agreement_falls_in_step_with_the_share(experiment):
    cells, twin = experiment
    rng = np.random.default_rng(2)
    values = [
        np.mean([alarm.realised(twin, alarm.spoiled(cells, share, rng)) for _ in range(30)])
        for share in (0.0, 0.5, 1.0)
    ]
    assert values == pytest.approx([1.0, 0.5, 0.0], abs=0.1)
    sound, failed = (alarm.spoiled(cells, s, rng) for s in (0.0, 1.0))
    assert alarm.gain(twin, sound) > alarm.gain(twin, failed)
    assert alarm.realised(np.zeros((16, 3)), cells) == 0.0


def halves_of(cells):
    """Two experiments of the same kind."""
    return cells.rows(np.arange(0, 300, 2)), cells.rows(np.arange(1, 300, 2))


def test_failed_experiments_are_flagged_and_the_sound_one_is_not(experiment):
    cells, twin = experiment
    sound, asked = halves_of(cells)
    for agreement in (alarm.realised, alarm.gain):
        rates = alarm.alarm_rates(
            twin, sound, asked, np.random.default_rng(3), agreement, (0.0, 1.0), rounds=30
        )
        assert rates["flagged"].tolist() == [0.0, 1.0]
        assert rates["agreement"].iloc[0] > rates["threshold"].iloc[0] > rates["agreement"].iloc[1]


def test_the_rate_of_false_alarms_is_the_intended_one():
    """Both the experiment that sets the threshold and the one that is judged are noisy."""
    rng, twin, flagged = np.random.default_rng(4), straight_line(np.zeros(3), np.array([0.5, 0.0, 0.0])), []
    for _ in range(200):
        latent, perturbed = rng.normal(size=(300, 3)), np.arange(300) >= 200
        latent[perturbed, 0] += 0.5
        sound, asked = halves_of(RealCells(latent, np.zeros(300), perturbed))
        flagged.append(alarm.alarm_rates(twin, sound, asked, rng, shares=(0.0,), rounds=10)["flagged"][0])
    assert 0.01 <= np.mean(flagged) <= 0.10


def test_without_an_effect_a_failed_experiment_is_flagged_as_seldom_as_a_sound_one():
    rng, rates = np.random.default_rng(5), []
    for _ in range(100):
        cells = RealCells(rng.normal(size=(300, 3)), np.zeros(300), np.arange(300) >= 200)
        sound, asked = halves_of(cells)
        twin = straight_line(np.zeros(3), 0.2 * rng.normal(size=3))  # what a twin of noise predicts
        rates.append(alarm.alarm_rates(twin, sound, asked, rng, shares=(0.0, 1.0), rounds=10)["flagged"])
    assert np.mean(rates, axis=0) == pytest.approx([0.05, 0.05], abs=0.06)


def test_a_twin_that_predicts_nothing_raises_no_alarm(experiment):
    sound, asked = halves_of(experiment[0])
    rates = alarm.alarm_rates(np.zeros((16, 3)), sound, asked, np.random.default_rng(6), rounds=5)
    assert (rates["flagged"] == 0).all()

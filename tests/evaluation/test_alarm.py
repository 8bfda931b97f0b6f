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
    np.testing.assert_array_equal(none.latent, cells.latent)
    assert np.abs(all_of_them.latent[cells.perturbed].mean(0)).max() < 0.4
    assert all_of_them.perturbed.sum() == 100
    with pytest.raises(ValueError, match="from 0 to 1"):
        alarm.spoiled(cells, 1.5, np.random.default_rng(1))


def test_a_swapped_label_takes_the_cells_of_another_experiment(experiment):
    cells, _ = experiment
    other = RealCells(cells.latent - 50.0 * cells.perturbed[:, None], cells.time, cells.perturbed)
    found = alarm.spoiled(cells, 1.0, np.random.default_rng(1), by=other)
    assert found.latent[found.perturbed].max() < -30


def test_agreement_falls_in_step_with_the_share(experiment):
    cells, twin = experiment
    rng = np.random.default_rng(2)
    values = [alarm.realised(twin, alarm.spoiled(cells, s, rng)) for s in (0.0, 0.5, 1.0)]
    assert values == pytest.approx([1.0, 0.5, 0.0], abs=0.1)
    assert alarm.gain(twin, cells) > alarm.gain(twin, alarm.spoiled(cells, 1.0, rng))
    assert alarm.realised(np.zeros((16, 3)), cells) == 0.0


def test_alarms_come_when_they_should_and_seldom_when_not(experiment):
    cells, twin = experiment
    for agreement in (alarm.realised, alarm.gain):
        rates = alarm.alarm_rates(twin, cells, np.random.default_rng(3), agreement, (0.0, 1.0), rounds=60)
        sound, failed = rates["flagged"]
        assert sound < 0.2 and failed > 0.9
        assert (rates["low"] <= rates["flagged"] + 1e-12).all()
        assert (rates["flagged"] <= rates["high"] + 1e-12).all()

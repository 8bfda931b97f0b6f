"""The experiment on trajectories: a fold of cells whose answer is known, and what its tables hold."""

import numpy as np
import pandas as pd
import pytest

from experiments import trajectories as experiment
from experiments.folder import Parts
from twinlib.data.preparation import prepare
from twinlib.data.simulated import simulate_waddington
from twinlib.errors import InputError


@pytest.fixture(scope="module")
def cells():
    return simulate_waddington(
        2_400, perturbations=("Pu1", "Gata1"), snapshots=(1, 8, 40), onset=10.0, control_weight=2.0
    )


@pytest.fixture(scope="module")
def fold(cells):
    return experiment.Fold(prepare(cells, 60))


def test_a_run_of_one_fold_is_one_form_of_table(cells, fold, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "cells_of", lambda dataset: (cells, 60))
    monkeypatch.setattr(experiment, "ROUNDS", {"shift": 5, "dtw_gain": 2})  # the rates are not compared here
    monkeypatch.setattr(experiment, "HALVINGS", 4)
    run = experiment.Trajectories(dataset="waddington", seeds=2, shams=1)
    assert len(run.parts(Parts(tmp_path))) == 10
    real, sham = run.compute("test~1", None), run.compute("sham1~1", None)
    columns = (
        "experiment dataset split_kind split part model setting seed against perturbation dose cell_context"
    )
    for part in (real, sham):
        assert list(pd.DataFrame(part.tables["scores"])) == [*columns.split(), "space", "metric", "value"]
    scores = pd.DataFrame(real.tables["scores"])
    assert np.isfinite(scores["value"]).all()
    measured = scores[(scores["setting"] == "measured") & (scores["metric"] == "dtw")]
    rows = {"do_nothing": 1, "straight_line": 1, "random": 2, "experimental": 1, "experimental_shuffled": 2}
    rows |= {"reversed": 1, "training_times": 1, "real_halves": 1}
    assert measured.groupby("model").size().to_dict() == {name: 2 * number for name, number in rows.items()}
    assert (scores[(scores["model"] == "reversed") & (scores["metric"] == "w1")]["value"] < 1e-9).all()
    flags = pd.DataFrame(sham.tables["scores"])
    assert set(flags["metric"]) == {"flagged"} and set(flags["setting"]) == {"shift"}
    assert {"panel_rule", "truth_rule", "data_hash", "space"} < set(real.run) and not sham.run


def test_shuffled_paths_are_those_of_another_perturbation(fold):
    first, second = fold.units()
    own, other = fold.path(fold.twin, first), fold.path(fold.twin, first, second.perturbation)
    assert np.abs(own - other).max() > 0.1
    for path in fold.shuffled(3)(first):
        np.testing.assert_array_equal(path, other)


def test_with_one_perturbation_the_shuffled_twin_is_fitted_to_permuted_labels(cells):
    single = cells[cells.obs["perturbation"].astype(str) != "Gata1"].copy()
    fold = experiment.Fold(prepare(single, 60))
    (unit,) = fold.units()
    (path,) = fold.shuffled(1)(unit)
    moved = [np.linalg.norm(p[-1] - p[0]) for p in (path, fold.path(fold.twin, unit))]
    assert moved[0] < 0.3 * moved[1]


def test_permuted_labels_leave_test_cells_and_counts_alone(fold):
    before, after = (
        fold.prepared.cells.obs,
        experiment.relabelled(fold.prepared, np.random.default_rng(0)).cells.obs,
    )
    same = before["perturbation"].astype(str) == after["perturbation"].astype(str)
    train = before["split"] == "train"
    assert same[~train].all() and not same[train].all()
    assert (before["perturbation"].value_counts() == after["perturbation"].value_counts()).all()
    assert ((after["dose"] == 0) == (after["perturbation"].astype(str) == "control")).all()


def test_the_line_of_the_alarm_shares_no_control_with_its_start(fold):
    """A line that ends at a training mean is long where the asked controls lie low: it agrees with noise."""
    unit = fold.units()[0]
    near, far = (fold.shift_line(unit, start) for start in (np.zeros(32), np.ones(32)))
    np.testing.assert_allclose(near[-1] - near[0], far[-1] - far[0], atol=1e-12)


def test_effects_are_called_by_fold_and_count_in_three():
    rows = []
    for number, p in enumerate((0.001, 0.001, 0.001, 0.9, 0.9), 1):
        for name, value in (("A", p), ("B", 0.8)):
            rows.append({"part": "test", "split": f"fold {number}", "perturbation": name, "p_value": value})
    groups = experiment.with_effect(pd.DataFrame(rows).assign(cell_context="all"))
    assert groups.groupby("perturbation")["has_effect"].first().to_dict() == {"A": True, "B": False}
    assert groups["called"].sum() == 3


def test_an_unknown_dataset_is_refused():
    with pytest.raises(InputError, match="no dataset 'vcc'; choose from papalexi2021"):
        experiment.Trajectories(dataset="vcc")

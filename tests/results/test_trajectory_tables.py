"""Verdicts, scores and rates out of rows whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from twinlib.results import trajectory_tables as t

UNITS = [(f"p{i}", "all") for i in range(8)]
EFFECT = set(UNITS[:7])
DISTANCE = {
    "do_nothing": 3.0,
    "straight_line": 2.5,
    "experimental": 2.0,
    "experimental_shuffled": 2.9,
    "real_halves": 1.0,
}


def row(fold, unit, model, value, **more):
    head = {"split": f"fold {fold}", "part": "test", "perturbation": unit[0], "cell_context": unit[1]}
    row = {
        "model": model,
        "seed": 0,
        "setting": "pseudotime",
        "against": "real",
        "metric": "dtw",
        "value": value,
    }
    return head | row | more


@pytest.fixture
def scores():
    rng, rows = np.random.default_rng(0), []
    for fold in range(1, 6):
        for unit in UNITS:
            noise = 0.02 * rng.normal()
            for model, value in DISTANCE.items():
                more = {"setting": "pseudotime"}
                for seed in (0, 1) if model.endswith("shuffled") else (0,):
                    shift = (-1) ** seed * 0.1 * model.endswith("shuffled")  # seeds average out
                    rows.append(
                        row(fold, unit, model, value + noise + 0.01 * rng.normal() + shift, seed=seed) | more
                    )
            for share in (0.0, 1.0):
                flagged = {"setting": "shift", "metric": "flagged", "against": f"{share:g}"}
                rows.append(row(fold, unit, "experimental", share * 0.9, **flagged))
                rows.append(row(fold, unit, "experimental", 0.05, **flagged) | {"part": "sham1"})
    return pd.DataFrame(rows)


def test_a_fold_table_averages_seeds_and_drops_units_that_a_fold_lacks(scores):
    table = t.fold_table(scores, EFFECT, setting="pseudotime", metric="dtw", model="experimental_shuffled")
    assert table.shape == (5, 7) and table.to_numpy() == pytest.approx(2.9, abs=0.12)
    lacking = scores[(scores["split"] != "fold 2") | (scores["perturbation"] != "p3")]
    table = t.fold_table(lacking, EFFECT, setting="pseudotime", metric="dtw", model="experimental")
    assert table.shape == (5, 6) and ("p3", "all") not in table.columns


def test_the_verdict_names_what_the_twin_fails_against(scores):
    assert t.verdict(scores, EFFECT, "pseudotime").holds
    worse = scores.assign(value=scores["value"] - 0.6 * (scores["model"] == "straight_line"))
    assert t.verdict(worse, EFFECT, "pseudotime").fails_against == ("straight_line",)
    assert t.verdict(scores, EFFECT, "measured") is None


def test_the_twin_score_lies_between_nothing_and_the_halves(scores):
    assert t.twin_score(scores, EFFECT, "pseudotime").mean == pytest.approx(0.5, abs=0.02)
    assert t.twin_score(scores, EFFECT, "pseudotime", "do_nothing").mean == pytest.approx(0.0)
    assert t.twin_score(scores, EFFECT, "measured") is None
    rng, halves = np.random.default_rng(1), scores["model"] == "real_halves"
    noisy = scores.assign(value=np.where(halves, 3 + rng.normal(size=len(scores)), scores["value"]))
    assert t.twin_score(noisy, EFFECT, "pseudotime") is None


def test_rates_of_the_alarm_and_of_sham_labels(scores):
    rates = t.alarms(scores, EFFECT, "shift", "experimental")
    assert rates["share"].tolist() == [0.0, 1.0] and rates["mean"].tolist() == pytest.approx([0.0, 0.9])
    assert (rates["units"] == 7).all() and (rates["low"] >= 0).all() and (rates["high"] <= 1).all()
    assert t.sham_alarms(scores, "shift", "experimental").mean == pytest.approx(0.05)
    assert not len(t.alarms(scores, EFFECT, "shift", "straight_line"))


def test_only_test_groups_with_an_effect_count():
    groups = pd.DataFrame(
        {
            "part": ["test", "test", "sham1"],
            "perturbation": ["A", "B", "A"],
            "cell_context": ["x", "x", "y"],
            "has_effect": [True, False, True],
        }
    )
    assert t.units_with_effect(groups) == {("A", "x")}

"""Every metric and every row of the judge, where nothing happened and where the truth is known."""

from __future__ import annotations

import os
import pathlib
import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from twinlib.data.preparation import prepare
from twinlib.evaluation import judge
from twinlib.evaluation.judge import evaluate, supervised
from twinlib.evaluation.summaries import difference, per_unit, summary
from twinlib.experimental.baselines import BASELINES

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from simulated_counts import GENES, canonical, cells, screen

SLOW = pytest.mark.skipif(not os.environ.get("TWINLIB_SLOW"), reason="slow: set TWINLIB_SLOW=1")
ROWS = ("mean", "matching_mean", "additive")
ALL_ROWS = (*ROWS, "reverting", "forgetting", "no_change", "replicate")
#: Rows that say the same of every label by way of the test controls: a data set is one draw of them.
SAME_FOR_ALL = ("reverting", "forgetting")
DATASETS = 20


class Perfect:
    """Knows the change of every label to the noise of 20,000 cells."""

    name, replicas, answers = "perfect", 1, True

    def __init__(self, base, profiles, rng):
        start = cells(base, 20_000, rng).mean(0)
        self.changes = {f"p{i}": cells(p, 20_000, rng).mean(0) - start for i, p in enumerate(profiles)}

    def reaches(self, group):
        return True

    def predict(self, group, controls):
        return (controls + self.changes[group.perturbation])[None]


@dataclass
class DrawnTogether:
    """Moves every control a part of the way to the mean training cell, whatever the label."""

    centre: np.ndarray
    name: str
    part: float
    answers: bool = True
    replicas: int = 1

    def reaches(self, group):
        return True

    def predict(self, group, controls):
        return (controls + self.part * (self.centre - controls))[None]


def drawn_together(prepared):
    """Networks that draw cells together or forget them, and a population that forgets its controls."""
    centre = prepared.expression("train").mean(axis=0)
    parts = {"reverting": 0.5, "forgetting": 1.0}
    rows = [DrawnTogether(centre, name, part) for name, part in parts.items()]
    return [*rows, DrawnTogether(centre, "population", 1.0, answers=False)]


def judged(made, fold=1, rows=ROWS, extra=()):
    prepared = prepare(made, GENES, fold=fold)
    baselines = [supervised(name, [BASELINES[name](prepared)]) for name in rows]
    return evaluate(prepared, [*baselines, *drawn_together(prepared), *extra], experiment="test")


def means_of(scores):
    """Mean over perturbations of each metric and row, with the skills in PDS and in W1."""
    rows = scores[(scores["against"] == "") & (scores["cell_context"] == "")]
    units = {
        metric: part.pivot(index="perturbation", columns="model", values="value")
        for metric, part in rows.groupby("metric")
    }
    units["skill_pds"] = 2 * units["pds"] - 1
    units["skill_w1"] = 1 - units["w1"].div(units["w1"]["no_change"], axis=0)
    rows = (*ALL_ROWS, "population")
    return {(metric, row): table[row].mean() for metric, table in units.items() for row in rows}


@pytest.fixture(scope="module")
def nothing():
    """Mean over perturbations of each metric and row (columns) on screens without effect (rows)."""
    means = []
    for seed in range(DATASETS):
        controls, perturbed, _, _ = screen(0.0, np.random.default_rng(seed))
        tables = judged(canonical(controls, perturbed))
        means.append(means_of(tables.scores))
    return pd.DataFrame(means)


@pytest.mark.parametrize("row", ALL_ROWS)
@pytest.mark.parametrize("metric", ["pearson_delta", "skill_pds"])
def test_no_score_where_nothing_happened(nothing, metric, row):
    values = nothing[metric, row]
    if row not in SAME_FOR_ALL:
        assert abs(values.mean()) < 0.02
    assert values.std() < 1e-9 or stats.ttest_1samp(values, 0.0).pvalue > 0.01


@pytest.mark.parametrize("row", ALL_ROWS)
@pytest.mark.parametrize("metric", ["skill", "skill_w1"])
def test_no_error_is_better_than_doing_nothing_where_nothing_happened(nothing, metric, row):
    assert nothing[metric, row].mean() < 1e-6


def test_a_population_that_forgets_its_controls_is_seen_where_nothing_happened(nothing):
    """Its rows answer no control, so that nothing can be taken off: the null panel shows it."""
    assert nothing["pearson_delta", "population"].mean() > 0.1


def test_the_energy_distance_of_halves_and_of_controls_averages_to_nothing(nothing):
    for row in ("no_change", "replicate"):
        assert stats.ttest_1samp(nothing["e_distance", row], 0.0).pvalue > 0.01


def test_overlap_has_no_zero_and_so_no_skill(nothing):
    """Genes that vary most lead on both sides without any effect: more than 20 of 40 drawn blindly."""
    assert nothing["overlap_at_20", "matching_mean"].mean() > 0.5 + 0.02


def test_the_ceiling_of_nothing_is_seldom_resolvable(monkeypatch):
    monkeypatch.setattr(judge, "HALVINGS", 10)
    made = canonical(*screen(0.0, np.random.default_rng(0))[:2])
    tables = [judged(made, fold, rows=()) for fold in range(1, 6)]
    scores, groups = (pd.concat([getattr(t, name) for t in tables]) for name in ("scores", "groups"))
    assert summary(scores, groups, "pearson_delta", over="all")["resolvable"].max() <= 3


def test_a_perfect_predictor_scores_the_ceiling():
    """The training part serves as well as another: what the predictor knows was never learned from cells."""
    rng = np.random.default_rng(0)
    _, _, base, profiles = screen(0.35, rng, controls=1, arms=8, n=1)
    perfect, gaps, tops = Perfect(base, profiles, rng), [], []
    for _ in range(DATASETS):
        made = canonical(cells(base, 300, rng), [cells(profile, 90, rng) for profile in profiles])
        tables = evaluate(prepare(made, GENES), [perfect], experiment="test", part="train")
        table = per_unit(tables.scores, tables.groups, "pearson_delta")
        gaps.append((table["perfect"] - table["ceiling"]).mean())
        tops.append(table["ceiling"].mean())
        errors = per_unit(tables.scores, tables.groups, "pseudobulk_mse").mean()
        assert errors["perfect"] == pytest.approx(errors["ceiling"], rel=0.35)
    assert np.mean(tops) > 0.3
    assert abs(np.mean(gaps)) < 0.02


@SLOW
def test_intervals_of_simulated_screens_cover(monkeypatch):
    """100 screens of 20 perturbations, five folds each: the interval of a row holds its expectation."""
    monkeypatch.setattr(judge, "HALVINGS", 1)
    intervals = []
    for seed in range(100):
        made = canonical(*screen(0.35, np.random.default_rng(seed), controls=400)[:2])
        tables = [judged(made, fold, rows=("matching_mean",)) for fold in range(1, 6)]
        scores, groups = (pd.concat([getattr(t, name) for t in tables]) for name in ("scores", "groups"))
        intervals.append(difference(scores, groups, "pearson_delta", "matching_mean", "no_change", "all"))
    expected = np.mean([interval.mean for interval in intervals])
    share = np.mean([interval.low <= expected <= interval.high for interval in intervals])
    print(f"coverage {share:.2f}")
    assert share >= 0.9

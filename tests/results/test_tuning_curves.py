"""The tuning's readers on tables with known answers: best of k, its interval, divergence, the verdict."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from twinlib.errors import InputError, ResultsError
from twinlib.evaluation.calibration import Estimate, holm
from twinlib.results import verdicts
from twinlib.results.judged import LENGTH
from twinlib.results.tuning_curves import Outcomes, Tuned, chances, curve, curve_gap, diverged

VALIDATION = np.array([0.3, 0.1, 0.5, 0.2, 0.4])
TEST = np.array([[3.0, 1.0], [1.0, 0.0], [5.0, 4.0], [2.0, 2.0], [4.0, 9.0]])


def by_listing(validation, candidates, test, k):
    """E[best of k] from every set of k settings."""
    means = []
    for drawn in combinations(range(len(validation)), k):
        known = [i for i in drawn if candidates[i]]
        means.append(test[max(known, key=lambda i: validation[i])] if known else np.zeros(test.shape[1]))
    return np.mean(means, 0)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("candidates", [[True] * 5, [True, False, False, True, True], [False] * 5])
def test_the_best_of_k_is_the_mean_over_all_sets_of_k(k, candidates):
    candidates = np.array(candidates)
    outcomes = Outcomes(VALIDATION, candidates, TEST)
    assert outcomes.best(k) == pytest.approx(by_listing(VALIDATION, candidates, TEST, k))
    total = chances(VALIDATION, candidates, k).sum()
    assert total <= 1 + 1e-12 and (total == pytest.approx(1)) == (candidates.sum() > 5 - k)
    chosen = outcomes.chosen()
    assert chosen == (None if not candidates.any() else (2 if candidates[2] else 4))


def test_a_number_of_settings_that_was_not_drawn_is_refused():
    for k in (0, 6):
        with pytest.raises(InputError, match="1 to 5"):
            chances(VALIDATION, [True] * 5, k)


def test_the_interval_holds_the_chance_of_units_and_of_draws():
    rng = np.random.default_rng(0)
    same = Outcomes(np.arange(24.0), np.ones(24, bool), np.full((24, 8), 0.5))
    assert (curve(same, 5).low, curve(same, 5).high) == pytest.approx((0.5, 0.5))
    settings = rng.normal(size=24)
    lucky = Outcomes(settings, np.ones(24, bool), np.repeat(settings[:, None], 8, 1))
    one, ten = curve(lucky, 1), curve(lucky, 10)
    assert one.mean == pytest.approx(settings.mean()) and ten.mean > one.mean
    # units do not differ, so that the interval is the chance of the draws: for k = 1 that of a mean
    assert (one.high - one.low) / 2 == pytest.approx(2.365 * settings.std() / 24**0.5, rel=0.15)


def test_a_gap_is_paired_over_settings_that_are_shared():
    settings = np.random.default_rng(1).normal(size=24)
    first = Outcomes(settings, np.ones(24, bool), np.repeat(settings[:, None], 8, 1) + 0.1)
    second = Outcomes(settings, np.ones(24, bool), np.repeat(settings[:, None], 8, 1))
    gap = curve_gap(first, second, 10)
    assert (gap.low, gap.mean, gap.high) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(InputError, match="same ones"):
        curve_gap(first, Outcomes(settings, np.ones(24, bool), np.zeros((24, 7))), 10)


def tuning(gain, lost=()):
    """Four settings of two algorithms on eight perturbations, seven with an effect; the higher the better."""
    scores, groups, runs = [], [], []
    for part in ("validation", "test"):
        head = {"dataset": "papalexi2021", "split_kind": "cells", "split": "fold 1", "part": part}
        for unit in range(8):
            place = {"perturbation": f"P{unit}", "dose": 1.0, "cell_context": ""}
            groups.append(head | place | {"has_effect": unit < 7, "n_total": 100})
            base = {"no_change": 0.0, "replicate": 0.8}
            rows = [(name, "", 0, value) for name, value in base.items()]
            for name, more in (("PPO", 0.0), ("two_stage", gain)):
                rows += [
                    (name, f"{s}", seed, 0.1 * s + 0.01 * unit * (seed - 1) + more)
                    for s in range(4)
                    for seed in range(3)
                    if (name, s) not in lost
                ]
            for model, setting, seed, value in rows:
                about = {"model": model, "setting": setting, "seed": seed, "against": "", "space": "log1p"}
                scores.append(head | place | about | {"metric": "pearson_delta", "value": value})
    for name in ("PPO", "two_stage"):
        for s in range(4):
            for seed in range(3):
                gone = (name, s) in lost
                row = {"model": name, "setting": f"{s}", "seed": seed, "lost": gone}
                kl = 2.0 if (name, s) == ("PPO", 0) else 0.1
                returns = np.nan if gone else (-0.1 if (name, s) == ("two_stage", 1) else 0.2)
                runs.append(row | {"mean_kl": kl, "validation_return": returns})
    return Tuned("papalexi2021", *map(pd.DataFrame, (scores, groups, runs, [{"setting": "0"}])))


def test_tables_of_a_tuning_give_curves_choice_and_divergence():
    tuned = tuning(0.05, lost={("PPO", 3)})
    ppo, two = tuned.outcomes("PPO"), tuned.outcomes("two_stage")
    assert ppo.test.shape == two.test.shape == (4, 7)
    assert ppo.candidates.tolist() == [True, True, True, False]
    assert two.candidates.tolist() == [True, False, True, True]
    assert tuned.best("PPO") == "2" and tuned.best("two_stage") == "3"
    assert tuned.gap("two_stage", "PPO", 4).mean == pytest.approx(0.35 - 0.2)
    assert tuned.gap("two_stage", "PPO", 1).mean == pytest.approx((0.05 + 0.25 + 0.35) / 4 - 0.3 / 4)
    table = tuned.divergence().set_index("model")
    assert table.loc["PPO", "diverged"] == 2 and table.loc["two_stage", "diverged"] == 1
    assert diverged(tuned.runs)["PPO", "0"] and not diverged(tuned.runs)["PPO", "1"]
    curves = tuned.curves((1, 4)).set_index(["model", "k"])["mean"]
    assert curves["PPO", 4] == pytest.approx(0.2) and curves["PPO", 1] == pytest.approx(0.3 / 4)
    with pytest.raises(ResultsError, match="no TRPO"):
        tuned.outcomes("TRPO")


def test_another_metric_chooses_and_scores_in_place_of_the_primary_one():
    tuned = tuning(0.05)
    worse = {"0": 0.1, "1": 0.2, "2": 0.3, "3": 0.4}  # the squared error rises where the correlation does
    errors = tuned.scores.assign(
        metric="pseudobulk_mse", value=tuned.scores["setting"].map(worse).fillna(1.0).to_numpy()
    )
    both = replace(tuned, scores=pd.concat([tuned.scores, errors]))
    assert both.metric == "pearson_delta" and both.best("PPO") == "3"
    by_length = replace(both, judged_by=LENGTH)
    assert by_length.metric == LENGTH and by_length.best("PPO") == "0"
    assert by_length.outcomes("PPO").best(4).mean() == pytest.approx(0.9)


def gap(low, high):
    """An interval with the mean in its middle, on ten units."""
    return Estimate((low + high) / 2, low, high, 9.0, 10, 0.1)


NOTHING = Estimate(0.3, float("nan"), float("nan"), float("nan"), 4, 0.1)


@pytest.mark.parametrize(
    ("few", "many", "verdict"),
    [
        (gap(-0.1, 0.1), gap(0.1, 0.2), verdicts.HOLDS),
        (gap(0.1, 0.2), gap(0.1, 0.2), verdicts.HOLDS),
        (gap(-0.2, -0.1), gap(0.1, 0.2), verdicts.OPEN),
        (gap(0.1, 0.2), gap(-0.1, 0.1), verdicts.OPEN),
        (gap(-0.1, 0.1), gap(-0.2, -0.1), verdicts.FAILS),
        (gap(0.1, 0.2), gap(-0.2, -0.1), verdicts.OPEN),
        (NOTHING, NOTHING, verdicts.OPEN),
    ],
)
def test_the_primary_claim_is_decided_at_ten_settings_and_stopped_by_one(few, many, verdict):
    assert verdicts.primary({1: few, 10: many}) == verdict


def test_the_primary_claim_needs_both_of_its_budgets():
    with pytest.raises(InputError, match="k = 10"):
        verdicts.primary({1: gap(0.1, 0.2), 5: gap(0.1, 0.2)})


def test_claims_are_corrected_together():
    strong, weak, wrong = gap(0.1, 0.2), gap(0.001, 0.2), gap(-0.2, -0.1)
    alone = verdicts.corrected([weak])
    assert alone == [verdicts.HOLDS] and weak.p_value() > 0.02
    together = verdicts.corrected([weak, strong, NOTHING, wrong, gap(0.0005, 0.2)])
    assert together == [verdicts.OPEN, verdicts.HOLDS, verdicts.OPEN, verdicts.FAILS, verdicts.OPEN]
    assert holm([weak.p_value(), gap(0.0005, 0.2).p_value()])[0] > 0.05
    assert verdicts.corrected([]) == []


def test_a_cell_of_the_claims_table_is_glyph_and_number():
    held, tiny, unknown, counted = (
        verdicts.Evidence("", "", gap(0.1, 0.2)),
        verdicts.Evidence("", "", gap(-0.0002, 0.0001)),
        verdicts.Evidence("", "", NOTHING),
        verdicts.Evidence("", "", value=-0.25),
    )
    assert verdicts.cell(verdicts.HOLDS, held) == "● +.150 [+.100, +.200]"
    assert verdicts.cell(verdicts.OPEN, tiny) == "○ .000 (within .0002)"
    assert verdicts.cell(verdicts.OPEN, unknown) == "n/a +.300"
    assert verdicts.cell(verdicts.FAILS, counted) == "✗ -.250"

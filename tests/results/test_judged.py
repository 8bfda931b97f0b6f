"""The judge's packaged tables: splits, headline units, differences, and the claim that rests on them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from twinlib.errors import InputError, ResultsError
from twinlib.evaluation.calibration import Estimate
from twinlib.results import claims, tables
from twinlib.results.judged import fold_interval, in_words, judged_splits, verdict_of

NAMES = [f"P{number}" for number in range(8)]
MODELS = {"no_change": 0.0, "replicate": 0.6, "mean": 0.2, "matching_mean": 0.5, "experimental": 0.5}


def packaged(gain, dataset="papalexi2021", names=NAMES, kind="cells", tested=True, seeds=1):
    """Scores and groups of five folds; the twin is `gain` above the mean of each perturbation."""
    rng, scores, groups = np.random.default_rng(0), [], []
    for data in (dataset, f"{dataset} sham"):
        for fold in range(1, 6):
            head = {"dataset": data, "split_kind": kind, "split": f"fold {fold}", "part": "test"}
            for name in names:
                place = {"perturbation": name, "dose": 1.0, "cell_context": ""}
                effect = {"has_effect": name != NAMES[-1] if tested and data == dataset else np.nan}
                sizes = {"n_total": 200, "n_cells": 20, "n_controls": 90}
                groups.append(head | place | effect | sizes | {"kept_response": 0.9})
                noise = {model: rng.normal(0, 0.01) for model in MODELS}
                for model, value in MODELS.items():
                    for seed in range(seeds if model == "experimental" else 1):
                        score = value + noise[model] + (gain if model == "experimental" else 0.0)
                        row = {"model": model, "seed": seed, "setting": "", "against": "", "space": "log1p"}
                        row |= {"metric": "pearson_delta", "value": 0.0 if model == "no_change" else score}
                        scores.append(head | place | row)
    return {"scores": pd.DataFrame(scores), "groups": pd.DataFrame(groups)}


@pytest.fixture
def ship(monkeypatch, tmp_path):
    """Packs a run as if the project shipped it and reads it back."""
    monkeypatch.setattr(tables, "results_folder", lambda: tmp_path)

    def give(**design):
        made = packaged(**design)
        dataset = made["scores"]["dataset"].iloc[0]
        folder = tmp_path / "experimental" / dataset
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in made.items():
            rows.to_csv(folder / f"{name}.csv", index=False)
        return judged_splits("experimental", dataset)

    return give


def test_a_run_that_was_written_anew_is_read_anew(ship):
    assert ship(gain=0.0)["cells"].gap("experimental", "mean").mean == pytest.approx(0.3, abs=0.02)
    assert ship(gain=0.1)["cells"].gap("experimental", "mean").mean == pytest.approx(0.4, abs=0.02)


def test_splits_stand_by_kind_and_sham_labels_apart(ship):
    splits = ship(gain=0.0)
    assert set(splits) == {"cells", "sham"} and splits["sham"].dataset == "papalexi2021 sham"
    assert splits["cells"].over == "has_effect" and splits["sham"].over == "all"
    assert judged_splits("experimental", "nowhere") == {}


def test_rows_and_differences_run_over_perturbations_with_an_effect(ship):
    split = ship(gain=0.1)["cells"]
    rows = split.rows().set_index("model")
    assert (rows["units"] == len(NAMES) - 1).all()
    few = split.rows(models=("experimental",)).set_index("model")
    assert set(few.index) == {"no_change", "replicate", "experimental", "ceiling"}
    assert few.loc["experimental", "mean"] == rows.loc["experimental", "mean"]
    gap = split.gap("experimental", "matching_mean")
    assert gap.mean == pytest.approx(0.1, abs=0.01) and gap.units == 7 and verdict_of(gap) == "better"
    assert f"{gap.mean:+.3f}" in in_words(gap) and "U = 7, smallest" in in_words(gap)
    assert split.gap("experimental", "matching_mean", over="all").units == 8
    assert set(split.by_unit().index) == set(NAMES)
    folds = split.by_fold("P0")
    assert len(folds) == 5 and folds["experimental"].mean() == pytest.approx(0.6, abs=0.02)


def test_a_difference_too_small_for_three_decimals_keeps_its_first_digit():
    small = Estimate(0.0000312, -0.0000123, 0.0000747, dof=6, units=7, sd=0.00005)
    assert in_words(small).startswith("+0.00003 [-0.00001, +0.00007], U = 7, smallest 0.00005")
    assert in_words(replace(small, mean=0.0, low=0.0, high=0.0)).startswith("+0.000 [+0.000, +0.000]")


def test_a_split_says_which_rows_it_lacks(ship):
    split = ship(gain=0.0)["cells"]
    assert split.lacks("mean", "experimental", "PPO", "mean cell") == ["PPO", "mean cell"]
    both = replace(split, scores=pd.concat([split.scores, split.scores.assign(setting="cell")]))
    assert both.lacks("mean", "mean cell") == []


def test_rows_of_another_run_stand_beside_on_the_same_cells_only(ship):
    split = ship(gain=0.1)["cells"]
    stranger = replace(split, scores=split.scores.query("model == 'experimental'").assign(model="STATE"))
    joined = split.beside(stranger, ("STATE",))
    assert joined.gap("STATE", "experimental").mean == pytest.approx(0.0)
    assert set(joined.scores["model"]) == {*MODELS, "STATE"}
    with pytest.raises(ResultsError, match="other cells"):
        split.beside(replace(stranger, groups=stranger.groups.assign(n_cells=21)), ("STATE",))


def test_of_unseen_perturbations_the_better_plain_row_has_to_be_beaten(ship):
    split = ship(gain=0.1, kind="perturbations")["perturbations"]
    assert split.plain_row == "matching_mean"
    for level, better in ((0.7, "linear"), (0.3, "matching_mean")):
        linear = split.scores.query("model == 'matching_mean'").assign(model="linear", value=level)
        assert replace(split, scores=pd.concat([split.scores, linear])).plain_row == better


def test_several_rows_are_compared_on_the_same_seeds(ship):
    split = ship(gain=0.0, seeds=3)["cells"]
    scores = split.scores
    scores.loc[(scores["model"] == "experimental") & (scores["seed"] > 0), "value"] += 0.3
    assert split.gap("experimental", "mean").mean == pytest.approx(0.5, abs=0.02)
    gaps = split.gaps("experimental", ["mean", "matching_mean"])
    assert gaps["mean"].mean == pytest.approx(0.3, abs=0.02)
    assert gaps["matching_mean"].mean == pytest.approx(0.0, abs=0.02)
    scores.loc[scores["model"] == "mean", "model"] = "other"
    twice = pd.concat([scores, scores[scores["model"] == "other"].assign(seed=1)])
    both = replace(split, scores=twice).gaps("experimental", ["other"])
    assert both["other"].mean == pytest.approx(0.45, abs=0.02)  # seeds 0 and 1 of three
    below = split.gaps("ceiling", ["matching_mean", "experimental"])
    assert below["matching_mean"].mean == pytest.approx((1.2 / 1.6) ** 0.5 - 0.5, abs=0.02)


def test_few_units_give_no_interval_and_no_verdict(ship):
    gap = ship(gain=0.3, names=NAMES[:4])["cells"].gap("experimental", "matching_mean")
    assert verdict_of(gap) == "n/a, too few" and in_words(gap).endswith("U = 4: n/a, too few")


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, claims.HOLDS), (-0.1, claims.FAILS), (0.0, claims.OPEN)])
def test_the_claim_on_the_experimental_twin_follows_the_interval(ship, gain, verdict):
    ship(gain=gain)
    shown = claims.experimental_twin("papalexi2021, cells")
    assert shown.verdict == verdict and "matching_mean" in shown.number and "U = 7" in shown.number


def test_without_an_effect_test_or_a_run_the_claim_has_no_verdict(ship):
    ship(gain=0.3, dataset="cross_study", tested=False)
    shown = claims.experimental_twin("cross_study, cells")
    assert shown.verdict == claims.OPEN and "no verdict" in shown.number
    with pytest.raises(ResultsError, match="papalexi2021, cells"):
        claims.experimental_twin("papalexi2021, cells")


def distances(twin):
    """Trajectory tables of eight units in five folds; the last unit has no effect."""
    rng, rows, groups = np.random.default_rng(0), [], []
    models = {"experimental": twin, "experimental_shuffled": 3.0, "straight_line": 2.0, "do_nothing": 4.0}
    for fold in range(1, 6):
        head = {"split": f"fold {fold}", "part": "test", "cell_context": "cells"}
        for name in NAMES:
            groups.append(head | {"perturbation": name, "has_effect": name != NAMES[-1]})
            row = head | {"perturbation": name, "setting": "measured", "metric": "dtw"}
            far = 9.0 if name == NAMES[-1] else 0.0
            for model, value in models.items():
                value += rng.normal(0, 0.1) + (far if model == "experimental" else 0.0)
                rows.append(row | {"model": model, "value": value})
    return {"scores": pd.DataFrame(rows), "groups": pd.DataFrame(groups)}


@pytest.mark.parametrize(("twin", "verdict"), [(1.0, claims.HOLDS), (2.5, claims.FAILS), (2.0, claims.OPEN)])
def test_a_path_is_similar_where_it_is_nearer_than_all_that_knows_less(monkeypatch, twin, verdict):
    made = distances(twin)
    monkeypatch.setattr(tables, "read_table", lambda experiment, dataset, table: made[table])
    shown = claims.twins_agree("a549_dex, measured")
    assert shown.verdict == verdict and shown.number.count("U = 7") == 3
    with pytest.raises(ResultsError, match="pseudotime time"):
        claims.twins_agree("a549_dex, pseudotime")


def test_an_interval_over_folds_is_that_of_their_mean():
    low, high = fold_interval([0.1, 0.2, 0.3, 0.2, 0.2])
    assert low < 0.2 < high and low + high == pytest.approx(0.4)
    assert fold_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    with pytest.raises(InputError, match="two of them, got 1"):
        fold_interval([0.1])

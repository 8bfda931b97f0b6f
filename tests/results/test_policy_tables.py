"""Shares, learning speed and hits on tables with known answers."""

import numpy as np
import pandas as pd
import pytest

from twinlib.errors import ResultsError
from twinlib.results import policy_tables
from twinlib.results.judged import JudgedSplit

NAMES = [f"P{number}" for number in range(8)]


def split_of(models, noise=0.0, seeds=2):
    """Five folds of eight perturbations; a model scores its share of what the perturbation can give."""
    rng, scores, groups = np.random.default_rng(0), [], []
    for fold in range(1, 6):
        head = {"dataset": "waddington", "split_kind": "cells", "split": f"fold {fold}", "part": "test"}
        for number, name in enumerate(NAMES):
            place = {"perturbation": name, "dose": 1.0, "cell_context": ""}
            groups.append(head | place | {"has_effect": True, "n_total": 200})
            attainable = 0.5 + 0.04 * number + 0.02 * fold
            for model, part in {"no_change": 0.0, "replicate": 1.0, **models}.items():
                for seed in range(seeds if model in models else 1):
                    value = attainable * part + (noise * rng.normal() if model in models else 0.0)
                    row = {"model": model, "setting": "", "seed": seed, "against": "", "space": "log1p"}
                    scores.append(head | place | row | {"metric": "pearson_delta", "value": value})
    return JudgedSplit("waddington", "cells", pd.DataFrame(scores), pd.DataFrame(groups))


def test_a_share_is_a_ratio_whose_interval_leaves_the_units_out():
    exact = policy_tables.share(split_of({"pathwise": 0.8, "PPO": 0.72}), "PPO")
    assert (exact.low, exact.mean, exact.high) == pytest.approx((0.9, 0.9, 0.9)) and exact.units == 8
    noisy = split_of({"pathwise": 0.8, "PPO": 0.72}, noise=0.02)
    value = policy_tables.share(noisy, "PPO")
    assert value.low < 0.9 < value.high and value.high - value.low < 0.08
    table = policy_tables.shares(noisy, ["PPO", "pathwise"]).set_index("model")
    assert table.loc["pathwise", "share"] == pytest.approx(1) and table.loc["PPO", "units"] == 8


def curves():
    """Two arms on two folds and three seeds: one earns a tenth more, in half the updates."""
    rows = []
    for model, more, every in (("PPO", 0.0, 80), ("two_stage", 0.1, 40)):
        for fold in (1, 2):
            for seed in range(100, 106):
                for k in range(1, 21):
                    row = {"model": model, "split_kind": "cells", "split": f"fold {fold}", "setting": ""}
                    row |= {"seed": seed, "environment_steps": 100 * k, "optimizer_steps": every * k}
                    rows.append(row | {"episode_return": min(0.1 * k, 1.0) + more, "kl": 0.01})
    return pd.DataFrame(rows).assign(clip_fraction=0.1)


def test_speed_is_read_in_units_of_return_and_in_updates():
    early = policy_tables.early_return(curves(), "two_stage", "PPO")
    assert (early.low, early.mean) == pytest.approx((0.1, 0.1)) and early.units == 6
    saved = policy_tables.saved_updates(curves(), "two_stage", "PPO")
    assert saved.mean == pytest.approx(9 * 80 - 8 * 40)
    with pytest.raises(ResultsError, match="no level"):
        flat = curves()
        flat.loc[flat["seed"] == 100, "episode_return"] = -0.1
        policy_tables.saved_updates(flat, "two_stage", "PPO")
    with pytest.raises(ResultsError, match="TRPO"):
        policy_tables.early_return(curves(), "two_stage", "TRPO")
    means = policy_tables.mean_curves(curves(), ["PPO"])
    assert set(means["model"]) == {"PPO"} and means["episode_return"].iloc[-1] == pytest.approx(1.0)
    assert (means["low"] == means["high"]).all() and len(means) == 20


def hits(ranks):
    """The ranks of eight labels' targets among nine, by model and seed."""
    return pd.DataFrame(
        {"model": model, "seed": seed, "perturbation": name, "among": "targets", "rank": rank}
        for model, by_seed in ranks.items()
        for seed, rank in enumerate(by_seed)
        for name in NAMES
    ).assign(candidates=9, stability=0.5)


def test_hits_are_scored_by_reciprocal_rank():
    table = hits({"PPO": [1, 2], "own_change": [4]})
    scored = policy_tables.reciprocal_ranks(table).set_index("model")
    assert scored.loc["PPO", "mrr"] == pytest.approx(0.75) and scored.loc["PPO", "first"] == 0.5
    assert scored.loc["own_change", "mrr"] == 0.25 and scored.loc["own_change", "labels"] == 8
    assert scored.loc["PPO", "chance"] == pytest.approx(sum(1 / r for r in range(1, 10)) / 9)
    gap = policy_tables.hit_gap(table, "PPO", "own_change")
    assert (gap.low, gap.mean) == pytest.approx((0.5, 0.5)) and gap.units == 8
    with pytest.raises(ResultsError, match="greedy"):
        policy_tables.hit_gap(table, "PPO", "greedy")


def test_lost_runs_and_returns_below_nothing_are_counted():
    runs = pd.DataFrame({"model": ["PPO"] * 3, "seed": range(3), "lost": [False, True, False]})
    table = policy_tables.below_nothing(runs.assign(validation_return=[-0.1, np.nan, 0.2])).iloc[0]
    assert (table["runs"], table["lost"], table["below"]) == (3, 1, 1)

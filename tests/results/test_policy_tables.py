"""Shares, learning speed and hits on tables with known answers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from twinlib.errors import ResultsError
from twinlib.results import policy_claims, policy_tables
from twinlib.results.judged import LENGTH, JudgedSplit
from twinlib.results.verdicts import FAILS, HOLDS, OPEN

#: Squared errors of the rows of one test: skills of .8 and .5.
ERRORS = {"no_change": 1.0, "replicate": 0.4, "pathwise": 0.2, "PPO": 0.5}
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
    assert value.low < 0.9 < value.high and value.high - value.low < 0.1
    table = policy_tables.shares(noisy, ["PPO", "pathwise"]).set_index("model")
    assert table.loc["pathwise", "share"] == pytest.approx(1) and table.loc["PPO", "units"] == 8
    error = noisy.scores.assign(metric="pseudobulk_mse", value=noisy.scores["model"].map(ERRORS))
    both = replace(noisy, scores=pd.concat([noisy.scores, error]))
    skill = policy_tables.shares(both, ["PPO"], metric=LENGTH).set_index("model")
    assert skill.loc["PPO", "share"] == pytest.approx(0.5 / 0.8)


def curves():
    """Two arms on two folds and six seeds: one earns a tenth more, in half the updates."""
    rows = []
    for model, more, every in (("PPO", 0.0, 80), ("two_stage", 0.1, 40)):
        for fold in (1, 2):
            for seed in range(100, 106):
                for k in range(1, 21):
                    row = {"model": model, "split_kind": "cells", "split": f"fold {fold}", "setting": ""}
                    row |= {"seed": seed, "environment_steps": 100 * k, "optimizer_steps": every * k}
                    rows.append(row | {"episode_return": min(0.1 * k, 1.0) + more, "kl": 0.01})
    return pd.DataFrame(rows).assign(clip_fraction=0.1)


def tuning_curves():
    """The same of a tuning: six settings, each of which begins with noise of its own."""
    own = curves()[curves()["split"] == "fold 1"]
    noise = -0.5 * (own["seed"] - 100) * (own["environment_steps"] < 600)
    return own.assign(setting="s" + own["seed"].astype(str), episode_return=own["episode_return"] + noise)


def test_speed_is_read_in_units_of_return_and_in_updates():
    for table, by in ((curves(), ("split", "seed")), (tuning_curves(), ("setting",))):
        early = policy_tables.early_return(table, "two_stage", "PPO", by)
        assert (early.low, early.mean) == pytest.approx((0.1, 0.1)) and early.units == 6
    known = tuning_curves()
    saved = policy_tables.saved_updates(known, "two_stage", "PPO")
    assert saved.mean == pytest.approx(1 - 8 * 40 / (9 * 80)) and saved.units == 6
    equal = policy_tables.saved_updates(known, "two_stage", "PPO", until="environment_steps")
    assert equal.mean == pytest.approx(1 - 40 / 80)  # half the optimizer steps an iteration
    simulated = policy_tables.saved_updates(known, "two_stage", "PPO", count="environment_steps")
    assert simulated.mean == pytest.approx(1 - 8 / 9)
    known.loc[known["seed"] == 100, "episode_return"] = -0.1
    assert policy_tables.saved_updates(known, "two_stage", "PPO").units == 5
    with pytest.raises(ResultsError, match="no level"):
        policy_tables.saved_updates(known.assign(episode_return=-0.1), "two_stage", "PPO")
    for read in (policy_tables.early_return, policy_tables.saved_updates):
        with pytest.raises(ResultsError, match="TRPO"):
            read(known, "two_stage", "TRPO")
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


def paths(nearer, weak=0.0):
    """Distances of a policy's paths on five folds; each reference is farther by what `nearer` says.

    The last perturbation has no effect, and there the policy is farther than doing nothing by `weak`.
    """
    rng, rows = np.random.default_rng(0), []
    for fold in range(1, 6):
        for number, name in enumerate([*NAMES, "none"]):
            own = 1.0 + 0.1 * number + 0.05 * fold
            near = {"two_stage": own + (weak if name == "none" else 0.0)}
            near |= {model: own + more + 0.01 * rng.normal() for model, more in nearer.items()}
            for model, value in near.items():
                row = {"model": model, "seed": 100, "split": f"fold {fold}", "perturbation": name}
                row |= {"cell_context": "", "split_kind": "cells", "setting": ""}
                rows += [row | {"metric": metric, "value": value} for metric in ("dtw", "w1")]
    groups = pd.DataFrame({"perturbation": [*NAMES, "none"], "has_effect": [True] * 8 + [None]})
    return pd.DataFrame(rows), groups


def test_paths_are_judged_by_every_reference_over_perturbations_with_an_effect():
    far = {"two_stage_shuffled": 0.5, "straight_line": 0.3, "do_nothing": 0.4}
    judged = policy_tables.path_verdict(*paths(far, weak=9.0), "two_stage")
    assert judged.holds and {name: m.units for name, m in judged.margins.items()} == dict.fromkeys(far, 8)
    assert judged.margins["straight_line"].mean == pytest.approx(0.3, abs=0.01)
    beaten = policy_tables.path_verdict(*paths(far | {"straight_line": -0.3}), "two_stage")
    assert beaten.fails_against == ("straight_line",) and "straight_line (nearer)" in str(beaten)
    level = policy_tables.path_verdict(*paths(far | {"two_stage_shuffled": 0.0}), "two_stage")
    assert level.fails_against == ("two_stage_shuffled",)
    rows, groups = paths(far)
    assert policy_tables.path_verdict(rows, groups.assign(has_effect=False), "two_stage") is None
    assert policy_tables.path_verdict(rows[rows["model"] != "two_stage"], groups, "two_stage") is None


def test_the_claim_on_paths_is_decided_by_the_nearest_reference(monkeypatch):
    far = {"two_stage_shuffled": 0.5, "straight_line": 0.3, "do_nothing": 0.4}

    def told(nearer, effect=True):
        rows, groups = paths(nearer)
        made = {"paths": rows, "groups": groups if effect else groups.assign(has_effect=False)}
        monkeypatch.setattr(policy_tables, "policy_table", lambda dataset, name: made[name])
        return policy_claims.similar_paths("waddington")

    holds = told(far)
    assert holds.verdict == HOLDS and "straight_line +0.3" in holds.number and "U = 8" in holds.number
    assert told(far | {"do_nothing": -0.4}).verdict == FAILS
    assert told(far | {"two_stage_shuffled": 0.0}).verdict == OPEN
    with pytest.raises(ResultsError, match="No unit of waddington"):
        told(far, effect=False)


def test_lost_runs_and_returns_below_nothing_are_counted():
    runs = pd.DataFrame({"model": ["PPO"] * 3, "seed": range(3), "lost": [False, True, False]})
    table = policy_tables.below_nothing(runs.assign(validation_return=[-0.1, np.nan, 0.2])).iloc[0]
    assert (table["runs"], table["lost"], table["below"]) == (3, 1, 1)

"""Claims on policies and escape, on made-up runs of known differences; the table at a glance."""

import json

import numpy as np
import pandas as pd
import pytest

from twinlib.results import claims, claims_page, policy_claims, tables
from twinlib.results.verdicts import BUILT, FAILS, HOLDS, OPEN

NAMES = [f"P{number}" for number in range(8)]
#: What each row adds to the score of two_stage.
ADDED = {
    "two_stage": 0.0, "PPO": -0.1, "TRPO": 0.0, "second_stage_after_plain": 0.0, "second_stage_alone": -0.2,
    "PPO_restart": 0.0, "alternating": 0.0, "alternating_printed": -0.3, "matching_mean": 0.2,
}  # fmt: skip


def scores_of(kind, folds, models, seeds):
    """Scores and groups of some folds; every row scores 0.5 and what it adds, with little noise."""
    rng, scores, groups = np.random.default_rng(0), [], []
    for fold in folds:
        head = {"experiment": "policies", "dataset": "papalexi2021", "split_kind": kind, "part": "test"}
        head |= {"split": f"fold {fold}" if kind == "cells" else fold}
        for name in NAMES if kind == "cells" else [fold]:
            place = {"perturbation": name, "dose": 1.0, "cell_context": ""}
            groups.append(head | place | {"has_effect": True, "n_total": 200, "kept_response": 0.9})
            for model, more in {"no_change": -0.5, "replicate": 0.3, **models}.items():
                for seed in range(seeds if model in ADDED else 1):
                    value = 0.0 if model == "no_change" else 0.5 + more + rng.normal(0, 0.01)
                    row = {"model": model, "setting": "", "seed": seed, "against": "", "space": "log1p"}
                    scores.append(head | place | row | {"metric": "pearson_delta", "value": value})
    return pd.DataFrame(scores), pd.DataFrame(groups)


def tuning_of(gain):
    """A tuning in which every setting of two_stage is better by `gain`."""
    scores, groups, runs = [], [], []
    for part in ("validation", "test"):
        made = {"PPO": 0.0, "two_stage": gain}
        table, told = scores_of("cells", [1], {}, 1)
        scores.append(table.assign(part=part))
        groups.append(told.assign(part=part))
        for model, more in made.items():
            for k in range(12):
                rows = table[table["model"] == "replicate"]
                value = 0.1 + 0.02 * k + more + 0.001 * np.arange(len(rows))
                scores.append(rows.assign(part=part, model=model, setting=f"s{k:02}", value=value))
    for model in ("PPO", "two_stage"):
        for k in range(12):
            row = {"model": model, "setting": f"s{k:02}", "seed": 0, "lost": False, "mean_kl": 0.1}
            runs.append(row | {"validation_return": 0.5})
    settings = pd.DataFrame({"setting": [f"s{k:02}" for k in range(12)]})
    known = with_errors(pd.concat(scores))
    return {"scores": known, "groups": pd.concat(groups), "runs": pd.DataFrame(runs), "settings": settings}


def with_errors(scores):
    """The same with squared errors: 1 less the score."""
    return pd.concat([scores, scores.assign(metric="pseudobulk_mse", value=1 - scores["value"])])


def write(folder, made, manifest):
    folder.mkdir(parents=True)
    for name, table in made.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def curves():
    """Learning curves in which two_stage is as far after half of the steps."""
    rows = []
    for model, speed in (("PPO", 0.05), ("two_stage", 0.1), ("TRPO", 0.1)):
        for fold in range(1, 6):
            for seed in range(6):
                for k in range(1, 21):
                    row = {"model": model, "split_kind": "cells", "split": f"fold {fold}", "setting": ""}
                    row |= {"seed": seed, "environment_steps": 100 * k, "optimizer_steps": 80 * k}
                    rows.append(row | {"episode_return": min(speed * k, 1.0) + 1e-4 * seed, "kl": 0.02})
    return pd.DataFrame(rows)


def _own_setting(table):
    """Each seed as a setting of its own."""
    return "s" + table["seed"].astype(str)


def hits(own_change):
    """The policy names every hidden label, and so does the likeness to training changes."""
    ranks = {"two_stage": [1] * 8, "own_change": own_change, "training_change": [1] * 8}
    rows = [
        {"model": model, "seed": 0, "perturbation": name, "among": "targets", "rank": rank, "candidates": 9}
        for model, places in ranks.items()
        for name, rank in zip(NAMES, places, strict=True)
    ]
    return pd.DataFrame(rows)


def escape():
    """Arms on the middle barrier: PPO never arrives, restarts always, two_stage in half of the seeds."""
    share = {
        "PPO": [0.0, 0.1],
        "two_stage": [1.0, 0.2],
        "TRPO": [1.0, 0.2],
        "PPO_random_restarts": [1.0, 0.9],
    }
    share |= {"second_stage_after_plain": [0.0, 0.1], "alternating": [0.4, 0.5]}
    share |= {"second_stage_alone": [0.0, 0.1]}
    rows = [
        {"experiment": "main", "model": model, "setting": "s00", "seed": seed, "lost": False}
        | {"success": values[seed % 2], "reached": values[seed % 2] >= 0.5, "return": values[seed % 2]}
        for model, values in share.items()
        for seed in range(20)
    ]
    rows += [
        {"experiment": "tuning", "model": model, "setting": f"s{k:02d}", "seed": seed, "lost": False}
        | {"success": success, "reached": success >= 0.5, "return": success}
        for model, shares in {"PPO": [0.2] * 6 + [0.9] * 2, "two_stage": [0.8] * 8}.items()
        for k, success in enumerate(shares)
        for seed in range(3)
    ]
    return pd.DataFrame(rows)


def made_by(experiment, dataset):
    """The manifest's word on how a run was made."""
    return {"command": f"python -m experiments {experiment} --dataset {dataset} --seeds 3 --out DIR"}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of results with a tuning, the runs of all arms and an escape."""
    monkeypatch.setattr(tables, "results_folder", lambda: tmp_path)
    tuned = tuning_of(0.1) | {"curves": curves().query("split == 'fold 1'").assign(setting=_own_setting)}
    write(tmp_path / "tuning" / "papalexi2021", tuned, made_by("tuning", "papalexi2021"))
    cells, told = scores_of("cells", range(1, 6), ADDED, 2)
    left, out = scores_of("perturbations", NAMES, {"two_stage": 0.0, "PPO": 0.0}, 2)
    settings = pd.DataFrame({"model": ["TRPO"], "delta": [0.03]})
    made = {"scores": with_errors(pd.concat([cells, left])), "groups": pd.concat([told, out])}
    made |= {"curves": curves(), "hits": hits([2, 2, 2, 2, 2, 2, 3, 3]), "settings": settings}
    write(tmp_path / "policies" / "papalexi2021", made, made_by("policies", "papalexi2021"))
    escaped = made_by("escape_tuned", "toggle_middle") | {"optimum": {"return": 1.0}}
    write(tmp_path / "escape_tuned" / "toggle_middle", {"runs": escape()}, escaped)
    return tmp_path


def verdicts():
    """The verdicts by the statement of their claim."""
    found, known = claims.evidence(claims.judged()), claims.all_claims()
    return {(known[row.Claim - 1].measure, row.Dataset): row for row in found.itertuples()}


def test_claims_on_policies_follow_the_runs(shipped):
    found = verdicts()

    def of(number, place="papalexi2021"):
        return found[policy_claims.POLICY_CLAIMS[number - 1].measure, place]

    first = of(1)
    assert first.Verdict == HOLDS and first.Number.count("U = 8") == 5 and "k = 10: +0.1" in first.Number
    assert "by skill in squared error, looked at afterwards, k = 10: +0.1" in first.Number
    assert first.Cell.startswith("● +.1") and first.Cell.endswith("]")
    assert of(2).Cell.startswith("○ +.002 [-.004, +.0")
    assert "it saves +" in of(10).Number and "as many environment steps as PPO, " in of(10).Number
    assert "looked at afterwards, +0.1" in of(4).Number
    expected = {
        2: OPEN,
        3: FAILS,
        4: HOLDS,
        5: OPEN,
        6: HOLDS,
        7: OPEN,
        9: HOLDS,
        10: HOLDS,
        11: BUILT,
        12: FAILS,
    }
    assert {number: of(number).Verdict for number in expected} == expected
    assert of(8, "papalexi2021, perturbations").Verdict == OPEN
    assert of(14).Verdict == HOLDS and "1.000, own_change 0.458" in of(14).Number
    assert of(15).Verdict == OPEN


def test_claims_on_escape_follow_the_runs(shipped):
    found = verdicts()
    told = [found[claim.measure, "toggle_middle"].Verdict for claim in policy_claims.ESCAPES]
    assert told == [HOLDS, HOLDS, OPEN, HOLDS, FAILS, HOLDS, HOLDS]
    trapped = found[policy_claims.trapped, "toggle_middle"].Number
    assert "under 6 of 8 settings fewer than half" in trapped
    untuned = "without a choice, +0.425"
    told = [untuned in found[claim.measure, "toggle_middle"].Number for claim in policy_claims.ESCAPES]
    assert told == [False, True, False, False, False, False, False]
    assert "alternating 10 of 20" in found[policy_claims.ESCAPES[5].measure, "toggle_middle"].Number
    assert "PPO 0 of 20 seeds arrive [0.00, 0.16]" in found[policy_claims.trapped, "toggle_middle"].Number


def test_the_page_shows_claims_by_dataset_and_leads_from_each_to_its_rows(shipped):
    text = claims_page.page()
    head = text.partition("(claim-1)=")[0]
    assert '<a href="#claim-1">1. Starting PPO' in head and 'scope="col">toggle_<wbr>middle<' in head
    assert head.index('#claim-1"') < head.index('#claim-2"') and "n/a: too few units" in head
    assert "[10, The primary claim](../notebooks/10_two_stage.ipynb#the-primary-claim)" in text
    rows = "- Rows: {download}`scores of papalexi2021, tuning <../results/tuning/papalexi2021/scores.csv>`, "
    first = text.partition("(claim-2)=")[0]
    assert (
        rows in first
        and "groups of papalexi2021, policies" in first
        and "tuning included: `make learned`" in first
    )
    assert "- Command: `python -m experiments tuning --dataset papalexi2021 --seeds 3 --out DIR`" in first
    told = claims.evidence(claims.judged())
    assert text.count(claims_page.UNMEASURED) == len(claims.all_claims()) - told["Claim"].nunique()


def test_a_claim_that_holds_alone_may_not_hold_among_many(shipped):
    hits([1, 2] * 4).to_csv(shipped / "policies" / "papalexi2021" / "hits.csv", index=False)
    measure = policy_claims.POLICY_CLAIMS[13].measure
    alone = measure("papalexi2021")
    assert alone.verdict == HOLDS and 0.02 < alone.gap.p_value() < 0.05
    row = verdicts()[measure, "papalexi2021"]
    assert row.Verdict == OPEN and "†" in row.Cell
    family = claims.correction(claims.judged())
    assert family["p"].is_monotonic_increasing and family["threshold"].iloc[-1] == pytest.approx(0.05)
    told = family["verdict"] != OPEN
    assert (told == (family["p"] < family["threshold"]).cummin()).all() and told.any() and not told.all()
    own = family[(family["claim"] == 14) & (family["place"] == "papalexi2021")].iloc[0]
    assert own["p"] == pytest.approx(alone.gap.p_value()) and own["p"] > own["threshold"]

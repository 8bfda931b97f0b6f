"""Scores of predictors whose answers are known, on a small invented preparation."""

import numpy as np
import pytest

from twinlib.evaluation import questions as ev


@pytest.fixture
def asked():
    rng = np.random.default_rng(0)
    genes, effect = 12, {"A": rng.normal(size=12), "B": rng.normal(size=12)}
    controls = rng.normal(size=(60, genes)).astype(np.float32)
    truth = {name: rng.normal(size=(40, genes)).astype(np.float32) + e for name, e in effect.items()}
    labels = np.repeat(["A", "B"], 40)
    y = np.concatenate([truth["A"], truth["B"]])
    pairs = (controls[rng.integers(60, size=80)], y, labels)
    reference = np.zeros(genes)
    scaler = (np.zeros(genes), np.full(genes, 2.0))
    whole = ev.Questions("test", ("A", "B"), controls, truth, pairs, pairs, reference, scaler)
    return whole, effect


def test_doing_nothing_has_no_skill_in_any_metric(asked):
    base = ev.score(ev.no_change, asked[0])[0]
    still = ev.score(lambda x, labels: np.asarray(x)[None] + 0.0, asked[0])[0]
    for row, reference in zip(still, base, strict=True):
        found = ev.with_skill(row, reference)
        skills = {k: v for k, v in found.items() if k.startswith("skill_") and not np.isnan(v)}
        assert len(skills) == (9 if row["space"] == "log1p" else 5)
        assert max(map(abs, skills.values())) < 1e-6


def test_the_right_shift_has_skill_and_replicas_are_scored_apart(asked):
    whole, effect = asked

    def predictor(x, labels):
        right = x + np.stack([effect[name] for name in labels])
        return np.stack([right, x])

    rows = ev.score(predictor, whole)
    base = ev.score(ev.no_change, whole)[0][0]
    right, still = (ev.with_skill(replica[0], base) for replica in rows)
    assert right["pearson_delta"] > 0.9 and right["skill_pseudobulk_mse"] > 0.8 and right["skill_w1"] > 0.3
    assert still["skill_e_distance"] == pytest.approx(0, abs=1e-6)


def test_z_scores_are_log1p_over_the_training_deviation(asked):
    log1p, z = ev.score(ev.no_change, asked[0])[0]
    assert log1p["MSE"] == pytest.approx(4 * z["MSE"])
    assert log1p["R2"] == pytest.approx(z["R2"]) and np.isnan(z["w1"])


def test_pearson_delta_ignores_the_sampling_error_of_the_controls(asked):
    whole, _ = asked
    found = ev.score(ev.no_change, whole)[0][0]
    assert found["pearson_delta"] == 0 and found["pearson_delta_profile"] != 0


def test_some_labels_only(asked):
    cut = asked[0].only(["B", "C"])
    assert cut.labels == ("B",) and set(cut.matched[2]) == {"B"} and list(cut.truth) == ["B"]
    assert ev.score(ev.no_change, cut)[0][0]["perturbations"] == 1

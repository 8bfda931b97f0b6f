"""The energy test: its statistic, its level, its strata."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from twinlib.data import effect_tests
from twinlib.data.effect_tests import (
    called,
    effect_table,
    energy_test,
    has_effect,
    merged_strata,
    sham_labels,
)
from twinlib.data.preparation import prepare
from twinlib.data.schema import check
from twinlib.errors import DataError
from twinlib.evaluation.metrics import e_distance


def test_the_statistic_is_the_energy_distance():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(30, 4)), rng.normal(1.0, 1, size=(50, 4))])
    first = np.arange(80) < 30
    outcome = energy_test(x, first, ["a"] * 80, ["1"] * 80, 99, rng)
    np.testing.assert_allclose(outcome.distance, e_distance(x[first], x[~first]))
    assert outcome.p_value == 0.01 and outcome.n_cells == 30


def test_p_values_are_uniform_where_nothing_happened():
    rng = np.random.default_rng(0)
    first = np.arange(60) < 20
    p = [
        energy_test(rng.normal(size=(60, 5)), first, ["a"] * 60, ["1"] * 60, 99, rng).p_value
        for _ in range(100)
    ]
    assert 0.35 < np.mean(p) < 0.65 and np.mean(np.array(p) <= 0.05) <= 0.12


def test_a_batch_that_one_arm_prefers_is_no_effect():
    rng = np.random.default_rng(0)
    batch = np.array(["a"] * 40 + ["b"] * 10 + ["a"] * 10 + ["b"] * 40)
    first = np.arange(100) < 50
    x = rng.normal(size=(100, 3)) + 3.0 * (batch == "b")[:, None]
    assert energy_test(x, first, ["a"] * 100, batch, 199, rng).p_value > 0.05
    assert energy_test(x, first, ["a"] * 100, ["one"] * 100, 199, rng).p_value < 0.01


def test_small_strata_are_merged_and_none_is_lost():
    first = np.array([True] * 6 + [False] * 6 + [True] * 2 + [False] * 9)
    groups = merged_strata(first, ["c"] * 23, ["a"] * 12 + ["b"] * 11)
    assert len(groups) == 1 and sorted(groups[0]) == list(range(23))
    with pytest.raises(DataError, match="5 perturbed cells and 5 controls"):
        merged_strata(first[12:], ["c"] * 11, ["b"] * 11)


def test_calls_hold_the_false_discovery_rate_and_folds_vote():
    assert called(np.array([0.001, 0.011, 0.9, 0.5])).tolist() == [True, True, False, False]
    assert has_effect(np.array([[1, 1], [1, 0], [1, 1], [0, 0], [0, 0]], bool)).tolist() == [True, False]


def test_the_known_knock_outs_are_called_and_shams_are_not(papalexi):
    """JAK2, STAT1, IFNGR1 and SMAD4 answer; cells of the controls under a made-up label do not."""
    rng = np.random.default_rng(0)
    label = papalexi.obs["perturbation"].astype(str).to_numpy()
    batch = papalexi.obs["batch"].astype(str).to_numpy()
    control = rng.permutation(np.flatnonzero(label == "control"))[:600]
    p = {}
    for name in ("JAK2", "STAT1", "IFNGR1", "SMAD4", "sham"):
        rows = control[:150] if name == "sham" else np.flatnonzero(label == name)[:150]
        others = control[150:]
        both = np.concatenate([rows, others])
        x = np.asarray(papalexi.X[both].todense())
        arm = np.arange(len(both)) < len(rows)
        p[name] = energy_test(x, arm, ["one"] * len(both), batch[both], 199, rng).p_value
    assert max(p[name] for name in ("JAK2", "STAT1", "IFNGR1", "SMAD4")) == 1 / 200 and p["sham"] > 0.05


def screen(controls=600, cells=90, contexts=2):
    """p0 raises three genes, p1 does in context 0 only, p2 and p3 do nothing; p4 has eight cells."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["control", "p0", "p1", "p2", "p3", "p4"], [controls, *[cells] * 4, 8])
    context = np.arange(len(labels)) % contexts
    x = rng.gamma(2.0, 0.5, (len(labels), 12)).astype(np.float32)
    x[(labels == "p0") | ((labels == "p1") & (context == 0)), :3] += 1
    obs = pd.DataFrame(
        {
            "perturbation": labels,
            "perturbation_type": np.where(labels == "control", "none", "drug"),
            "dose": np.where(labels == "control", 0.0, 1.0),
            "cell_context": context.astype(str),
            "batch": (np.arange(len(labels)) // contexts % 2).astype(str),
            "target_measured": False,
        },
        index=[f"c{i}" for i in range(len(labels))],
    )
    facts = {"dataset": "drawn", "data_hash": "none", "scale": "log1p"}
    return AnnData(x, obs, pd.DataFrame(index=[f"g{i}" for i in range(12)]), uns={"twinlib": facts})


@pytest.fixture(scope="module")
def folds():
    return [prepare(screen(), 12, fold=fold) for fold in (1, 2, 3)]


def test_effects_are_called_by_most_folds_and_small_groups_end_nothing(folds):
    table = effect_table(folds, np.random.default_rng(0))
    assert list(table) == ["split", "perturbation", "cell_context", "distance", "p", "called", "has_effect"]
    assert table.groupby("split").size().to_dict() == {f"fold {k}": 5 for k in (1, 2, 3)}
    answer = table.drop_duplicates("perturbation").set_index("perturbation")["has_effect"]
    assert answer.dropna().to_dict() == {"p0": True, "p1": True, "p2": False, "p3": False}
    assert answer.isna()["p4"]  # what could not be tested is not said to have no effect
    assert table.loc[table["p"].notna(), "p"].min() == 1 / 1000
    assert table.loc[table["perturbation"] == "p4", "p"].isna().all()


def test_effects_of_contexts_are_tested_apart(folds):
    table = effect_table(folds[:1], np.random.default_rng(0), by_context=True)
    answer = table.set_index(["perturbation", "cell_context"])["has_effect"]
    assert answer[("p1", "0")] and not answer[("p1", "1")] and answer["p0"].all()
    held_out = prepare(screen(), 12, "contexts", held_out=["0"])
    with pytest.raises(DataError, match="split 'cells'"):
        effect_table([held_out], np.random.default_rng(0))


def test_sham_labels_are_disjoint_sets_of_controls():
    cells = screen(controls=1300)
    shams = check(sham_labels(cells, np.random.default_rng(0)))
    assert set(shams.obs_names) == set(cells.obs_names[cells.obs["perturbation"] == "control"])
    sizes = shams.obs["perturbation"].value_counts()
    assert sizes["control"] >= 650 and set(sizes.drop("control")) == {90} and len(sizes) == 8
    assert shams.uns["twinlib"]["dataset"] == "drawn sham" and cells.uns["twinlib"]["dataset"] == "drawn"
    table = effect_table([prepare(shams, 12)], np.random.default_rng(0))
    assert not table["called"].any()


def test_where_controls_are_few_labels_are_permuted_within_context_and_batch():
    cells = screen()
    shams = check(sham_labels(cells, np.random.default_rng(0)))
    assert list(shams.obs_names) == list(cells.obs_names)
    assert (shams.obs["perturbation"].to_numpy() != cells.obs["perturbation"].to_numpy()).mean() > 0.4
    strata = ["cell_context", "batch", "perturbation", "dose", "perturbation_type"]
    assert shams.obs[strata].value_counts().to_dict() == cells.obs[strata].value_counts().to_dict()
    assert not effect_table([prepare(shams, 12)], np.random.default_rng(0))["called"].any()


@pytest.mark.parametrize("size", [2, 7, 20])
def test_looked_up_distances_give_the_energy_of_the_product(size):
    rng = np.random.default_rng(size)
    distances = effect_tests._distances(rng.normal(size=(60, 5)))
    labels = rng.permuted(np.repeat((np.arange(60) < size)[:, None], 30, axis=1), axis=0)
    few = effect_tests._energy_of_few(distances, labels)
    np.testing.assert_allclose(few, effect_tests._energy(distances, labels), rtol=1e-10, atol=1e-12)


def test_effects_of_single_folds_join_to_one_answer():
    tests = pd.DataFrame(
        {
            "split": [f"fold {i}" for i in range(1, 6) for _ in "ab"],
            "perturbation": ["a", "b"] * 5,
            "cell_context": "",
            "p": 0.5,
            "called": [True, False, True, True, True, False, False, True, False, False],
        }
    )
    told = effect_tests.with_has_effect(tests).groupby("perturbation")["has_effect"].first()
    assert told.to_dict() == {"a": True, "b": False}

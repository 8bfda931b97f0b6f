"""The one judge: its truth, its rows and what it leaves out."""

from __future__ import annotations

import io
import pathlib
import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from twinlib.data.preparation import prepare
from twinlib.errors import InputError
from twinlib.evaluation.calibration import arms, observed_change
from twinlib.evaluation.cases import GROUPS
from twinlib.evaluation.judge import SCORES, evaluate, supervised
from twinlib.evaluation.metrics import pds
from twinlib.evaluation.scoring import ranks
from twinlib.evaluation.summaries import difference, per_unit, small_groups, summary, with_effects
from twinlib.experimental.baselines import BASELINES

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from simulated_counts import canonical, screen
from simulated_counts import cells as counted


@dataclass
class Shift:
    """Adds a vector a label; reaches the labels it has, and may be a population."""

    shifts: dict[str, np.ndarray]
    name: str = "shift"
    replicas: int = 1
    answers: bool = True

    def reaches(self, group):
        return group.perturbation in self.shifts

    def predict(self, group, cells):
        return np.stack([cells + (r + 1) * self.shifts[group.perturbation] for r in range(self.replicas)])


@pytest.fixture(scope="module")
def cells():
    controls, perturbed, _, _ = screen(0.5, np.random.default_rng(0), controls=600, arms=8, n=200)
    return canonical(controls, perturbed, contexts=2)


@pytest.fixture(scope="module")
def prepared(cells):
    return prepare(cells, 40)


def learned(prepared, *names):
    return [supervised(name, [BASELINES[name](prepared)]) for name in names]


def values(tables, metric, model, context=""):
    scores = tables.scores
    rows = (scores["metric"] == metric) & (scores["model"] == model) & (scores["against"] == "")
    return scores[rows & (scores["cell_context"] == context)].set_index("perturbation")["value"]


def effects_of(groups, perturbations):
    table = groups[["perturbation", "cell_context"]].drop_duplicates()
    return table.assign(has_effect=table["perturbation"].isin(perturbations))


def test_rows_and_columns(prepared):
    tables = evaluate(prepared, learned(prepared, "mean", "matching_mean"), experiment="test", setting="a")
    scores, groups = tables.scores, tables.groups
    assert tuple(scores) == SCORES and tuple(groups) == GROUPS
    assert set(scores["model"]) == {"no_change", "replicate", "mean", "matching_mean"}
    told = scores[["experiment", "dataset", "split_kind", "split", "part", "setting"]].drop_duplicates()
    assert told.values.tolist() == [["test", "simulated", "cells", "fold 1", "test", "a"]]
    assert set(scores["cell_context"]) == {"", "0", "1"} and set(scores["against"]) == {"", "ot", "random"}
    assert set(scores.loc[scores["against"] != "", "space"]) == {"log1p", "z"}
    assert len(groups) == 8 * 3 and groups["has_effect"].isna().all()
    np.testing.assert_allclose(groups["kept_response"], 1)  # the panel holds every gene
    assert np.isfinite(scores["value"]).all()


def test_without_single_cells_all_else_is_the_same(prepared):
    rows = learned(prepared, "mean", "matching_mean")
    whole, few = (evaluate(prepared, rows, experiment="test", single_cells=s).scores for s in (True, False))
    assert set(few["against"]) == {""}
    pd.testing.assert_frame_equal(whole[whole["against"] == ""].reset_index(drop=True), few)


def test_departures_from_the_mean_of_the_perturbed_centroids_leave_out_what_all_labels_share():
    """Controls of another study make all changes alike; to Systema's reference that is nothing."""
    rng = np.random.default_rng(0)
    _, perturbed, base, _ = screen(0.5, rng, arms=8, n=200)
    controls = counted(base + rng.normal(0, 1.5, len(base)), 600, rng)
    study = prepare(canonical(controls, perturbed), 40)
    tables = evaluate(study, learned(study, "mean", "matching_mean"), experiment="test")
    shared = {row: values(tables, "pearson_delta", row).mean() for row in ("mean", "matching_mean")}
    own = {row: values(tables, "pearson_centroid", row).mean() for row in shared}
    assert min(shared.values()) > 0.95
    assert abs(own["mean"]) < 0.2 and own["matching_mean"] > own["mean"] + 0.5


def test_a_perturbation_is_not_its_own_reference():
    controls, perturbed, _, _ = screen(0.5, np.random.default_rng(0), controls=600, arms=1, n=200)
    one = prepare(canonical(controls, perturbed), 40)
    assert "pearson_centroid" not in set(evaluate(one, [], experiment="test").scores["metric"])


def test_the_truth_is_the_change_of_test_cells_from_test_controls_within_contexts(prepared):
    obs = prepared.cells.obs.iloc[prepared.rows("test")]
    label, context = obs["perturbation"].to_numpy(str), obs["cell_context"].to_numpy(str)
    own = arms(prepared.expression("test"), label == "p3", label == "control", context)
    tables = evaluate(prepared, [Shift({"p3": observed_change(own)})], experiment="test")
    assert values(tables, "pearson_delta", "shift")["p3"] == pytest.approx(1)
    assert values(tables, "pseudobulk_mse", "shift")["p3"] == pytest.approx(0, abs=1e-12)
    assert values(tables, "skill", "shift")["p3"] == pytest.approx(1)
    assert values(tables, "pds", "shift")["p3"] == 1


def test_doing_nothing_has_no_skill(prepared):
    still = Shift({f"p{i}": np.zeros(40) for i in range(8)})
    tables = evaluate(prepared, [still], experiment="test")
    for model in ("no_change", "shift"):
        assert values(tables, "pearson_delta", model).abs().max() == 0
        assert values(tables, "skill", model).abs().max() == 0
        assert 2 * values(tables, "pds", model).mean() - 1 == pytest.approx(0, abs=1e-6)
    pair = tables.scores[tables.scores["model"].isin(["no_change", "shift"])].drop(columns=["experiment"])
    same = pair.groupby(["against", "perturbation", "cell_context", "space", "metric"])["value"].nunique()
    assert (same == 1).all()


def test_replicas_are_rows_of_their_own_and_populations_have_no_cells(prepared):
    everything = {f"p{i}": np.ones(40) * 0.1 for i in range(8)}
    tables = evaluate(prepared, [Shift(everything, replicas=3, answers=False)], experiment="test", seed=5)
    rows = tables.scores[tables.scores["model"] == "shift"]
    assert set(rows["seed"]) == {5, 6, 7} and set(rows["against"]) == {""}
    assert rows.groupby("seed")["value"].mean().nunique() == 3
    assert set(tables.scores.loc[tables.scores["model"] == "no_change", "seed"]) == {0}


def test_a_prediction_of_another_shape_is_refused(prepared):
    class Flat(Shift):
        def predict(self, group, cells):
            return cells

    with pytest.raises(InputError, match="R=1"):
        evaluate(prepared, [Flat({"p1": np.zeros(40)})], experiment="test")


def test_small_groups_are_told_and_end_nothing(cells):
    label, context = (cells.obs[name].to_numpy(str) for name in ("perturbation", "cell_context"))
    one = np.flatnonzero((label == "p0") & (context == "1"))[12:]
    other = np.flatnonzero(label == "p1")[12:]
    few = cells[np.setdiff1d(np.arange(cells.n_obs), [*one, *other])].copy()
    tables = evaluate(prepare(few, 40), learned(prepare(few, 40), "mean"), experiment="test")
    assert np.isnan(values(tables, "pearson_delta", "mean", "1")["p0"])
    assert np.isfinite(values(tables, "pearson_delta", "mean")["p0"])
    assert np.isnan(values(tables, "pearson_delta", "mean")["p1"])
    assert small_groups(tables.groups)["perturbation"].tolist() == ["p1"]
    rows = per_unit(tables.scores, tables.groups, "pearson_delta", over="all")
    assert "p1" not in rows.index and "p0" in rows.index


def test_the_halves_share_no_cell():
    """With one cloud of cells under every label, halves agree no more than chance."""
    rng = np.random.default_rng(1)
    nothing = canonical(rng.random((400, 30)), [rng.random((200, 30)) for _ in range(8)])
    tables = evaluate(prepare(nothing, 30), [], experiment="test")
    assert abs(values(tables, "pearson_delta", "replicate").mean()) < 0.06
    assert abs(values(tables, "pds", "replicate").mean() - 0.5) < 0.1


def test_pds_is_that_of_the_challenge_but_for_its_denominator_and_targets():
    rng = np.random.default_rng(0)
    truth, guess = rng.normal(size=(2, 9, 5))
    table = [{i: {"": row} for i, row in enumerate(rows)} for rows in (guess, truth)]
    scores = [values[""] for values in ranks(*table, np.ones(5, dtype=bool)).values()]
    np.testing.assert_allclose(1 - 8 / 9 * (1 - np.array(scores)), pds(truth, guess))
    marked = [{i: {"": np.append(row[""], 50 * i)} for i, row in rows.items()} for rows in table]
    assert [v[""] for v in ranks(*marked, np.arange(6) < 5).values()] == scores


def test_arcsinh_data_go_through_the_same_doors(cells):
    few = cells[:, :10].copy()
    few.uns["twinlib"] = {**few.uns["twinlib"], "scale": "arcsinh"}
    tables = evaluate(prepare(few, 10), [], experiment="test")
    assert set(tables.scores["space"]) == {"arcsinh", "z"}
    assert values(tables, "overlap_at_20", "no_change").isna().all()


@pytest.mark.parametrize("kind, held_out", [("contexts", ["1"]), ("batches", ["two"]), ("cells", [])])
def test_splits_are_named(cells, kind, held_out):
    paired = cells.copy()
    paired.obs["batch"] = np.where(np.arange(cells.n_obs) % 3 == 0, "two", "one")
    tables = evaluate(prepare(paired, 40, kind, held_out=held_out), [], experiment="test")
    assert set(tables.scores["split"]) == {held_out[0] if held_out else "fold 1"}


@pytest.fixture(scope="module")
def folds(cells):
    """Scores and groups of five folds, with a row that reaches six of the eight perturbations."""
    pieces = []
    for fold in range(1, 6):
        prepared = prepare(cells, 40, fold=fold)
        some = Shift({f"p{i}": np.linspace(0, 1, 40) for i in range(6)}, name="some", replicas=2)
        rows = [*learned(prepared, "mean", "matching_mean"), some]
        pieces.append(evaluate(prepared, rows, experiment="test"))
    scores, groups = (pd.concat([getattr(p, name) for p in pieces]) for name in ("scores", "groups"))
    return scores, with_effects(groups, effects_of(groups, [f"p{i}" for i in range(7)]))


def test_a_row_that_reaches_fewer_stands_on_its_own_set_with_all_others_beside(folds):
    table = summary(*folds, "pearson_delta")
    whole, own = table[table["on"] == "all"], table[table["on"] == "some"]
    assert "some" not in set(whole["model"]) and (whole["units"] == 7).all()
    assert {"some", "mean", "matching_mean", "no_change", "replicate", "ceiling"} == set(own["model"])
    assert (own["units"] == 6).all() and own.set_index("model").loc["some", "seeds"] == 2
    units = per_unit(*folds, "pearson_delta", over="has_effect")
    assert whole.set_index("model").loc["mean", "mean"] == pytest.approx(units["mean"].mean())


def test_the_table_holds_ceiling_scale_and_interval(folds):
    table = summary(*folds, "pearson_delta").query("on == 'all'").set_index("model")
    row = table.loc["matching_mean"]
    assert row["low"] < row["mean"] < row["high"] and row["folds"] == 5
    assert row["mean"] < row["ceiling"] == table.loc["ceiling", "mean"]
    assert table.loc["mean", "scaled"] == pytest.approx(0) and table.loc[
        "replicate", "scaled"
    ] == pytest.approx(1)
    assert row["scaled"] > 1, "a mean of all training cells is better than a half of the test cells"
    gap = difference(*folds, "pearson_delta", "matching_mean", "mean")
    assert gap.mean == pytest.approx(row["mean"] - table.loc["mean", "mean"]) and gap.low > 0
    assert gap.smallest == pytest.approx(2.8 * (gap.high - gap.mean) / t.ppf(0.975, gap.dof))
    assert gap.smallest >= 2.8 * gap.sd / 7**0.5 * (1 - 1e-9), "folds and seeds can only add to it"


def test_seeds_widen_the_interval(folds):
    scores, groups = folds
    noisy = scores.copy()
    noisy.loc[(noisy["model"] == "some") & (noisy["seed"] == 1), "value"] += 0.2
    widths = [
        row["high"] - row["low"]
        for table in (scores, noisy)
        for _, row in summary(table, groups, "mae").query("model == 'some'").iterrows()
    ]
    assert widths[1] > widths[0]


def test_undetected_units_are_shown_apart_and_effects_must_be_told(folds):
    scores, groups = folds
    assert per_unit(scores, groups, "skill", over="undetected").index.tolist() == ["p7"]
    with pytest.raises(InputError, match="with_effects"):
        summary(scores, groups.assign(has_effect=pd.NA), "skill")
    with pytest.raises(InputError, match="choose one of"):
        summary(scores, groups, "charm")
    with pytest.raises(InputError, match="skill_w1"):
        summary(scores, groups, "skill_e_distance")
    with pytest.raises(InputError, match="folds"):
        summary(scores[(scores["model"] != "mean") | (scores["split"] != "fold 2")], groups, "skill")
    with pytest.raises(InputError, match="select one"):
        summary(pd.concat([scores, scores.assign(dataset="other")]), groups, "skill")


def test_tables_survive_a_file(folds):
    """Empty names become NaN in a file, and effects text."""
    scores, groups = (pd.read_csv(io.StringIO(table.to_csv(index=False))) for table in folds)
    pd.testing.assert_frame_equal(summary(scores, groups, "skill_pds"), summary(*folds, "skill_pds"))


def test_the_same_rows_of_several_calls_count_once(folds):
    scores, groups = folds
    pd.testing.assert_frame_equal(
        summary(pd.concat([scores, scores]), groups, "w1"), summary(scores, groups, "w1")
    )
    other = scores.assign(value=scores["value"] + 1)
    with pytest.raises(InputError, match="two values"):
        summary(pd.concat([scores, other]), groups, "w1")


def test_units_are_contexts_where_perturbations_are_few(cells):
    few = cells[cells.obs["perturbation"].isin(["control", "p0", "p1", "p2"])].copy()
    tables = evaluate(prepare(few, 40), [], experiment="test")
    assert per_unit(tables.scores, tables.groups, "skill").index.tolist() == [
        f"p{i} | {context}" for i in range(3) for context in "01"
    ]

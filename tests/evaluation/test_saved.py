"""A stranger's predictions read back: doing nothing is no_change, the truth has skill 1."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.outside.exchange import export, questions
from twinlib.data.preparation import prepare
from twinlib.data.schema import CONTROL
from twinlib.data.simulated import simulate_waddington
from twinlib.errors import DataError, InputError
from twinlib.evaluation.judge import evaluate
from twinlib.evaluation.saved import resized, saved_predictions
from twinlib.landscapes.gene_network import Wiring

LABELS = ("Gata1", "Pu1", "Cebpa", "Fli1")


@pytest.fixture(scope="module", params=["cells", "contexts"])
def prepared(request):
    design = {"contexts": ("reference", "slow")} if request.param == "contexts" else {}
    cells = simulate_waddington(1500, perturbations=LABELS, wiring=Wiring(n_genes=40), **design)
    return prepare(cells, 30, request.param, held_out=["slow"] if design else [])


def values(prepared, *predictors):
    """Every value of the judge by model, as tables with one row a perturbation, context and metric."""
    scores = evaluate(prepared, predictors, experiment="test").scores
    keys = ["perturbation", "cell_context", "against", "space", "metric"]
    return {name: rows.set_index(keys)["value"] for name, rows in scores.groupby("model")}


def truth(prepared):
    """The test cells themselves, as a prediction of populations."""
    rows = prepared.rows("test")
    return prepared.cells[rows[(prepared.cells.obs["perturbation"] != CONTROL).to_numpy()[rows]]].copy()


def test_saved_doing_nothing_is_no_change(prepared):
    asked = questions(prepared)
    shuffled = asked[np.random.default_rng(0).permutation(asked.n_obs)]
    rows = values(
        prepared,
        saved_predictions("still", prepared, [asked]),
        saved_predictions("shuffled", prepared, [shuffled]),
    )
    for name in ("still", "shuffled"):
        np.testing.assert_allclose(rows[name], rows["no_change"].reindex(rows[name].index), atol=1e-6)
    assert rows["still"].index.get_level_values("against").nunique() == 3, "cells answer controls"


def test_the_saved_truth_has_skill_1(prepared):
    rows = values(prepared, saved_predictions("truth", prepared, [truth(prepared)]))
    pick = {name: table.xs("pearson_delta", level="metric") for name, table in rows.items()}
    np.testing.assert_allclose(pick["truth"], 1.0, atol=1e-6)
    error = {name: table.xs("pseudobulk_mse", level="metric") for name, table in rows.items()}
    np.testing.assert_allclose(
        error["truth"] / error["no_change"].reindex(error["truth"].index), 0, atol=1e-9
    )
    assert set(rows["truth"].index.get_level_values("against")) == {""}, "a population answers no control"


def test_genes_are_read_by_name_and_replicas_side_by_side(prepared):
    asked = questions(prepared)
    reader = saved_predictions("two", prepared, [asked[:, ::-1], asked])
    assert reader.replicas == 2 and reader.answers
    scores = evaluate(prepared, [reader], experiment="test").scores
    assert set(scores.loc[scores["model"] == "two", "seed"]) == {0, 1}


def test_a_group_that_is_not_predicted_has_no_row(prepared):
    asked = questions(prepared)
    some = asked[asked.obs["perturbation"] != LABELS[0]]
    rows = values(prepared, saved_predictions("some", prepared, [some]))
    assert set(rows["some"].index.get_level_values("perturbation")) == set(LABELS[1:])


@pytest.mark.parametrize("size", [1, 3, 7, 10, 25])
def test_a_population_of_another_size_keeps_its_mean_and_its_spread(size):
    cells = np.random.default_rng(0).normal(size=(10, 4))
    drawn = resized(cells, size)
    assert drawn.shape == (size, 4)
    np.testing.assert_allclose(drawn.mean(axis=0), cells.mean(axis=0), atol=1e-12)
    if size > len(cells):
        assert np.abs(drawn.std(axis=0) / cells.std(axis=0) - 1).max() < 0.4


def test_no_truth_leaves_the_house(prepared, tmp_path):
    from anndata import read_h5ad

    export(prepared, tmp_path)
    train, query = (read_h5ad(tmp_path / f"{name}.h5ad") for name in ("train", "query"))
    assert set(train.obs["control"]) == set(prepared.cells.obs_names[prepared.rows("train")])
    controls = prepared.cells[prepared.rows("test", CONTROL)]
    assert set(query.obs["control"]) == set(controls.obs_names)
    known = {name: row for name, row in zip(controls.obs_names, np.asarray(controls.X), strict=True)}
    assert all((known[n] == x).all() for n, x in zip(query.obs["control"], np.asarray(query.X), strict=True))
    assert set(query.obs["perturbation"]) == {CONTROL, *LABELS}
    export(prepared, tmp_path, controls=True)
    more = read_h5ad(tmp_path / "train.h5ad")
    assert set(more.obs["control"]) - set(train.obs["control"]) == set(controls.obs_names)


def broken(prepared, kind):
    asked = questions(prepared)
    if kind == "gene":
        return asked[:, 1:]
    if kind == "nan":
        asked.X[5, 3] = np.nan
    if kind == "counts":
        asked.X = 1e4 * np.asarray(asked.X)
    if kind == "answer":
        return asked[: asked.n_obs - 1]
    if kind == "name":
        asked.obs["perturbation"] = "no " + asked.obs["perturbation"].astype(str)
    if kind == "label":
        del asked.obs["perturbation"]
    return asked


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gene", "genes of the panel"),
        ("nan", "NaN"),
        ("counts", "log1p"),
        ("answer", "one row a control"),
        ("name", "predicts no group"),
        ("label", r"lack obs\['perturbation'\]"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_one_sentence(prepared, kind, words):
    with pytest.raises((DataError, InputError), match=words):
        saved_predictions("theirs", prepared, [broken(prepared, kind)])


def test_replicas_are_of_one_kind_and_there_is_one(prepared):
    with pytest.raises(InputError, match="no predictions"):
        saved_predictions("theirs", prepared, [])
    with pytest.raises(DataError, match="some do not"):
        saved_predictions("theirs", prepared, [questions(prepared), truth(prepared)])

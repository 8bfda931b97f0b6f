"""Questions outside what was trained: several doses, doses beyond, other shapes, genes nobody perturbed."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from twinlib.data.preparation import prepare
from twinlib.data.simulated import simulate_waddington
from twinlib.embedding.perturbations import PerturbationTable
from twinlib.errors import DataError, Extrapolation
from twinlib.experimental.baselines import BASELINES, ceiling
from twinlib.experimental.perturbation_model import (
    PerturbationModelConfig,
    fit_perturbation_model,
    predict_anndata,
)
from twinlib.landscapes.gene_network import Wiring

from .conftest import PrincipalEmbedding

QUICK = PerturbationModelConfig(hidden=8, label_steps=30, cell_network=False)


@pytest.fixture(scope="module")
def doses():
    """Cells of two knock-downs at two doses, one of which is given at one only."""
    cells = simulate_waddington(
        900, perturbations=("Gata1", "Pu1", "Fli1"), doses=(0.5, 1.0), wiring=Wiring(n_genes=40)
    )
    once = (cells.obs["perturbation"] == "Pu1") & (cells.obs["dose"] == 1.0)
    return prepare(cells[~once].copy(), 30)


@pytest.fixture(scope="module")
def predictors(doses):
    embedding = PrincipalEmbedding(doses)
    fitted = {name: fit(doses, embedding) for name, fit in BASELINES.items()}
    return fitted | {"experimental": fit_perturbation_model(doses, embedding, config=QUICK)}


@pytest.fixture
def x(doses):
    return doses.expression("test", "control")[:6]


def test_without_a_dose_the_trained_one_is_taken(predictors, x):
    """theislab/cpa#39, snap-stanford/GEARS#11: a question without a dose, several doses trained."""
    for name, model in predictors.items():
        alone = model.predict(x, ["Pu1"] * 6)
        np.testing.assert_array_equal(alone, model.predict(x, ["Pu1"] * 6, 0.5), err_msg=name)
        with pytest.raises(DataError, match=r"Gata1 needs a dose, since several were trained \(0.5, 1\)"):
            model.predict(x, ["Pu1"] * 3 + ["Gata1"] * 3)
        np.testing.assert_array_equal(model.predict(x, ["control"] * 6), x)


def test_a_dose_beyond_the_trained_ones_is_marked(predictors, x):
    for model in predictors.values():
        with pytest.warns(Extrapolation, match="dose 2 of Gata1 is an extrapolation .trained from 0 to 1"):
            model.predict(x, ["Gata1"] * 6, 2.0)
        with pytest.warns(Extrapolation, match="trained from 0 to 0.5"):
            model.predict(x, ["Gata1"] * 3 + ["Pu1"] * 3, 1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.predict(x, ["Gata1"] * 5 + ["control"], [0, 0.25, 0.5, 0.75, 1, 5])


def test_the_prediction_with_names_carries_dose_and_mark(predictors, doses):
    with pytest.warns(Extrapolation):
        beyond = predict_anndata(predictors["experimental"], doses, "Gata1", 1.5)
    within = predict_anndata(predictors["experimental"], doses, "Pu1")
    assert (beyond.obs["dose"] == 1.5).all() and beyond.obs["extrapolated"].all()
    assert (within.obs["dose"] == 0.5).all() and not within.obs["extrapolated"].any()


def test_a_path_ends_at_the_trained_dose(predictors, doses, x):
    model = predictors["experimental"]
    path = model.trajectory(x, ["Pu1"] * 6, 4)
    push, _ = model.effect(["Pu1"] * 6, 0.5)
    np.testing.assert_allclose(path[:, -1] - path[:, 0], push.numpy(), atol=1e-5)
    with pytest.raises(DataError, match="needs a dose"):
        model.trajectory(x, ["Gata1"] * 6)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda x: (x[0], ["Pu1"]), "shape"),
        (lambda x: (x[:, :1], ["Pu1"] * 6), "shape"),
        (lambda x: (x.astype(str), ["Pu1"] * 6), "type"),
        (lambda x: (np.where(x > 2, np.nan, x), ["Pu1"] * 6), "NaN"),
        (lambda x: (x, "Pu1"), "labels=['Pu1']"),
        (lambda x: (x, ["Pu1"] * 5), "5 labels for 6 cells"),
        (lambda x: (x, ["Pu1"] * 6, [0.5] * 5), "one a cell"),
        (lambda x: (x, ["Pu1"] * 6, -1.0), "below 0"),
        (lambda x: (x, ["Pu1"] * 6, float("nan")), "not finite"),
        (lambda x: (x, ["Pu1"] * 6, "much"), "one number"),
    ],
)
def test_other_shapes_and_values_are_one_sentence(predictors, x, wrong, word):
    for model in predictors.values():
        with pytest.raises(DataError) as caught:
            model.predict(*wrong(x))
        assert word in str(caught.value) and str(caught.value).endswith(".")


def test_whole_numbers_are_predicted_with_fractions(predictors, x):
    whole = np.rint(x).astype(int)
    change = predictors["matching_mean"].predict(whole, ["Pu1"] * 6) - whole
    assert change.dtype.kind == "f" and (np.abs(change - np.rint(change)) > 1e-3).any()


def test_a_gene_that_nobody_perturbed_is_lent_an_effect_by_three_others(predictors, doses, x):
    gene = next(gene for gene in doses.genes if gene not in doses.measured)
    model = predictors["experimental"]
    assert model.table.features([gene])[0].abs().sum() > 0
    np.testing.assert_array_equal(model.predict(x, [gene] * 6, 0.0), x)
    one, two = (model.predict(x, [gene] * 6, dose) - x for dose in (0.5, 1.0))
    assert np.abs(one).max() > 0 and np.abs(two).mean() > np.abs(one).mean()


def test_a_gene_that_nobody_perturbed_is_not_called_unmeasured(predictors, doses, x):
    gene = next(gene for gene in doses.genes if gene not in doses.measured)
    few = replace(doses, train_perturbations=("Gata1", "Pu1"))
    table = PerturbationTable(few, PrincipalEmbedding(doses))
    with pytest.raises(DataError, match="was never perturbed, though measured, as fewer than 3"):
        table.features([gene])
    with pytest.raises(DataError, match="is not measured"):
        table.features(["IRF1"])
    with pytest.raises(DataError, match=f"cannot reach {gene} in {gene}, which was never perturbed"):
        predictors["linear"].predict(x, [gene] * 6, 1.0)


def test_a_small_group_does_not_end_a_run():
    """Twelve cells give two or three test cells, three one at most: all are fitted, paired, predicted."""
    cells = simulate_waddington(
        700, perturbations=("Gata1", "Pu1", "Fli1", "EKLF"), wiring=Wiring(n_genes=40)
    )
    labels = cells.obs["perturbation"].astype(str).to_numpy()
    keep = np.ones(cells.n_obs, dtype=bool)
    keep[np.flatnonzero(labels == "Pu1")[12:]] = keep[np.flatnonzero(labels == "EKLF")[3:]] = False
    prepared = prepare(cells[keep].copy(), 30)
    assert prepared.cells.obs["small_group"].sum() == 3
    halves = ceiling(prepared, "Pu1")
    assert [len(half) for half in halves] in ([1, 1], [1, 2])
    model = fit_perturbation_model(prepared, PrincipalEmbedding(prepared), config=QUICK)
    predicted = model.predict(
        prepared.expression("test", "control"), ["EKLF"] * len(prepared.rows("test", "control"))
    )
    assert np.isfinite(predicted).all() and isinstance(model.effect(["Pu1"])[0], torch.Tensor)

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from twinlib.data.preparation import prepare
from twinlib.errors import DataError
from twinlib.experimental.baselines import BASELINES, ceiling, gene_scores, shift_of, training_cells

from .conftest import PrincipalEmbedding


def mean_of(prepared, label, split="train"):
    return prepared.expression(split, label).mean(axis=0, dtype=np.float64)


def predicted_shift(prepared, name, label, embedding=None):
    x = prepared.expression("test", "control")
    return (BASELINES[name](prepared, embedding).predict(x, [label] * len(x)) - x).mean(axis=0)


@pytest.mark.parametrize("name", list(BASELINES))
def test_control_and_dose_zero_return_the_cell_exactly(prepared, embedding, name):
    x = prepared.expression("test", "control")
    fitted = BASELINES[name](prepared, embedding)
    for labels, dose in ((["control"] * len(x), None), (["Gata1"] * len(x), 0.0)):
        assert np.array_equal(fitted.predict(x, labels, dose), x)


@pytest.mark.parametrize("name", list(BASELINES))
def test_predictions_keep_shape_and_type(prepared, embedding, name):
    x = prepared.expression("test", "control")
    y = BASELINES[name](prepared, embedding).predict(x, ["Gata1"] * len(x))
    assert y.shape == x.shape and y.dtype == x.dtype and np.isfinite(y).all()


def test_no_change_is_the_control(prepared):
    x = prepared.expression("test", "control")
    assert np.array_equal(BASELINES["no_change"](prepared).predict(x, ["Gata1"] * len(x)), x)


def test_matching_mean_of_a_seen_label_is_its_training_mean(prepared):
    expected = mean_of(prepared, "Gata1") - mean_of(prepared, "control")
    assert np.allclose(predicted_shift(prepared, "matching_mean", "Gata1"), expected, atol=1e-5)


def test_mean_ignores_the_label_and_counts_each_perturbation_once(prepared):
    control = mean_of(prepared, "control")
    changes = [mean_of(prepared, label) - control for label in prepared.train_perturbations]
    for label in ("Gata1", "Fli1+Pu1"):
        assert np.allclose(predicted_shift(prepared, "mean", label), np.mean(changes, axis=0), atol=1e-5)


def test_unseen_double_is_summed_by_additive_and_averaged_by_matching_mean(cells):
    held = prepare(cells, 40, split="doubles", held_out=["Gata1+Pu1"])
    control = mean_of(held, "control")
    single = [mean_of(held, label) - control for label in ("Gata1", "Pu1")]
    assert np.allclose(predicted_shift(held, "additive", "Gata1+Pu1"), sum(single), atol=1e-5)
    assert np.allclose(predicted_shift(held, "matching_mean", "Gata1+Pu1"), sum(single) / 2, atol=1e-5)


def test_dose_scales_the_shift(prepared):
    x = prepared.expression("test", "control")
    fitted = BASELINES["matching_mean"](prepared)
    full = fitted.predict(x, ["Pu1"] * len(x)) - x
    half = fitted.predict(x, ["Pu1"] * len(x), 0.5) - x
    assert np.allclose(half, full / 2, atol=1e-5)


def test_shift_is_taken_inside_each_context(prepared):
    cells = training_cells(prepared)
    contexts = np.where(np.arange(len(cells.labels)) % 2, "a", "b")
    offset = np.where(contexts == "a", 5.0, 0.0)[:, None]
    moved = dataclasses.replace(cells, contexts=contexts, values=cells.values + offset)
    plain = dataclasses.replace(cells, contexts=contexts)
    assert np.allclose(shift_of(moved, "Gata1"), shift_of(plain, "Gata1"), atol=1e-4)


def test_a_context_without_a_control_stays_out(prepared):
    """Its cells differ from the other contexts' controls by their type, which is no response."""
    cells = training_cells(prepared)
    rows = np.flatnonzero(cells.labels == "Gata1")
    contexts = np.full(len(cells.labels), "a", dtype=object)
    contexts[rows[:7]] = "b"
    alone = dataclasses.replace(cells, contexts=contexts.astype(str))
    kept = np.setdiff1d(np.arange(len(cells.labels)), rows[:7])
    fields = ("values", "labels", "contexts", "doses")
    without = dataclasses.replace(alone, **{name: getattr(alone, name)[kept] for name in fields})
    assert np.allclose(shift_of(alone, "Gata1"), shift_of(without, "Gata1"))
    nowhere = dataclasses.replace(cells, contexts=np.where(cells.labels == "control", "a", "b"))
    assert np.allclose(shift_of(nowhere, "Gata1"), shift_of(cells, "Gata1"), atol=1e-5)


@pytest.fixture
def two_contexts(prepared):
    """The same cells, a third of the perturbed ones in a context in which the change is twice as large."""
    cells = prepared.cells.copy()
    perturbed = (cells.obs["perturbation"] != "control").to_numpy()
    far = np.arange(cells.n_obs) % 3 == 0
    cells.obs["cell_context"] = np.where(far, "far", "near")
    centre = mean_of(prepared, "control")
    cells.X[far & perturbed] = centre + 2.0 * (cells.X[far & perturbed] - centre)
    return dataclasses.replace(prepared, cells=cells)


def test_context_mean_counts_every_context_once(two_contexts):
    """matching_mean weighs contexts by their cells."""
    train = two_contexts.cells[two_contexts.rows("train")]
    x, labels = np.asarray(train.X, dtype=float), train.obs["perturbation"].to_numpy(dtype=str)
    changes, sizes = [], []
    for context in ("far", "near"):
        here = (train.obs["cell_context"] == context).to_numpy()
        mine = here & (labels == "Gata1")
        changes.append(x[mine].mean(axis=0) - x[here & (labels == "control")].mean(axis=0))
        sizes.append(mine.sum())
    told = {name: predicted_shift(two_contexts, name, "Gata1") for name in ("context_mean", "matching_mean")}
    assert np.allclose(told["context_mean"], np.mean(changes, axis=0), atol=1e-4)
    assert np.allclose(told["matching_mean"], np.average(changes, axis=0, weights=sizes), atol=1e-4)
    assert not np.allclose(told["context_mean"], told["matching_mean"], atol=1e-2)


def test_context_mean_leaves_tiny_contexts_out(two_contexts):
    cells = two_contexts.cells.copy()
    rows = np.flatnonzero((cells.obs["perturbation"] == "Gata1") & (cells.obs["split"] == "train"))
    contexts = cells.obs["cell_context"].to_numpy(dtype=object)
    contexts[rows] = np.where(np.arange(len(rows)) < 3, "far", "near")
    cells.obs["cell_context"] = contexts.astype(str)
    few = dataclasses.replace(two_contexts, cells=cells)
    near = [few.expression("train", label, "near").mean(axis=0) for label in ("Gata1", "control")]
    assert np.allclose(predicted_shift(few, "context_mean", "Gata1"), near[0] - near[1], atol=1e-4)


def test_linear_solves_its_two_sided_ridge(prepared):
    """The fitted W makes the gradient of the two-ridge problem vanish, written here without the solver."""
    from twinlib.experimental.baselines import LINEAR_RIDGE, _ridge_solve

    rng = np.random.default_rng(0)
    left, right, target = rng.normal(size=(30, 4)), rng.normal(size=(7, 4)), rng.normal(size=(30, 7))
    w = _ridge_solve(left, target, right, LINEAR_RIDGE)
    eye = LINEAR_RIDGE * np.eye(4)
    assert np.allclose((left.T @ left + eye) @ w @ (right.T @ right + eye), left.T @ target @ right)


def test_gene_scores_reproduce_centred_profiles():
    profiles = np.random.default_rng(1).normal(size=(5, 30))
    scores = gene_scores(profiles, 10)
    centred = profiles.T - profiles.T.mean(axis=0)
    assert scores.shape == (30, 5)
    assert np.allclose(scores @ np.linalg.lstsq(scores, centred, rcond=None)[0], centred)


def test_linear_reaches_an_unseen_measured_gene_and_refuses_others(cells):
    held = prepare(cells, 40, split="perturbations", held_out=["Fli1"])
    assert "Fli1" not in held.train_perturbations
    assert np.isfinite(predicted_shift(held, "linear", "Fli1")).all()
    with pytest.raises(DataError, match="not among the genes"):
        predicted_shift(held, "linear", "IRF1")


def test_latent_shift_is_the_latent_mean_difference(prepared, embedding: PrincipalEmbedding):
    """With a linear decoder scGen's arithmetic is the projected mean difference."""
    axes = embedding.axes.numpy()
    change = prepared.scale(prepared.expression("train", "Gata1")).mean(0) - prepared.scale(
        prepared.expression("train", "control")
    ).mean(0)
    expected = (change @ axes.T @ axes) * prepared.std
    assert np.allclose(predicted_shift(prepared, "latent_shift", "Gata1", embedding), expected, atol=2e-2)


def test_latent_shift_without_an_embedding_says_so(prepared):
    with pytest.raises(ValueError, match="needs an embedding"):
        BASELINES["latent_shift"](prepared)


def test_ceiling_halves_are_disjoint_and_follow_the_seed(prepared):
    first, second = ceiling(prepared, "Gata1", seed=3)
    again, _ = ceiling(prepared, "Gata1", seed=3)
    assert np.array_equal(first, again) and abs(len(first) - len(second)) <= 1
    assert len(np.unique(np.vstack([first, second]), axis=0)) == len(prepared.expression("test", "Gata1"))
    assert not np.array_equal(first, ceiling(prepared, "Gata1", seed=4)[0])


def test_ceiling_refuses_a_perturbation_without_test_cells(prepared):
    with pytest.raises(DataError, match="too few"):
        ceiling(prepared, "nobody")

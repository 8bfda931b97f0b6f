from __future__ import annotations

import copy
import dataclasses
import inspect
import re

import numpy as np
import pytest
import torch

from twinlib.data.pairing import pair
from twinlib.data.preparation import prepare
from twinlib.embedding.perturbations import PerturbationTable
from twinlib.errors import DataError
from twinlib.experimental import perturbation_model
from twinlib.experimental.baselines import BASELINES, training_cells
from twinlib.experimental.perturbation_model import (
    RIDGES,
    CellNetwork,
    Effects,
    LabelNetwork,
    PerturbationModelConfig,
    _acts,
    _left_out_error,
    _ridge,
    _slopes,
    borrow,
    earns_its_place,
    estimate_effects,
    fit_perturbation_model,
    predict_anndata,
    trust,
)

from .conftest import QUICK, PrincipalEmbedding


def errors(prepared, predict) -> np.ndarray:
    """L2 of the predicted test mean, one a perturbation."""
    x = prepared.expression("test", "control")
    truth = {p: prepared.expression("test", p).mean(0) for p in prepared.perturbations}
    return np.array([np.linalg.norm(predict(x, [p] * len(x)).mean(0) - y) for p, y in truth.items()])


def test_control_and_dose_zero_return_the_cell_exactly(prepared, model):
    x = prepared.expression("test", "control")
    assert np.array_equal(model.predict(x, ["control"] * len(x)), x)
    assert np.array_equal(model.predict(x, ["Gata1"] * len(x), 0.0), x)


def test_mixed_labels_and_doses_equal_separate_calls(prepared, model):
    x = prepared.expression("test", "control")[:6]
    labels, dose = ["Gata1", "control", "Pu1", "Gata1+Pu1", "Pu1", "Gata1"], [1.0, 1.0, 0.5, 1.0, 0.0, 1.0]
    together = model.predict(x, labels, dose)
    alone = [model.predict(x[i : i + 1], labels[i : i + 1], dose[i])[0] for i in range(6)]
    assert np.allclose(together, np.stack(alone), atol=1e-5)
    assert np.array_equal(together[[1, 4]], x[[1, 4]])


def test_beats_no_change_and_mean_on_unseen_cells(prepared, model):
    twin = errors(prepared, model.predict).mean()
    assert twin < errors(prepared, BASELINES["mean"](prepared).predict).mean()
    assert twin < 1.1 * errors(prepared, BASELINES["matching_mean"](prepared).predict).mean()


def test_shuffled_labels_take_it_down_to_the_mean(prepared, embedding, pairs):
    """Labels shuffled among perturbed training cells: no label keeps an effect of its own."""
    shuffled = prepared.cells.copy()
    obs = shuffled.obs
    rows = np.flatnonzero((obs["split"] == "train") & (obs["perturbation"] != "control"))
    labels = obs["perturbation"].astype(str).to_numpy()
    labels[rows] = np.random.default_rng(0).permutation(labels[rows])
    obs["perturbation"] = labels
    wrong = dataclasses.replace(prepared, cells=shuffled)
    twin = fit_perturbation_model(wrong, embedding, pair(wrong), QUICK).predict
    mean = errors(prepared, BASELINES["mean"](prepared).predict).mean()
    true_gain = mean - errors(prepared, BASELINES["matching_mean"](prepared).predict).mean()
    assert errors(prepared, twin).mean() > mean - 0.1 * true_gain


def test_departures_of_shuffled_labels_are_not_believed(prepared):
    cells = training_cells(prepared)
    scaled = prepared.scale(cells.values)
    rows = np.flatnonzero(cells.labels != "control")
    labels = cells.labels.copy()
    labels[rows] = np.random.default_rng(1).permutation(labels[rows])

    def kept(told):
        found = estimate_effects(told, scaled)
        left = found.believed - found.measured.mean(axis=0)
        return (left**2).sum() / ((found.measured - found.measured.mean(axis=0)) ** 2).sum()

    assert kept(cells) > 0.8
    assert kept(dataclasses.replace(cells, labels=labels)) < 0.35


def test_trust_restores_the_length_of_the_signal():
    rng = np.random.default_rng(0)
    signal, noise = rng.normal(0, 2.0, (9000, 3)), np.full((9000, 3), 4.0)
    seen = signal + rng.normal(0, 2.0, signal.shape)
    cut = trust(seen, noise) * seen
    assert np.allclose((cut**2).mean(axis=0), (signal**2).mean(axis=0), rtol=0.05)
    assert not trust(rng.normal(0, 1.0, signal.shape), noise).any()


def test_trajectory_starts_at_the_encoded_cell_and_ends_at_the_predicted_move(prepared, model):
    x = prepared.expression("test", "control")[:5]
    path = model.trajectory(x, ["Gata1"] * 5, horizon=7)
    z = model.embedding.encode(torch.from_numpy(prepared.scale(x)))
    push, _ = model.effect(["Gata1"] * 5)
    end = z + push + model.cell_network(z, push)
    assert path.shape == (5, 8, model.embedding.latent_dim)
    assert np.array_equal(path[:, 0], z.numpy())
    assert np.allclose(path[:, -1], end.numpy(), atol=1e-5)
    assert np.array_equal(model.trajectory(x, ["control"] * 5, 3), np.repeat(z.numpy()[:, None], 4, axis=1))


def test_same_seed_same_model_and_another_seed_another(prepared, embedding, pairs, model):
    x = prepared.expression("test", "control")
    again = fit_perturbation_model(prepared, embedding, pairs, QUICK, seed=0).predict(x, ["Pu1"] * len(x))
    other = fit_perturbation_model(prepared, embedding, pairs, QUICK, seed=1).predict(x, ["Pu1"] * len(x))
    assert np.array_equal(again, model.predict(x, ["Pu1"] * len(x)))
    assert not np.array_equal(again, other)


def test_training_leaves_the_global_generator_alone(prepared, embedding, pairs):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit_perturbation_model(prepared, embedding, pairs, dataclasses.replace(QUICK, label_steps=2, epochs=1))
    assert torch.equal(before, torch.get_rng_state())


def test_test_cells_do_not_reach_the_model(prepared, embedding, pairs):
    """Other test cells, same model: neither outcome nor input of a test cell is used in training."""
    changed = prepared.cells.copy()
    changed.X[np.asarray(changed.obs["split"] == "test")] += 3.0
    config = dataclasses.replace(QUICK, label_steps=50, epochs=1)
    x = prepared.expression("train", "control")[:20]
    one = fit_perturbation_model(prepared, embedding, pairs, config).predict(x, ["Pu1"] * 20)
    two = fit_perturbation_model(dataclasses.replace(prepared, cells=changed), embedding, pairs, config)
    assert np.array_equal(one, two.predict(x, ["Pu1"] * 20))


def test_held_out_double_is_predicted_better_than_no_change(cells):
    held = prepare(cells, 40, split="doubles", held_out=["Gata1+Pu1"])
    embedding = PrincipalEmbedding(held)
    twin = fit_perturbation_model(held, embedding, pair(held), QUICK)
    x, y = held.expression("test", "control"), held.expression("test", "Gata1+Pu1").mean(0)
    far = np.linalg.norm(x.mean(0) - y)
    assert np.linalg.norm(twin.predict(x, ["Gata1+Pu1"] * len(x)).mean(0) - y) < 0.9 * far


def test_a_perturbation_that_cannot_be_embedded_is_refused(prepared, model):
    x = prepared.expression("test", "control")[:2]
    with pytest.raises(DataError, match="IRF1") as error:
        model.predict(x, ["IRF1"] * 2)
    assert str(error.value).count(". ") == 0


def test_an_unseen_target_borrows_from_gene_vectors_only_where_they_tell_something():
    """Effects that follow the gene vectors are carried over; effects that do not leave the mean."""
    rng = np.random.default_rng(0)
    vectors, weights = rng.normal(size=(12, 4)), rng.normal(size=(4, 30))
    tells, silent = vectors @ weights, rng.normal(size=(12, 30))
    chosen = [min(RIDGES, key=lambda r, y=y: _left_out_error(vectors, y, r)) for y in (tells, silent)]
    assert chosen[0] <= 1.0 and chosen[1] >= 10.0
    near = _ridge(vectors[1:], tells[1:], vectors[0], 0.1)
    assert np.corrcoef(near, tells[0])[0, 1] > 0.9
    assert not _ridge(vectors, silent, vectors[0], np.inf).any()


def test_what_is_lent_is_an_effect_per_unit_dose(prepared, embedding):
    """A label known at half the dose with half the effect lends as much as at the full dose."""
    table = PerturbationTable(prepared, embedding)
    table.parts = ("A",)
    full = np.arange(1.0, 5.0)[None]
    lent = []
    for dose in ([1.0], [0.5], [1.0, 0.5]):
        size = np.array(dose)[:, None]
        effects = Effects(("A",) * len(dose), np.array(dose), size * full, 0 * size * full, size * full)
        lent.append(borrow(prepared, embedding, effects, size * full, table))
    assert set(lent[0]) == set(table.measured) >= set(prepared.measured)
    for found in lent:
        assert all(np.allclose(effect, full[0]) for effect in found.values())


# --- the parts that can be left out ---


def without(prepared, embedding, pairs, *parts):
    config = dataclasses.replace(QUICK, **dict.fromkeys(parts, False))
    return fit_perturbation_model(prepared, embedding, pairs, config)


def mean_change(prepared, model, label):
    x = prepared.expression("train", "control")
    return (model.predict(x, [label] * len(x)) - x).mean(axis=0, dtype=np.float64)


@pytest.mark.parametrize("part", ["trust", "label_network"])
def test_a_part_that_is_left_out_changes_what_the_twin_says(prepared, embedding, pairs, model, part):
    x = prepared.expression("test", "control")
    other = without(prepared, embedding, pairs, part)
    told = [twin.predict(x, ["Gata1+Pu1"] * len(x)) for twin in (model, other)]
    assert np.abs(told[0] - told[1]).max() > 1e-3
    assert np.array_equal(other.predict(x, ["control"] * len(x)), x)


def test_a_cell_network_that_does_not_earn_its_place_stays_where_nobody_asks(
    prepared, embedding, pairs, monkeypatch
):
    monkeypatch.setattr(perturbation_model, "earns_its_place", lambda *told: False)
    dropped, kept = (without(prepared, embedding, pairs, *parts) for parts in ((), ("earns_its_place",)))
    assert dropped.cell_network.strength == 0 and kept.cell_network.strength == 1


def test_without_the_cell_network_every_cell_is_moved_alike(prepared, embedding, pairs):
    x = prepared.expression("test", "control")
    spread = {}
    for part in ("earns_its_place", "cell_network"):
        twin = without(prepared, embedding, pairs, part)
        spread[part] = (twin.predict(x, ["Pu1"] * len(x)) - x).std(axis=0).max()
    assert spread["cell_network"] < 1e-4 < spread["earns_its_place"]  # the decoder here is linear


def test_without_trust_the_twin_says_what_was_measured(prepared, embedding, pairs):
    parts = {"trust": False, "cell_network": False, "label_steps": 1000, "label_decay": 0.0}
    twin = fit_perturbation_model(prepared, embedding, pairs, dataclasses.replace(QUICK, **parts))
    measured = BASELINES["matching_mean"](prepared)
    for label in ("Gata1", "Fli1+Pu1"):
        assert np.allclose(mean_change(prepared, twin, label), measured.shift(label), atol=0.02)


def test_without_a_label_network_an_unseen_pair_is_the_sum_of_its_parts(cells):
    held = prepare(cells, 40, split="doubles", held_out=["Gata1+Pu1"])
    embedding = PrincipalEmbedding(held)
    pair_and_parts = {}
    for name, parts in (
        ("with", ("cell_network",)),
        ("no", ("cell_network", "label_network")),
    ):
        twin = without(held, embedding, None, *parts)
        both, *alone = (twin.effect([label])[0] for label in ("Gata1+Pu1", "Gata1", "Pu1"))
        pair_and_parts[name] = float((both - sum(alone)).abs().max() / both.abs().max())
    assert pair_and_parts["no"] < 1e-4 < 0.05 < pair_and_parts["with"]


def test_without_borrowing_every_unseen_target_is_lent_the_mean_effect(prepared, embedding):
    """Effects that follow the gene vectors to the letter: with borrowing they are carried over."""
    table = PerturbationTable(prepared, embedding)
    table.parts = seen = prepared.measured[:-1]
    assert len(seen) >= 3
    row = {gene: i for i, gene in enumerate(prepared.genes)}
    vectors = embedding.gene_vectors.double().numpy() * 3.0
    told = np.stack([vectors[row[name]] for name in seen])
    effects = Effects(tuple(seen), np.ones(len(seen)), told, 0 * told, told)
    unseen = prepared.measured[-1]
    plain = borrow(prepared, embedding, effects, told, table, ridges=(np.inf,))[unseen].numpy()
    assert np.allclose(plain, told.mean(axis=0), atol=1e-5)
    lent = borrow(prepared, embedding, effects, told, table, ridges=(1e-3,))[unseen].numpy()
    assert not np.allclose(lent, plain, atol=1e-2)


def test_the_configuration_decides_whether_the_twin_borrows(cells, monkeypatch):
    from twinlib.experimental import perturbation_model

    held = prepare(cells, 40, split="perturbations", held_out=["Fli1"])
    asked = []
    monkeypatch.setattr(perturbation_model, "borrow", lambda *args: asked.append(args[-1]) or {})
    for parts in (("cell_network",), ("cell_network", "borrow")):
        without(held, PrincipalEmbedding(held), None, *parts)
    assert asked == [RIDGES, (np.inf,)]


def test_configuration_documents_every_field():
    told = re.findall(r"#: .+\n    (\w+):", inspect.getsource(PerturbationModelConfig))
    assert told == [field.name for field in dataclasses.fields(PerturbationModelConfig)]


def test_a_held_out_target_is_predicted_and_is_the_same_part_in_a_pair(cells):
    held = prepare(cells, 40, split="perturbations", held_out=["Fli1"])
    keep = np.asarray(~held.cells.obs["perturbation"].isin(["Fli1+Pu1", "Fli1+Gata1"]))
    names = tuple(name for name in held.train_perturbations if "Fli1" not in name)
    fold = dataclasses.replace(held, cells=held.cells[keep].copy(), train_perturbations=names)
    embedding = PrincipalEmbedding(fold)
    twin = fit_perturbation_model(
        fold, embedding, config=dataclasses.replace(QUICK, cell_network=False), table=None
    )
    assert "Fli1" not in twin.table.parts
    alone, pu1, both = (twin.effect([label]) for label in ("Fli1", "Pu1", "Fli1+Pu1"))
    assert torch.allclose(both[1], twin.effect(["Pu1"])[1] + alone[1], atol=1e-5)
    assert alone[1].abs().sum() > 0 and pu1[0].abs().sum() > 0


def test_networks_are_zero_without_a_perturbation():
    generator = torch.Generator().manual_seed(0)
    push, head = LabelNetwork(6, 3, 5, 8, generator)(torch.zeros(4, 6))
    network = CellNetwork(3, 8, generator)
    network.strength.fill_(1.0)
    z = torch.randn(4, 3, generator=generator)
    assert push.abs().max() == 0 and head.abs().max() == 0
    assert network(z, torch.zeros(4, 3)).abs().max() == 0
    assert network(z, torch.ones(4, 3)).abs().max() > 0


@pytest.mark.parametrize("groups", [1, 4, 30])
def test_slopes_of_the_label_network_by_hand_are_those_of_autograd(groups):
    generator = torch.Generator().manual_seed(0)
    network = LabelNetwork(12, 5, 20, 16, generator)
    features, wanted = (torch.randn(groups, n, generator=generator) for n in (12, 25))
    features[-1] = 0.0  # a control
    error = (network.unit(features) - wanted).square().mean()
    expected = torch.autograd.grad(error, list(network.parameters()))
    with torch.no_grad():
        slopes = _slopes(network, features, _acts(features), wanted)
    for slope, reference in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope, reference, rtol=1e-5, atol=1e-8)


def test_departures_of_cells_average_to_zero_over_training_controls(model):
    """The cell network redistributes the mean effect over cells; it cannot change it."""
    network = copy.deepcopy(model.cell_network)
    network.strength.fill_(1.0)
    reference = network.reference
    push, _ = model.effect(["Gata1"] * len(reference))
    departure = network(reference, push)
    assert departure.mean(dim=0).abs().max() < 1e-4
    assert departure.std(dim=0).max() > 0


def test_a_cell_network_that_spoils_the_means_is_dropped(prepared, embedding, model):
    latent = embedding.encode(torch.from_numpy(prepared.scale(prepared.cells.X))).numpy()
    harmful = copy.deepcopy(model.cell_network)
    harmful.strength.fill_(50.0)
    harmful.reference = harmful.reference + 5.0  # the average that is taken off is now a wrong one
    args = (model.label_network, model.lent, model.table, latent)
    assert not earns_its_place(prepared, embedding, harmful, *args)


def test_the_cell_network_never_raises_the_validation_error(model):
    errors_ = model.history["validation"]
    assert errors_.min() <= errors_.iloc[0] and model.history["epoch"].iloc[0] == 0


def test_labelled_output_names_cells_genes_and_layers(prepared, model):
    table = predict_anndata(model, prepared, "Gata1")
    assert list(table.var_names) == list(prepared.genes)
    assert np.allclose(table.layers["prediction"], table.X + table.layers["delta"], atol=1e-6)
    assert set(table.obs["perturbation"]) == {"Gata1"}
    assert table.shape == prepared.expression("test", "control").shape
    zero = predict_anndata(model, prepared, "control")
    assert not zero.layers["delta"].any()


def test_configuration_refuses_empty_networks():
    with pytest.raises(ValueError, match="hidden is 0"):
        PerturbationModelConfig(hidden=0)

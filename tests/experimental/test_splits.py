"""The experiment's own preparation of folds: nothing that is held out may reach training."""

from __future__ import annotations

import numpy as np

from experiments import experimental as splits
from twinlib.data.preparation import prepare

from .conftest import PrincipalEmbedding


def test_leaving_one_target_out_puts_back_the_others_only(cells):
    targets = {"Gata1", "Pu1", "Fli1"}
    base = prepare(cells, 40, split="perturbations", held_out=sorted(targets))
    fold = splits.give_back(base, targets - {"Pu1"})
    held = fold.cells.obs[fold.cells.obs["perturbation"] == "Pu1"]
    back = fold.cells.obs[fold.cells.obs["perturbation"] == "Gata1"]
    assert set(held["split"]) == {"test"} and not held["validation"].any()
    assert set(back["split"]) == {"train"} and 0 < back["validation"].mean() < 1
    assert "Pu1" not in fold.train_perturbations and {"Gata1", "Fli1"} <= set(fold.train_perturbations)
    assert np.array_equal(fold.mean, base.mean) and fold.genes == base.genes
    same = base.cells.obs["perturbation"] == "control"
    assert (fold.cells.obs["split"][same] == base.cells.obs["split"][same]).all()


def test_shuffling_moves_training_labels_only(prepared):
    wrong = splits.shuffled(prepared, 0).cells.obs
    right = prepared.cells.obs
    stays = ((right["split"] == "test") | (right["perturbation"] == "control")).to_numpy()
    told, was = wrong["perturbation"].to_numpy(dtype=str), right["perturbation"].to_numpy(dtype=str)
    assert (told[stays] == was[stays]).all()
    assert (told[~stays] != was[~stays]).mean() > 0.5
    assert sorted(told[~stays]) == sorted(was[~stays])


def test_every_row_of_a_fold_has_every_metric(prepared, embedding: PrincipalEmbedding):
    quick = splits.PerturbationModelConfig(hidden=16, label_steps=20, cell_network=False)
    fold = splits.Fold("waddington", "cells", "", prepared, embedding, 1, config=quick)
    tables = splits.run_fold(fold, splits.latent_cells(fold))
    rows, table, missed = (tables[name] for name in ("splits", "regression", "genes"))
    algorithms = {row["Algorithm"] for row in rows}
    assert algorithms == {*splits.BASELINES, "ceiling", "experimental"} and not table and not missed
    for row in rows:
        values = [row[name] for name in ("pearson_delta", "l2", "e_distance", "w1", "overlap_at_20")]
        assert np.isfinite(values).all()
    best = {row["perturbation"]: row["l2"] for row in rows if row["Algorithm"] == "matching_mean"}
    none = {row["perturbation"]: row["l2"] for row in rows if row["Algorithm"] == "no_change"}
    assert np.mean(list(best.values())) < np.mean(list(none.values()))


def test_a_twin_that_does_nothing_has_no_skill_in_any_column(prepared, embedding, model):
    """The twin at dose 0 is no_change in every column of the tables, so that each skill is zero."""
    fold = splits.Fold("waddington", "cells", "", prepared, embedding, 1)
    found = splits.groups(fold)
    still = splits.rows_of(fold, found, lambda x, labels, dose: model.predict(x, labels, 0.0), "a", 0)
    none = splits.rows_of(fold, found, splits.BASELINES["no_change"](prepared).predict, "a", 0)
    assert len(still) == len(found) > 3 and still == none
    moved = splits.rows_of(fold, found, model.predict, "a", 0)
    columns = set(none[0]) - {"dataset", "split", "held_out", "perturbation", "context", "dose", "seed"}
    for name in sorted(columns - {"Algorithm", "n_test"}):
        assert [row[name] for row in moved] != [row[name] for row in none], name


def test_misses_name_the_gene_whose_mean_was_moved(prepared, embedding):
    fold = splits.Fold("waddington", "cells", "", prepared, embedding, 1)
    found = splits.groups(fold)

    def wrong(x, labels, dose):
        """The true mean of the group everywhere but in gene 7."""
        real = next(group.y for group in found if group.label == labels[0]).mean(axis=0)
        return np.tile(real + 2.0 * (np.arange(len(real)) == 7), (len(x), 1))

    rows = list(splits.misses(fold, found, wrong))
    assert len(rows) == splits.MISSES * len(found)
    worst = [row for row in rows if row["ratio"] > 1]
    assert [row["gene"] for row in worst] == [prepared.genes[7]] * len(found)
    assert np.allclose([row["error"] for row in worst], 2.0, atol=1e-4)

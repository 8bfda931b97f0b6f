"""The experiment of chapter 4: what each part holds out, and a small run through its tables."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.experimental import TRUTH, ExperimentalSplits, best_and_worst, held_out_of, in_hours
from experiments.experimental_rows import ABLATIONS, Fold, ablated, shuffled
from experiments.runner import run
from twinlib.data import effect_tests
from twinlib.data.preparation import prepare, standard
from twinlib.data.simulated import simulate_waddington
from twinlib.evaluation import judge
from twinlib.evaluation.judge import evaluate, supervised
from twinlib.experimental import fold_rows
from twinlib.experimental.baselines import BASELINES
from twinlib.experimental.fold_rows import PLAIN, RememberedCoder, embedding_of, fewer_training_cells
from twinlib.experimental.perturbation_model import PerturbationModelConfig, fit_perturbation_model
from twinlib.landscapes.gene_network import Wiring
from twinlib.results import tables

LABELS = ("Gata1", "Pu1", "Cebpa", "Fli1", "Gata1+Pu1", "Cebpa+Gata1", "Cebpa+Pu1")


def small(**design):
    return simulate_waddington(1500, perturbations=LABELS, wiring=Wiring(n_genes=60), **design)


@pytest.fixture(scope="module", autouse=True)
def quick_fits():
    """Twins of a fifth of the steps and fewer permutations: what is asked here holds for any number."""

    def fit(prepared, embedding, pairs, config, seed, **more):
        quick = replace(config, label_steps=200, epochs=8)
        return fit_perturbation_model(prepared, embedding, pairs, quick, seed, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_rows, "fit_perturbation_model", fit)
        patch.setattr(effect_tests, "PERMUTATIONS", 199)
        yield


@pytest.fixture(scope="module")
def cells():
    return small()


class Tiny(ExperimentalSplits):
    """One fold and one null panel, on few cells."""

    loaded = property(lambda self: small())

    def parts(self, finished):
        wanted = ("held_out", "effects", "cells~1", "null~1")
        return [name for name in super().parts(finished) if name in wanted]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("experimental")
    assert run({out: Tiny(splits=("cells", "doubles"), seeds=2)}, progress=False)
    return out


def test_a_run_writes_scores_groups_genes_and_what_the_panel_keeps(finished):
    files = {path.name for path in finished.iterdir() if path.is_file()}
    assert files == {
        "scores.csv.gz", "groups.csv.gz", "effects.csv", "genes.csv", "kept.csv", "manifest.json",
    }  # fmt: skip
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["panel_rule"] == "variance" and "test controls" in manifest["truth_rule"]
    (doubles,) = manifest["held_out"]["doubles"]
    assert manifest["folds"] == 5 and sorted(doubles) == ["Cebpa+Gata1", "Cebpa+Pu1", "Gata1+Pu1"]
    kept = pd.read_csv(finished / "kept.csv")
    assert set(kept["perturbation"]) == set(LABELS) and kept["share"].between(0, 1).all()


def test_every_row_is_scored_on_every_perturbation(finished):
    scores = pd.read_csv(finished / "scores.csv.gz", keep_default_na=False)
    scores = scores[scores["metric"] == "pearson_delta"]
    sham = scores["dataset"] == "waddington sham"
    mine = scores[(scores["split_kind"] == "cells") & ~sham]
    parts = {"cell_network", "earns_its_place", *ABLATIONS} - {"borrow"}
    ablations = {f"experimental_no_{part}" for part in parts}
    expected = {"no_change", "replicate", *PLAIN, "experimental", "experimental_shuffled", *ablations}
    assert set(mine["model"]) == expected
    assert mine.groupby("model")["perturbation"].nunique().eq(len(LABELS)).all()
    assert set(mine.loc[mine["model"] == "experimental", "seed"].astype(int)) == {0, 1}
    assert set(scores.loc[sham, "model"]) == {
        "no_change", "replicate", "experimental", "experimental_no_earns_its_place",
        "experimental_no_cell_network", *set(PLAIN) - {"linear"},
    }  # fmt: skip
    assert not set(scores.loc[sham, "perturbation"]) & set(LABELS)


def test_effects_stand_in_the_table_of_groups(finished):
    groups = pd.read_csv(finished / "groups.csv.gz")
    real = groups[groups["dataset"] == "waddington"]
    mine = real.groupby("perturbation")["has_effect"].first()
    assert set(mine.index) == set(LABELS) and mine.astype(bool).sum() >= 5


def test_genes_are_those_of_the_best_and_the_worst_perturbation(finished):
    genes = pd.read_csv(finished / "genes.csv")
    assert (
        set(genes["rank"]) == {"best", "worst"}
        and genes.groupby("rank")["perturbation"].nunique().eq(1).all()
    )
    best = genes[genes["rank"] == "best"]
    assert np.corrcoef(best["measured"], best["experimental"])[0, 1] > 0.5


def test_best_and_worst_are_chosen_among_those_with_an_effect():
    names = ["a", "b", "c"]
    head = {"model": "experimental", "split_kind": "cells", "metric": "pearson_delta", "cell_context": ""}
    scores = pd.DataFrame(
        [head | {"perturbation": p, "value": v} for p, v in zip(names, (0.1, 0.5, 0.9), strict=True)]
    )
    groups = pd.DataFrame({"perturbation": names, "has_effect": [False, True, True]})
    genes = pd.DataFrame({"perturbation": names, "gene": "g"})
    chosen = best_and_worst(genes, scores, groups)
    assert dict(zip(chosen["perturbation"], chosen["rank"], strict=True)) == {"b": "worst", "c": "best"}
    undecided = groups.assign(has_effect=np.nan)
    assert list(best_and_worst(genes, scores, undecided)["perturbation"]) == ["a", "c"]


def test_every_group_is_held_out_once(cells):
    singles = held_out_of("perturbations", cells)
    assert singles == [["Cebpa"], ["Fli1"], ["Gata1"], ["Pu1"]]
    assert held_out_of("cells", cells) == [[]] * 5
    (doubles,) = held_out_of("doubles", cells)
    assert sorted(doubles) == ["Cebpa+Gata1", "Cebpa+Pu1", "Gata1+Pu1"]
    every = simulate_waddington(1500, wiring=Wiring(n_genes=20))
    groups = held_out_of("doubles", every)
    assert [len(group) for group in groups] == [11] * 5 and len(set(sum(groups, []))) == 55


def test_a_part_is_left_out_only_where_it_speaks_of_the_test_cells():
    singles = simulate_waddington(900, perturbations=LABELS[:4], wiring=Wiring(n_genes=40))
    seen = {name for name, _ in ablated(prepare(singles, 30))}
    unseen = {name for name, _ in ablated(prepare(singles, 30, "perturbations", held_out=["Fli1"]))}
    assert {*seen, "experimental_no_borrow"} == {f"experimental_no_{part}" for part in ABLATIONS}
    assert seen - unseen == {"experimental_no_label_network"}
    assert unseen - seen == {"experimental_no_borrow"}


def test_three_rows_of_one_fit_are_those_of_three(cells):
    prepared = prepare(cells, 40)
    fold = Fold(prepared, embedding_of(prepared, 1)[0])
    x = prepared.expression("test", "control")
    for row, part in zip(fold.twins(1), (None, "earns_its_place", "cell_network"), strict=True):
        config = PerturbationModelConfig(**({part: False} if part else {}))
        alone = fold.fit(0, config).predict(x, ["Pu1"] * len(x))
        assert np.allclose(row.models[0].predict(x, ["Pu1"] * len(x)), alone, atol=1e-5), row.name


def test_shuffling_moves_training_labels_only(cells):
    prepared = prepare(cells, 40)
    right, wrong = prepared.cells.obs, shuffled(prepared, 0).cells.obs
    told, was = (obs["perturbation"].to_numpy(dtype=str) for obs in (wrong, right))
    stays = ((right["split"] != "train") | (right["perturbation"] == "control")).to_numpy()
    assert (told[stays] == was[stays]).all()
    assert (told[~stays] != was[~stays]).mean() > 0.5
    assert sorted(told[~stays]) == sorted(was[~stays])


def test_an_embedding_sees_some_training_cells_and_the_same_validation_cells(cells):
    prepared = prepare(cells, 40)
    few = fewer_training_cells(prepared, 100)
    sizes = few.cells.obs["split"].value_counts()
    assert sizes["train"] == 100 and few.fingerprint == prepared.fingerprint
    assert sizes["validation"] == len(prepared.rows("validation"))
    coder, origin = embedding_of(prepared, 1)
    assert origin == "trained, passes: 1" and coder.genes == prepared.genes


def test_the_same_cells_are_encoded_once(cells):
    import torch

    prepared = prepare(cells, 40)
    coder, _ = embedding_of(prepared, 1)
    calls = []

    class Counting:
        genes, latent_dim, gene_vectors = coder.genes, coder.latent_dim, coder.gene_vectors
        require, decode = coder.require, coder.decode

        def encode(self, x):
            calls.append(len(x))
            return coder.embedding.encode(x)

    counted = RememberedCoder(Counting())
    x = torch.as_tensor(prepared.scale(prepared.expression("test", "control")))
    first, again, other = counted.encode(x), counted.encode(x.clone()), counted.encode(x + 1)
    assert len(calls) == 2 and torch.equal(first, again) and not torch.equal(first, other)


def test_time_stands_for_the_dose():
    timed = small(snapshots=(1.0, 3.0), onset=1.0)
    hours = in_hours(timed)
    assert np.array_equal(hours.obs["dose"], timed.obs["time"])


def test_a_dataset_or_split_that_it_does_not_have_is_refused():
    with pytest.raises(ValueError, match="choose from"):
        ExperimentalSplits(dataset="imagined")
    with pytest.raises(ValueError, match="choose from cells, perturbations"):
        ExperimentalSplits(dataset="papalexi2021", splits=("doubles",))
    with pytest.raises(ValueError, match="give 1 or more"):
        ExperimentalSplits(ablations=0)


def test_a_recorded_fold_is_computed_again_by_the_rules_of_its_manifest(monkeypatch):
    monkeypatch.setattr(judge, "HALVINGS", 1)  # the halves are not compared here
    manifest, names = tables.read_table("experimental", "waddington", "manifest"), ("mean", "matching_mean")
    prepared = standard("waddington")
    told = {"panel_rule": prepared.panel_rule, "data_hash": prepared.data_hash, "truth_rule": TRUTH}
    assert {name: manifest[name] for name in told} == told
    assert manifest["parts"]["cells~1"]["fingerprint"] == prepared.fingerprint
    rows = [supervised(name, [BASELINES[name](prepared)]) for name in names]
    keys = ["model", "against", "perturbation", "dose", "cell_context", "space", "metric"]
    again = evaluate(prepared, rows, experiment="experimental").scores
    recorded = tables.read_table("experimental", "waddington", "scores")
    here = recorded["dataset"].eq("waddington") & recorded["split_kind"].eq("cells")
    recorded = recorded[here & recorded["split"].eq("fold 1") & recorded["model"].isin(names)]
    both = again[again["model"].isin(names)].merge(recorded, on=keys, suffixes=("", "_then"))
    assert len(both) == len(recorded) > 1000
    np.testing.assert_allclose(both["value"], both["value_then"], rtol=1e-4, atol=1e-5)

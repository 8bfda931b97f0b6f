"""The twin as a folder, and its answers: doses, targets, labels, and what a reader has to know."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from defect_files import donors_and_types, drug_screen, weak_crispr
from small_twins import fitted

from twinlib.errors import DataError, InputError
from twinlib.verdict.conventions import written_as
from twinlib.verdict.guesses import control_labels, perturbation_column
from twinlib.verdict.inspection import inspect
from twinlib.verdict.keys import Keys
from twinlib.verdict.twin import Twin, keys_for, nonnegative


def test_a_saved_twin_answers_alike(twin, screen, tmp_path):
    twin.save(tmp_path / "model")
    again, cells = Twin.load(tmp_path / "model"), inspect(screen).cells()
    for label in ("Gata1", "Gata1+Pu1", twin.model.prepared.genes[-1]):
        one, other = twin.predict(cells, label), again.predict(cells, label)
        assert np.array_equal(one.X, other.X)
        assert list(one.uns["twinlib"]["notes"]) == list(other.uns["twinlib"]["notes"])
    assert again.keys == twin.keys and again.contexts == twin.contexts
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "embedding.npz",
        "twin.json",
        "twin.npz",
    }


def test_a_saved_twin_holds_no_pickle(twin, tmp_path):
    twin.save(tmp_path)
    for path in tmp_path.glob("*.npz"):
        with np.load(path, allow_pickle=False) as file:
            assert all(file[name].dtype.kind in "fiub" for name in file.files)


@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_a_damaged_folder_is_one_sentence(twin, tmp_path, damage):
    twin.save(tmp_path)
    facts = tmp_path / "twin.json"
    if damage == "gone":
        (tmp_path / "twin.npz").unlink()
    elif damage == "cut":
        facts.write_text(facts.read_text()[:50])
    else:
        facts.write_text(facts.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(DataError, match="model"):
        Twin.load(tmp_path)


def test_a_needed_dose_is_asked_for_with_the_list_in_the_files_unit(drugs):
    cells = inspect(drug_screen(), Keys(log_dose=True)).cells()
    with pytest.raises(
        DataError, match=r"Nutlin needs a dose, since several were trained \(0.01, 0.1, 1, 10\)"
    ):
        drugs.predict(cells, "Nutlin")
    inside, outside = (drugs.predict(cells, "Nutlin", dose) for dose in (3.0, 30.0))
    assert not inside.obs["extrapolated"].any() and not inside.uns["twinlib"]["notes"]
    assert outside.obs["extrapolated"].all()
    assert "The dose 30 is an extrapolation: cells were trained up to 10." in outside.uns["twinlib"]["notes"]
    assert (outside.obs["dose"] == 30.0).all()


def test_a_logarithmic_dose_acts_by_its_logarithm(drugs):
    cells = inspect(drug_screen(), Keys(log_dose=True)).cells()
    for dose in (0.01, 0.1, 1.0, 10.0):
        assert drugs.in_file(drugs.dose("Nutlin", dose)) == pytest.approx(dose)
    change = {
        dose: np.linalg.norm(
            (made := drugs.predict(cells, "Nutlin", dose)).X.mean(0) - made.layers["control"].mean(0)
        )
        for dose in (0.1, 1.0, 10.0)
    }
    assert change[0.1] < change[1.0] < change[10.0] < 5 * change[0.1]  # plain doses: a hundredfold


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_what_is_no_dose_is_refused(drugs, wrong):
    with pytest.raises(DataError, match="is no dose"):
        drugs.predict(inspect(drug_screen()).cells(), "Nutlin", wrong)


def test_predictions_are_labelled_and_never_negative(twin, screen):
    cells = inspect(screen).cells()
    made = twin.predict(cells, "Pu1 + Gata1")
    controls = cells[cells.obs["perturbation"] == "control"]
    assert made.X.min() >= 0
    assert set(made.obs["perturbation"]) == {"Gata1+Pu1"}
    assert list(made.obs["control"]) == list(controls.obs_names)
    assert set(cells.obs.columns) <= set(made.obs.columns) and set(cells.var.columns) == set(made.var.columns)
    assert tuple(made.var_names) == twin.model.prepared.genes
    assert np.allclose(made.layers["control"], controls[:, made.var_names].X.toarray())
    raw = twin.model.predict(made.layers["control"], ["Gata1+Pu1"] * made.n_obs, 1.0)
    assert raw.min() < 0
    assert np.allclose(np.maximum(raw.mean(0), 0), made.X.mean(0), atol=1e-4)


def test_means_are_kept_within_contexts():
    x = np.array([[-1.0, 2.0], [3.0, -4.0], [5.0, 1.0], [-2.0, 1.0]])
    made = nonnegative(x, np.array(["a", "a", "b", "b"]))
    assert made.min() >= 0
    assert np.allclose(made[:2].mean(0), [1.0, 0.0]) and np.allclose(made[2:].mean(0), [1.5, 1.0])


def test_a_gene_that_nobody_perturbed_is_predicted_and_said_to_be_lent(twin, screen):
    cells = inspect(screen).cells()
    gene = next(gene for gene in twin.model.prepared.genes if gene not in twin.model.prepared.measured)
    made = twin.predict(cells, gene)
    first, second = made.uns["twinlib"]["notes"]
    assert first.startswith(f"No training cell carries {gene}") and "nothing says how far" in second
    assert np.linalg.norm(made.X.mean(0) - made.layers["control"].mean(0)) > 0
    told = Twin(twin.model, twin.keys, "Held-out targets scored 0.3.", twin.log_dose, twin.contexts)
    assert told.predict(cells, gene).uns["twinlib"]["notes"][1] == "Held-out targets scored 0.3."


@pytest.mark.parametrize(
    ("perturbation", "words"), [("IRF1", "occurs in no training cell"), ("control", "names no perturbation")]
)
def test_what_nothing_is_known_about_is_refused(twin, screen, perturbation, words):
    with pytest.raises(DataError, match=words):
        twin.predict(inspect(screen).cells(), perturbation)


def test_a_cytokine_twin_refuses_genes_and_names_new_contexts(cytokine):
    raw = donors_and_types()
    cells = inspect(raw).cells()
    with pytest.raises(DataError, match="fewer than 3 measured genes"):
        cytokine.predict(cells, cytokine.model.prepared.genes[0])
    raw.obs["cell_type"] = raw.obs["cell_type"].astype(str).replace({"B": "plasma"})
    notes = cytokine.predict(inspect(raw).cells(), "IFN-beta").uns["twinlib"]["notes"]
    assert notes == ["No training cell is of the context plasma: the change is carried over."]


def test_missing_genes_are_named(twin, screen):
    with pytest.raises(DataError, match="lacks 1 of the"):
        gene = twin.model.prepared.genes[3]
        twin.predict(inspect(screen[:, screen.var_names != gene].copy()).cells(), "Gata1")


def test_cell_eval_reads_counts_and_controls(twin, screen):
    cells = inspect(screen).cells()
    made = written_as(twin.predict(cells, "Gata1"), "cell-eval2")
    assert set(made.obs["target_gene"]) == {"Gata1", "non-targeting"} and "context" in made.obs
    controls = made[made.obs["target_gene"] == "non-targeting"]
    given = screen[controls.obs_names][:, made.var_names].to_df("counts").to_numpy()
    assert np.array_equal(controls.X, given)
    predicted = twin.predict(cells, "Gata1")
    drawn = made[made.obs["target_gene"] == "Gata1"].X
    assert np.array_equal(drawn, np.rint(drawn))
    expected = np.expm1(predicted.X) * predicted.obs["total_counts"].to_numpy()[:, None] / 1e4
    assert np.allclose(drawn.mean(0), expected.mean(0), atol=0.15)


def test_the_names_of_scperturb_are_known_again(twin, screen):
    made = written_as(twin.predict(inspect(screen).cells(), "Gata1"), "scperturb")
    assert set(made.obs["perturbation"]) == {"Gata1", "control"} and "celltype" in made.obs
    assert perturbation_column(made.obs).value == "perturbation"
    assert control_labels(made.obs["perturbation"])[0] == ("control",)
    with pytest.raises(InputError, match="convention='seurat' is unknown"):
        written_as(made, "seurat")


def test_another_file_is_read_by_the_keys_of_the_first(twin):
    given = keys_for(twin.keys, Keys(batch="lane"))
    assert given.batch == "lane" and given.perturbation == twin.keys.perturbation
    assert given.control == twin.keys.control and given.layer is None


def test_a_twin_on_components_is_not_saved(twin, tmp_path):
    from dataclasses import replace

    bare = replace(twin, model=replace(twin.model, embedding=object()))
    with pytest.raises(InputError, match="train_embedding"):
        bare.save(tmp_path)


def test_a_group_of_three_and_one_of_twelve_do_not_end_a_run():
    small = fitted(weak_crispr(), genes=20)
    made = small.predict(inspect(weak_crispr()).cells(), "TGT9")
    assert isinstance(made, anndata.AnnData) and made.n_obs == 300

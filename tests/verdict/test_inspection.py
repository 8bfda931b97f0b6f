"""What check says of files: every defect in one sentence, every guess, and what is missing."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from defect_files import FILES, donors_and_types, drug_screen, weak_crispr
from scipy import sparse

from twinlib.data import blocks, schema
from twinlib.data.doses import unlogged
from twinlib.data.simulated import simulate_waddington
from twinlib.errors import DataError, InputError
from twinlib.landscapes.gene_network import Wiring
from twinlib.verdict import defects
from twinlib.verdict import inspection as inspection_module
from twinlib.verdict.inspection import inspect
from twinlib.verdict.keys import Keys

#: What each file has, as it is told: level, and words of its one sentence.
DEFECTS = {
    "drug_screen": [
        ("assumed", "'raw_counts' is read in place of X, since X cannot be used (it looks like log2"),
        ("assumed", "the controls are the 240 cells labelled 'Vehicle'"),
        ("assumed", "'product_name' are of kind drug"),
        ("holds", "4 doses: 0.01, 0.1, 1, 10"),
        ("defect", "doses span 1000-fold"),
        ("defect", "1 of 3 batches (P3) hold no control"),
        ("defect", "stand in one batch only (Dex)"),
        ("defect", "has all 2 batches (donors, plates) on both sides"),
    ],
    "weak_crispr": [
        ("assumed", "'gene_symbol' of var, where 10 of 10 targets stand"),
        ("assumed", "of which these genes hold 50%"),
        ("assumed", "crispri: their own expression stands at"),
        ("defect", "2 of 10 perturbations have under 50 cells (TGT9 3, TGT8 12)"),
        ("defect", "the screen is weak"),
        ("defect", "of the cells carry several guides"),
        ("defect", "the guides of 1 of 8 targets change the same genes"),
    ],
    "donors_and_types": [
        ("defect", "X holds fractional counts"),
        ("defect", "1 of 4 contexts (pDC) hold under 10 controls and are left out (45 cells)"),
        ("defect", "the arms are mixtures of other composition"),
        ("defect", "has all 3 batches (donors, plates) on both sides"),
        ("assumed", "labels such as 'IFN-beta' are cytokines"),
    ],
}


@pytest.fixture(scope="module")
def inspections():
    return {name: inspect(make()) for name, make in FILES.items()}


@pytest.mark.parametrize(
    ("name", "level", "words"), [(name, *told) for name, all_told in DEFECTS.items() for told in all_told]
)
def test_each_defect_is_one_sentence(inspections, name, level, words):
    assert len([told for told in inspections[name].of(level) if words in told]) == 1
    assert words in inspections[name].text()


def test_files_with_defects_become_canonical_cells(inspections):
    for inspection in inspections.values():
        assert schema.check(inspection.cells()) is inspection.cells()
        assert not inspection.of("missing")


def test_clean_cells_have_no_defect():
    cells = simulate_waddington(
        900, seed=3, perturbations=("Gata1", "Pu1", "Cebpa"), wiring=Wiring(n_genes=40)
    )
    assert inspect(cells).of("defect") == ()


def test_cells_without_effect_are_called_weak_and_halves_agree_where_there_is_one():
    cells = weak_crispr()
    shuffled = drug_screen()
    shuffled.obs["product_name"] = np.random.default_rng(0).permutation(shuffled.obs["product_name"])
    shuffled.obs["dose"] = np.where(shuffled.obs["product_name"] == "Vehicle", 0.0, 1.0)
    for nothing in (cells, shuffled):
        agreement = defects.halves_agree(inspect(nothing).cells()).dropna()
        assert abs(agreement.mean()) < 0.25 and (agreement < defects.AGREE).all()
    assert (defects.halves_agree(inspect(drug_screen()).cells()) > defects.AGREE).all()


def test_the_scale_comes_from_the_counts(inspections):
    counts = drug_screen().layers["raw_counts"].toarray()
    wanted = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    assert np.allclose(inspections["drug_screen"].cells().X.toarray(), wanted, atol=1e-5)


def test_total_counts_outside_the_file_are_used(inspections):
    raw, made = weak_crispr(), inspections["weak_crispr"].cells()
    wanted = np.log1p(1e4 * raw.X.toarray() / raw.obs["nCount_RNA"].to_numpy()[:, None])
    assert np.allclose(made.X.toarray(), wanted, atol=1e-5)
    alone = inspect(raw, Keys(total_counts="none")).cells()
    assert np.allclose(np.expm1(alone.X.toarray()).sum(axis=1), 1e4, rtol=1e-4)


@pytest.mark.parametrize(("what", "whole"), [("given", False), ("round", True)])
def test_fractional_counts_are_rounded_or_used_as_given(what, whole):
    raw = donors_and_types()
    made = inspect(raw, Keys(fractional=what)).cells()
    given = raw[made.obs_names].X.toarray()
    counts = np.rint(given) if whole else given
    wanted = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    assert np.allclose(made.X.toarray(), wanted, atol=1e-4)
    assert ("counts" in made.layers) == whole


def test_doses_in_logarithms_come_back():
    raw = drug_screen()
    made = inspect(raw, Keys(log_dose=True))
    smallest = made.cells().uns["twinlib"]["log_dose"]
    assert smallest == 0.01
    assert np.allclose(unlogged(made.cells().obs["dose"], smallest), raw.obs["dose"])
    assert set(made.groups["dose"]) == {0.01, 0.1, 1.0, 10.0}
    assert not [told for told in made.of("defect") if "doses" in told]


def test_groups_say_why_they_are_small(inspections):
    table = inspections["weak_crispr"].groups.set_index("perturbation")
    assert table.loc["TGT8", "note"].startswith("under 50 cells in all")
    assert table.loc["TGT0", "note"] == ""
    table = inspections["donors_and_types"].groups.set_index("cell_context")
    assert "pDC" not in table.index and (table["note"] == "").all()


def small(obs: dict[str, list[str]], genes: list[str] | None = None) -> anndata.AnnData:
    """Whole counts of cells with given columns."""
    rng = np.random.default_rng(0)
    n = len(next(iter(obs.values())))
    names = genes or [f"G{i}" for i in range(40)]
    x = sparse.csr_matrix(rng.poisson(3.0, (n, len(names))).astype(np.float32))
    return anndata.AnnData(
        x, obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(n)]), var=pd.DataFrame(index=names)
    )


GENES = ["JAK2", "STAT1", "IRF1", *(f"G{i}" for i in range(37))]
#: Columns as other tools write them, and what they must be taken for.
CONVENTIONS = {
    "scPerturb": (
        {
            "perturbation": ["control", "JAK2", "STAT1"],
            "celltype": ["K562", "THP1"],
            "perturbation_type": ["CRISPR"],
        },
        {"perturbation": "perturbation", "control": ("control",), "context": "celltype", "kind": "knockout"},
    ),
    "GEARS": (
        {"condition": ["ctrl", "JAK2+ctrl", "JAK2+STAT1"], "cell_type": ["K562"], "dose_val": ["1", "1+1"]},
        {"perturbation": "condition", "control": ("ctrl",), "separator": "+", "context": "none"},
    ),
    "pertpy": (
        {
            "perturbation": ["NT", "Perturbed", "Perturbed"],
            "gene_target": ["NT", "JAK2", "STAT1"],
            "guide_ID": ["NTg1", "JAK2g1", "STAT1g2"],
            "replicate": ["rep1", "rep2"],
        },
        {"perturbation": "gene_target", "control": ("NT",), "guide": "guide_ID", "batch": "replicate"},
    ),
    "cell-eval2": (
        {"target_gene": ["non-targeting", "JAK2", "STAT1"], "context": ["a", "b"]},
        {"perturbation": "target_gene", "control": ("non-targeting",), "context": "context"},
    ),
    "CPA": (
        {"condition": ["control", "Dex", "BMS"], "cell_type": ["A", "B"], "dose_val": ["0", "0.1", "1"]},
        {"perturbation": "condition", "dose": "dose_val", "kind": "drug", "context": "cell_type"},
    ),
    "STATE": (
        {"cytokine": ["PBS", "IL-6", "TNF-alpha"], "donor": ["D1", "D2"], "cell_type": ["B", "NK"]},
        {"perturbation": "cytokine", "control": ("PBS",), "batch": "donor", "kind": "cytokine"},
    ),
    "guides alone": (
        {"guide_identity": ["NT_1", "JAK2_1", "JAK2_2", "STAT1_1", "STAT1_2", "NT_2"]},
        {"perturbation": "guide_identity", "control": ("NT_1", "NT_2"), "guide": "guide_identity"},
    ),
}


def filled(columns: dict[str, list[str]], n: int = 360) -> dict[str, list[str]]:
    """Columns of n cells in which the first changes fastest and the others in blocks, so that all meet."""
    first = len(next(iter(columns.values())))
    tied = {name for name, values in columns.items() if len(values) == first}
    return {
        name: [values[(i if name in tied else i // first) % len(values)] for i in range(n)]
        for name, values in columns.items()
    }


@pytest.mark.parametrize("tool", CONVENTIONS)
def test_the_names_of_other_tools_are_known(tool):
    columns, wanted = CONVENTIONS[tool]
    obs = filled(columns)
    if tool == "GEARS":
        obs["dose_val"] = ["1+1" if "+STAT1" in label else "1" for label in obs["condition"]]
    inspection = inspect(small(obs, GENES))
    assert {name: getattr(inspection.keys, name) for name in wanted} == wanted, inspection.text()
    assert inspection.ready
    told = " ".join(inspection.of("assumed"))
    assert all(repr(column) in told for column in wanted.values() if column in obs)


def test_guides_become_targets():
    made = inspect(small(filled(CONVENTIONS["guides alone"][0]), GENES)).cells()
    assert set(made.obs["perturbation"]) == {"control", "JAK2", "STAT1"}
    assert set(made.obs["guide"]) == {"NT_1", "NT_2", "JAK2_1", "JAK2_2", "STAT1_1", "STAT1_2"}


#: Files that leave something open: columns, keys, and words of the sentence that asks.
OPEN = {
    "two columns": (
        {"condition": ["ctrl", "JAK2", "STAT1"], "treatment": ["DMSO", "DMSO", "Dex", "Dex"]},
        Keys(),
        "name one with --perturbation-key",
    ),
    "no column": ({"well": ["A1", "A2", "A3"]}, Keys(), "no column looks like perturbations"),
    "two controls": (
        {"perturbation": ["NT", "DMSO", "JAK2"]},
        Keys(),
        "'NT' and 'DMSO' are all words for controls",
    ),
    "no control": (
        {"perturbation": ["JAK2", "STAT1", "IRF1"]},
        Keys("perturbation"),
        "no label is a usual word for controls",
    ),
    "two batches": (
        {"perturbation": ["NT", "JAK2", "STAT1"], "donor": ["D1", "D2"], "plate": ["P1", "P2", "P3", "P4"]},
        Keys(),
        "name one with --batch-key (or 'none')",
    ),
    "kind": ({"perturbation": ["NT", "ABC9", "XYZ7"]}, Keys(), "give --kind crispri|crispra"),
    "wrong name": (
        {"perturbation": ["NT", "JAK2", "STAT1"]},
        Keys(batch="lane"),
        "there is no column 'lane' for --batch-key (there are perturbation)",
    ),
}


@pytest.mark.parametrize("what", OPEN)
def test_what_cannot_be_told_is_asked_for(what):
    columns, keys, words = OPEN[what]
    inspection = inspect(small(filled(columns), GENES), keys)
    assert [told for told in inspection.of("missing") if words in told], inspection.text()
    with pytest.raises(DataError):
        inspection.cells()


def test_given_keys_are_never_guessed_over():
    cells = small(filled(OPEN["two batches"][0]), GENES)
    for batch, number in (("donor", 2), ("plate", 4), ("none", 1)):
        inspection = inspect(cells, Keys(batch=batch))
        assert inspection.cells().obs["batch"].nunique() == number
        assert not [told for told in inspection.of("assumed") if "batches" in told]


def test_real_cells_of_other_tools_are_read(real_data):
    parse = inspect(real_data / "standins" / "parse_like_kang2018.h5ad")
    assert (parse.keys.perturbation, parse.keys.batch, parse.keys.kind) == ("cytokine", "donor", "cytokine")
    h1 = inspect(real_data / "vcc_h1" / "H1-VCC-2025-training.h5ad")
    assert (h1.keys.perturbation, h1.keys.guide, h1.keys.kind) == ("target_gene", "guide_id", "crispri")


def test_several_controls_count_as_one():
    made = inspect(small(filled(OPEN["two controls"][0]), GENES), Keys(control=("NT", "DMSO"))).cells()
    assert (made.obs["perturbation"] == "control").sum() == 240


def test_keys_refuse_what_they_are_not():
    with pytest.raises(InputError, match="is no list"):
        Keys(control="NT")
    with pytest.raises(InputError, match="is unknown"):
        Keys(kind="sirna")


@pytest.mark.parametrize(("factor", "kind"), [(0.3, "crispri"), (2.5, "crispra"), (1.0, "knockout")])
def test_the_kind_is_told_from_the_targets(factor, kind):
    cells = small(filled({"target_gene": ["NT", "JAK2", "STAT1"]}), GENES)
    x = np.random.default_rng(1).poisson(6.0, cells.shape).astype(np.float32)
    for gene in ("JAK2", "STAT1"):
        own = (cells.obs["target_gene"] == gene).to_numpy()
        x[own, GENES.index(gene)] = np.random.default_rng(2).poisson(6.0 * factor, own.sum())
    cells.X = sparse.csr_matrix(x)
    inspection = inspect(cells)
    assert inspection.keys.kind == kind
    assert len([told for told in inspection.of("assumed") if kind in told]) == 1


def test_a_large_file_stays_on_disk_and_is_told_alike(monkeypatch, tmp_path):
    for name, make in FILES.items():
        make().write_h5ad(tmp_path / f"{name}.h5ad")
    whole = {name: inspect(tmp_path / f"{name}.h5ad") for name in FILES}
    monkeypatch.setattr(inspection_module, "IN_MEMORY", 10)
    for name, known in whole.items():
        told = inspect(tmp_path / f"{name}.h5ad")
        assert blocks.is_lazy(told.cells().X)
        assert told.keys == known.keys
        assert np.allclose(told.cells().X.compute().toarray(), known.cells().X.toarray(), atol=1e-5)


def test_counts_in_raw_are_read():
    cells = small(filled({"perturbation": ["NT", "JAK2", "STAT1"]}), GENES)
    scaled = cells.copy()
    scaled.raw = cells
    dense = cells.X.toarray()
    scaled.X = (dense - dense.mean(axis=0)) / dense.std(axis=0)
    inspection = inspect(scaled)
    assert inspection.keys.layer == "raw"
    assert np.array_equal(inspection.cells().layers["counts"].toarray(), dense)

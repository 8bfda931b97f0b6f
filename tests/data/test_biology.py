"""What is known about each dataset, two sentences each: cells that fail one are other cells."""

import functools
import os
import pathlib

import numpy as np
import pandas as pd
import pytest

from twinlib.data import sources
from twinlib.data.effect_tests import energy_test
from twinlib.data.folds import FOLDS
from twinlib.data.preparation import standard
from twinlib.data.schema import CONTROL

INTERFERON = ("ISG15", "IFI6", "IFIT1", "IFIT3", "ISG20", "CXCL10")
GLUCOCORTICOID = ("FKBP5", "TSC22D3", "PER1", "ANGPTL4", "PDK4")
MONOCYTES = "CD11c CD14 CD38"


def cells_of(name):
    """The cells of a dataset, loaded once; skips where a file is missing, without asking the network."""
    folder = os.environ.get(sources.FOLDER_VARIABLE, "")
    for file in sources.dataset(name).files:
        if not folder or not (pathlib.Path(folder) / file.path).is_file():
            pytest.skip(f"{file.path} is not in the folder that {sources.FOLDER_VARIABLE} names")
    return _loaded(name)


_loaded = functools.cache(sources.load)


def change(cells, perturbation, among=None):
    """The change of each gene within context and batch, weighted by the perturbed cells, over `among` [n]."""
    part = cells.obs if among is None else cells.obs[among]
    total, weight = 0.0, 0
    for _, group in part.groupby(["cell_context", "batch"], observed=True):
        perturbed, control = (group.index[group["perturbation"] == name] for name in (perturbation, CONTROL))
        if min(len(perturbed), len(control)) >= 5:
            total = total + len(perturbed) * (mean(cells[perturbed]) - mean(cells[control]))
            weight += len(perturbed)
    return total / weight


def mean(cells):
    """The mean profile of cells."""
    return pd.Series(np.asarray(cells.X.mean(axis=0)).ravel(), cells.var_names)


def changes_by_context(cells, perturbation):
    """The change of each gene [contexts x G]."""
    contexts = cells.obs["cell_context"].astype(str).to_numpy()
    return pd.DataFrame({name: change(cells, perturbation, contexts == name) for name in set(contexts)}).T


def test_the_interferon_genes_are_in_the_panel_of_kang2018():
    cells_of("kang2018")
    for fold in range(1, FOLDS + 1):
        assert set(INTERFERON) <= set(standard("kang2018", fold).genes)


def test_interferon_beta_raises_its_genes_in_every_cell_type_and_cxcl10_most_in_myeloid_cells():
    table = changes_by_context(cells_of("kang2018"), "IFN-beta")
    assert (table[list(INTERFERON)] > 0.3).all(axis=None)
    myeloid = ["CD14+Mono", "FCGR3A+Mono", "Dendritic"]
    assert table.loc[myeloid, "CXCL10"].min() > table["CXCL10"].drop(myeloid).max() + 1


def test_the_interferon_gamma_receptor_and_its_signal_share_one_direction():
    """Loss of JAK2, STAT1 and both receptor chains look alike; IRF1 goes along, SMAD4 (TGF-beta) does not."""
    cells = cells_of("papalexi2021")
    pathway = ["JAK2", "STAT1", "IFNGR1", "IFNGR2"]
    alike = pd.DataFrame({name: change(cells, name) for name in (*pathway, "IRF1", "SMAD4")}).corr()
    assert alike.loc[pathway, pathway].min(axis=None) > 0.85
    assert alike.loc[pathway, "IRF1"].min() > 0.35
    assert (alike.loc[pathway, "SMAD4"] < alike.loc[pathway, "IRF1"] - 0.1).all()


def test_stat1_falls_where_jak2_was_knocked_out():
    """JAK2 passes the interferon-gamma signal on to STAT1: the fall is far beyond its error."""
    cells = cells_of("papalexi2021")
    stat1, labels = cells[:, "STAT1"].X.toarray().ravel(), cells.obs["perturbation"]
    control, knocked = stat1[labels == CONTROL], stat1[labels == "JAK2"]
    error = np.sqrt(control.var() / len(control) + knocked.var() / len(knocked))
    assert control.mean() - knocked.mean() > 10 * error


def test_klf1_raises_the_embryonic_and_fetal_globins():
    """HBZ and HBG2 rise more than any other gene when KLF1 is activated."""
    assert set(change(cells_of("norman2019"), "KLF1").nlargest(2).index) == {"HBZ", "HBG2"}


@pytest.mark.parametrize("pair", ["KLF1+MAP2K6", "KLF1+TGFBR2", "SET+KLF1"])
def test_klf1_raises_the_globins_in_pairs_too(pair):
    profile = change(cells_of("norman2019"), pair)
    assert profile["HBZ"] > 0.5 and profile["HBG2"] > 0.5


def test_interferon_alpha_raises_pstat1_in_at_least_seven_of_eight_cell_types():
    """A of chi11, which its responses name interferon-alpha."""
    assert (changes_by_context(cells_of("chi11"), "A")["pSTAT1"] > 0.3).sum() >= 7


def test_lipopolysaccharide_reaches_the_monocytes_alone():
    """L of chi11 raises pP38 and lowers IkBa in CD14 monocytes and nowhere else."""
    table = changes_by_context(cells_of("chi11"), "L")
    assert list(table.index[table["pP38"] > 0.5]) == [MONOCYTES]
    assert list(table.index[table["IkBa"] < -0.5]) == [MONOCYTES]


def test_glucocorticoid_genes_rise_with_measured_time():
    cells = cells_of("a549_dex")
    hours = cells.obs["time"].to_numpy()
    assert ((hours == 0) == (cells.obs["perturbation"] == CONTROL).to_numpy()).all()
    zero, one, three = (mean(cells[hours == time, list(GLUCOCORTICOID)]) for time in (0, 1, 3))
    assert (zero < one).all() and (one < three).all()


def test_fkbp5_rises_on_every_plate_and_time_cannot_be_told_from_the_barcode():
    """FKBP5 answers dexamethasone on each plate; no barcode of reverse transcription occurs at two times."""
    cells = cells_of("a549_dex")
    plates = cells.obs["batch"].astype(str).to_numpy()
    for plate in np.unique(plates):
        assert change(cells, "dexamethasone", plates == plate)["FKBP5"] > 0.8
    barcodes = pd.Series(cells.obs_names).str.split("_").str[-1].to_numpy()
    assert cells.obs.groupby(barcodes)["time"].nunique().max() == 1


def test_the_knock_down_of_tmsb4x_lowers_tmsb4x():
    """TMSB4X is the only target of vcc_h1 among its 1,000 genes, and falls more than any other gene."""
    cells = cells_of("vcc_h1")
    assert set(cells.obs.loc[cells.obs["target_measured"], "perturbation"]) == {"TMSB4X"}
    knocked, control = (cells[cells.obs["perturbation"] == name] for name in ("TMSB4X", CONTROL))
    profile = mean(knocked) - mean(control)
    assert profile.idxmin() == "TMSB4X" and profile["TMSB4X"] < -2


def test_two_of_five_knock_downs_show_in_a_hundred_h1_cells():
    cells_of("vcc_h1")
    cells = standard("vcc_h1").cells
    x, label, batch = cells.X, cells.obs["perturbation"].to_numpy(str), cells.obs["batch"].to_numpy(str)
    p_values = {}
    for name in sorted(set(label) - {CONTROL}):
        rows = np.isin(label, [name, CONTROL])
        one, rng = ["H1"] * len(rows[rows]), np.random.default_rng(0)
        test = energy_test(x[rows], label[rows] == name, one, batch[rows], 999, rng)
        p_values[name] = test.p_value
    assert {name for name, p in p_values.items() if p < 0.02} == {"TMSB4X", "MED12"}


def test_what_a_regulator_switches_on_falls_with_it():
    """Targets of Gata1 and Pu1 in the network of Krumsiek 2011 (waddington)."""
    cells = cells_of("waddington")
    assert (change(cells, "Gata1")[["Fog1", "EKLF", "Fli1", "SCL"]] < -0.5).all()
    assert (change(cells, "Pu1")[["cJun", "EgrNab"]] < -0.5).all()


def test_rivals_rise_when_their_opponent_falls():
    """Fli1 and EKLF hold each other down, and Pu1 holds Gata1 down (waddington)."""
    cells = cells_of("waddington")
    for lost, rises in (("Fli1", "EKLF"), ("EKLF", "Fli1"), ("Pu1", "Gata1")):
        assert change(cells, lost)[rises] > 0.3

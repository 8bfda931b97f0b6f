"""The page on three files with the defects that users' files have: no column misleads."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from defect_files import FILES
from plain_reports import quick

from twinlib import __main__ as command
from twinlib.experimental.fold_rows import PLAIN
from twinlib.verdict import figures
from twinlib.verdict.inspection import inspect
from twinlib.verdict.page import Run
from twinlib.verdict.parts import applicable
from twinlib.verdict.sentences import five_sentences, rounded

#: What is asked of each file beside its name.
OPTIONS = {"drug_screen": ["--log-dose"], "weak_crispr": [], "donors_and_types": []}
DOSES = (0.01, 0.1, 1, 10)


@pytest.fixture(scope="module", params=FILES)
def told(request, tmp_path_factory):
    """The name of a file, the run of its report, and its table of scores."""
    folder = tmp_path_factory.mktemp(request.param)
    FILES[request.param]().write_h5ad(folder / f"{request.param}.h5ad")
    call = ["report", str(folder / f"{request.param}.h5ad"), "--out", str(folder / "out"), "--seeds", "1"]
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        assert command.main([*call, *OPTIONS[request.param]]) == 0
    return request.param, Run.read(folder / "out"), pd.read_csv(folder / "out" / "scores.csv")


def test_no_column_of_the_page_misleads(told):
    name, run, scores = told
    judged, table = run.judged, figures.unit_table(run.judged)
    assert len(table) == len(judged.units) and (table["p, median"] != "n/a").all()
    checked = {"drug_screen": of_doses, "weak_crispr": of_small_groups, "donors_and_types": of_contexts}
    checked[name](judged, table, scores)


@pytest.mark.parametrize(
    ("name", "left"), [("drug_screen", {"additive", "context_mean"}), ("donors_and_types", {"additive"})]
)
def test_rows_that_repeat_another_are_left_out(name, left):
    cells = inspect(FILES[name]()).cells()
    prepared = SimpleNamespace(cells=cells, perturbations=tuple(set(cells.obs["perturbation"])))
    assert set(PLAIN) - set(applicable(PLAIN, prepared)) == left
    combined = SimpleNamespace(cells=cells, perturbations=("A+B",))
    assert "additive" in applicable(PLAIN, combined)


def of_doses(judged, table, scores):
    names = [f"{drug} at dose {dose:g}" for drug in ("BMS", "Dex", "Nutlin") for dose in DOSES]
    assert sorted(table["perturbation"]) == sorted(names)
    assert set(scores["dose"]) == set(DOSES), "doses stand in the unit of the file"
    effect = judged.units["has_effect"]
    assert effect["BMS at dose 10"] and not effect["BMS at dose 0.01"], "each dose has its own test"
    assert not judged.units["halved"].any() and table["a perfect model"].isna().all()
    said = five_sentences(judged)
    assert re.match(r"\*\*\d of 12 perturbations \(about 40 cells each\) have an effect", said[0])
    assert "n/a: too few cells for halves" in said[1]


def of_small_groups(judged, table, scores):
    assert len(table) == 8 and not {"TGT8", "TGT9"} & set(table["perturbation"])
    assert scores.loc[scores["perturbation"] == "TGT9", "mean"].isna().all()
    said = five_sentences(judged)
    assert "under 50 cells: TGT8, TGT9" in said[4] and "These cells show nothing" not in said[0]
    rows = judged.rows()
    assert (rows["low"] < rows["high"])[["matching_mean", "experimental"]].all()


def of_contexts(judged, table, scores):
    kinds = ["B", "CD4T", "Mono"]
    assert list(table["perturbation"]) == [f"IFN-beta in {kind}" for kind in kinds]
    within = figures.contexts_table(judged)
    assert list(within.columns) == ["row", *kinds]
    values = within.set_index("row").loc["the twin"].astype(float)
    assert np.allclose(values, judged.units["experimental"], atol=0.005)
    assert set(scores["cell_context"].dropna()) == set(kinds)
    said = five_sentences(judged)
    assert all(kind in said[3] for kind in kinds) and "left out of the training" in said[3]
    top = rounded(judged.rows("contexts").loc["ceiling", "mean"])
    assert f"a perfect model could reach {top} there" in said[3], "a left-out type has a ceiling of its own"
    assert "No intervals" in said[1] and "nan" not in "".join(said)

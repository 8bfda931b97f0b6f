"""Cells whose scale is arcsinh: the packaged chi11, and the door for anyone's cytometry."""

import importlib.util
import pathlib

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from twinlib.data import schema, sources
from twinlib.data.canonical import from_anndata
from twinlib.errors import DataError, Unreachable

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def offline(monkeypatch):
    def refuse(file):
        raise Unreachable(f"{file.url} was asked for.")

    monkeypatch.setattr(sources, "_download", refuse)
    monkeypatch.delenv(sources.FOLDER_VARIABLE, raising=False)


@pytest.fixture
def intensities():
    """Ion counts over a cofactor of two groups, not yet transformed."""
    rng = np.random.default_rng(0)
    x = rng.gamma(1.0, 20.0, (60, 6)) * rng.integers(0, 2, (60, 6))
    obs = pd.DataFrame({"dish": ["none"] * 30 + ["IL-2"] * 30}, index=[f"cell {i}" for i in range(60)])
    return anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"marker {i}" for i in range(6)]))


def bring(adata, **more):
    return from_anndata(adata, "dish", "none", perturbation_type="cytokine", **more)


def refused(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    for word in words:
        assert word in message


def test_chi11_is_in_the_package(offline):
    assert sources.choose("papalexi2021", "chi11", "waddington") == "chi11"
    cells = sources.load("chi11")
    assert cells.shape == (4_000, 30) and cells.uns["twinlib"]["scale"] == "arcsinh"
    labels, contexts = cells.obs["perturbation"], cells.obs["cell_context"]
    assert set(labels) == {"control", "A", "G", "L", "T"} and contexts.nunique() == 8
    assert (pd.crosstab(labels, contexts) == 100).all(axis=None)
    assert (pd.crosstab(cells.obs["batch"], [labels, contexts]) > 0).all(axis=None)
    assert cells.var["state"].sum() == cells.var["panel_candidate"].sum() == 10
    assert {"pSTAT1", "IkBa"} <= set(cells.var_names[cells.var["panel_candidate"]])


def test_the_packed_cells_are_those_of_the_pinned_file(real_data):
    """The script that packs them gives the same arrays again; the licence lies beside them."""
    spec = importlib.util.spec_from_file_location("pack_chi11", ROOT / "scripts" / "pack_chi11.py")
    pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    source = sources.dataset("chi11").packed_from
    again = pack.arrays(sources.obtain(source, real_data))
    with np.load(pack.TARGET, allow_pickle=False) as packed:
        assert set(packed) == set(again)
        assert all(np.array_equal(packed[name], again[name]) for name in again)
    licence = pack.TARGET.with_name("LICENSE-chi11.txt").read_text(encoding="utf-8")
    assert source.digest.removeprefix("sha256:") in licence and "CC0" in licence
    assert all(word in source.url for word in ("niaid/HDStIM", licence.split("Commit")[1].split()[0]))


def test_a_draw_of_chi11_keeps_its_scale():
    cells = sources.load("chi11", n_cells=1_000, seed=1)
    assert cells.n_obs <= 1_000 and cells.uns["twinlib"]["scale"] == "arcsinh"


def test_whatever_needs_counts_says_that_there_are_none():
    refused(lambda: schema.counts_of(sources.load("chi11")), "chi11", "arcsinh intensities are no counts")


def test_counts_are_given_where_they_are(cells):
    assert schema.counts_of(cells) is cells.layers["counts"]


def test_log1p_cells_say_so(cells):
    assert cells.uns["twinlib"]["scale"] == "log1p"
    assert sources.load("waddington").uns["twinlib"]["scale"] == "log1p"


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_the_door_takes_arcsinh_as_it_is(intensities, form, capsys):
    x = np.arcsinh(intensities.X / 5)
    intensities.X = form(x)
    made = bring(intensities, scale="arcsinh")
    assert "arcsinh" in capsys.readouterr().out
    np.testing.assert_allclose(made.X.toarray(), x, rtol=1e-6)
    assert schema.check(made) is made and "counts" not in made.layers


def test_the_bounds_of_log1p_hold_for_log1p_only(intensities):
    """A value of 10 is no log1p of counts per 10,000, and a common intensity."""
    intensities.X = np.arcsinh(intensities.X / 5)
    intensities.X[0, 0] = 10.0
    made = bring(intensities, scale="arcsinh")
    refused(lambda: bring(intensities), "9.21")
    made.uns["twinlib"]["scale"] = "log1p"
    refused(lambda: schema.check(made), "9.21")


def test_what_is_no_arcsinh_is_refused(intensities, cells):
    raw = intensities.copy()
    raw.X *= 1e4
    refused(lambda: bring(raw, scale="arcsinh"), "numpy.arcsinh")
    raw.X = np.rint(raw.X)
    refused(lambda: bring(raw, scale="arcsinh"), "whole")
    raw.X = np.zeros(raw.shape)
    refused(lambda: bring(raw, scale="arcsinh"), "every value is 0")
    raw.X = np.arcsinh(intensities.X) - 1
    refused(lambda: bring(raw, scale="arcsinh"), "negative", "cut at 0")
    cells.uns["twinlib"]["scale"] = "arcsinh"
    refused(lambda: schema.check(cells), "log1p of counts", "leave scale")


def test_an_unknown_or_missing_scale_is_refused(intensities, cells):
    refused(lambda: bring(intensities, scale="asinh"), "'asinh'", "arcsinh")
    cells.uns["twinlib"]["scale"] = "asinh"
    refused(lambda: schema.check(cells), "'asinh'")
    del cells.uns["twinlib"]["scale"]
    refused(lambda: schema.check(cells), "scale", "from_anndata")


def test_panel_candidates_are_true_or_false(intensities):
    intensities.X = np.arcsinh(intensities.X / 5)
    intensities.var["panel_candidate"] = "yes"
    refused(lambda: bring(intensities, scale="arcsinh"), "panel_candidate", "true or false")

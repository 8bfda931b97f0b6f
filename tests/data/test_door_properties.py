"""Any labels, shapes, scales and forms at the doors: the project's own error or the right cells (hypothesis).

200 examples a door; TWINLIB_EXAMPLES=2000 runs more.
"""

from __future__ import annotations

import functools

import anndata
import numpy as np
import pandas as pd
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from scipy import sparse

from twinlib.data import schema
from twinlib.data.canonical import from_anndata
from twinlib.data.preparation import SPLITS, prepare
from twinlib.errors import DataError

SLOW = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
PARTS = ("G0", "G1", "β-catenin", "drug X", "ctrl")
BLANKS = st.sampled_from(["", " ", "  ", "\t"])


def in_parts(x):
    """Each value stored as a third of it and the rest, columns out of order."""
    whole = sparse.coo_matrix(x)
    third = np.floor(whole.data / 3) if whole.dtype.kind in "iu" else whole.data / 3
    data = np.r_[third, whole.data - third].astype(x.dtype)
    rows, columns = np.r_[whole.row, whole.row], np.r_[whole.col, whole.col]
    order = np.argsort(rows, kind="stable")[::1]
    pointer = np.r_[0, np.cumsum(np.bincount(rows, minlength=x.shape[0]))]
    return sparse.csr_matrix((data[order], columns[order], pointer), shape=x.shape)


def with_zeros(x):
    """Every entry stored, the zeros, too."""
    pointer = np.arange(x.shape[0] + 1) * x.shape[1]
    return sparse.csr_matrix((x.ravel(), np.tile(np.arange(x.shape[1]), x.shape[0]), pointer), shape=x.shape)


FORMS = {
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "in parts": in_parts,
    "with zeros": with_zeros,
}


def cp10k(counts, total=1e4):
    sums = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return counts / sums * total


def half(counts):
    x = counts.astype(float)
    x[::2] = np.log1p(cp10k(counts))[::2]
    return x


#: What may have been done to counts before they came; most can only be refused or doubted.
SCALES = {
    "counts": lambda c: c,
    "log1p": lambda c: np.log1p(cp10k(c)),
    "log1p(CPM)": lambda c: np.log1p(cp10k(c, 1e6)),
    "log1p twice": lambda c: np.log1p(np.log1p(cp10k(c))),
    "CP10k": lambda c: cp10k(c),
    "log2": lambda c: np.log2(1 + cp10k(c)),
    "z-scores": lambda c: c - c.mean(axis=0) - 0.1,
    "half of it": half,
    "blurred": lambda c: np.log1p(cp10k(c)) * np.linspace(0.7, 1.3, c.size).reshape(c.shape),
}


@st.composite
def files(draw):
    """A file, the counts [n, G] behind it, how its label is written, and the parts behind every label."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    separator = draw(st.sampled_from(["+", "|", " and "]))
    groups = draw(st.lists(st.lists(st.sampled_from(PARTS), min_size=1, max_size=3), min_size=1, max_size=4))
    groups = [["ctrl"], *groups]
    sizes = [draw(st.integers(8, 30)), *(draw(st.integers(1, 25)) for _ in groups[1:])]
    blanks = [draw(BLANKS) for _ in groups]
    texts = [blank + separator.join(parts) + blank for parts, blank in zip(groups, blanks, strict=True)]
    index = np.repeat(np.arange(len(groups)), sizes)
    n_genes = draw(st.integers(1, 14))
    counts = rng.poisson(rng.gamma(1, draw(st.sampled_from([0.3, 2, 20])), n_genes), (len(index), n_genes))
    kind = draw(st.sampled_from(sorted(SCALES)))
    x = SCALES[kind](counts)
    dtype = draw(
        st.sampled_from([np.float32, np.float64] + ([np.int32, np.uint16] if kind == "counts" else []))
    )
    obs = pd.DataFrame(
        {"label": np.array(texts)[index], "uM": np.where(index == 0, "-", "2.5")},
        index=[f"c{i}" for i in range(len(index))],
    )
    var = pd.DataFrame(index=[f"G{j}" for j in range(n_genes)])
    raw = anndata.AnnData(FORMS[draw(st.sampled_from(sorted(FORMS)))](x.astype(dtype)), obs=obs, var=var)
    if draw(st.booleans()):
        raw.layers["counts"] = sparse.csr_matrix(counts, dtype=np.float32)
    return raw, counts, separator, [frozenset(groups[i]) - {"ctrl"} for i in index]


def one_gene(kind):
    """12 cells of one gene beside their counts, whose shares are 1 whatever was done to them."""
    counts = np.random.default_rng(0).poisson(5, (12, 1)) + 1
    obs = pd.DataFrame({"label": ["ctrl"] * 10 + ["G0"] * 2, "uM": ["-"] * 10 + ["2.5"] * 2})
    obs.index = [f"c{i}" for i in range(12)]
    raw = anndata.AnnData(SCALES[kind](counts).astype(float), obs=obs, var=pd.DataFrame(index=["G0"]))
    raw.layers["counts"] = sparse.csr_matrix(counts, dtype=np.float32)
    return raw, counts, "+", [frozenset()] * 10 + [frozenset(["G0"])] * 2


def brought(raw, **named):
    """The cells, or None when they were refused in one sentence."""
    try:
        return from_anndata(raw, "label", "ctrl", **named)
    except DataError as error:
        assert "\n" not in str(error) and str(error).endswith("."), str(error)
        return None


@SLOW
@given(files(), st.booleans())
@example(one_gene("log1p twice"), False)
@example(one_gene("log1p"), False)
@example(one_gene("blurred"), False)
def test_a_file_is_refused_doubted_or_read_right(file, with_dose):
    raw, counts, separator, parts = file
    made = brought(raw, separator=separator, dose_key="uM" if with_dose else None)
    if made is None:
        event("refused")
        return
    assert schema.check(made) is made and made.shape == raw.shape
    assert [frozenset(schema.parts(label)) for label in made.obs["perturbation"]] == parts
    treated = np.array([bool(p) for p in parts])
    np.testing.assert_array_equal(made.obs["dose"], np.where(treated, 2.5 if with_dose else 1.0, 0.0))
    if "neither confirm nor refuse" in made.uns["twinlib"]["taken_for"]:
        event("doubted")
        given = raw.X.toarray() if sparse.issparse(raw.X) else np.asarray(raw.X)
        np.testing.assert_allclose(made.X.toarray(), given, rtol=1e-5, atol=1e-6)
        return
    event("read")
    np.testing.assert_allclose(made.X.toarray(), np.log1p(cp10k(counts)), rtol=2e-3, atol=1e-4)
    if "counts" in made.layers:
        shares = made.layers["counts"].toarray()
        np.testing.assert_allclose(cp10k(shares), cp10k(counts), rtol=1e-3, atol=1e-3)


@SLOW
@given(
    st.text(max_size=6),
    st.one_of(st.none(), st.text(max_size=2)),
    st.lists(st.text(max_size=8), min_size=1, max_size=5),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
)
def test_any_text_as_label_control_separator_and_guide(control, separator, labels, targets):
    names = np.array([control, *labels], dtype=object)[np.arange(60) % (len(labels) + 1)]
    obs = pd.DataFrame({"label": names}, index=[f"c{i}" for i in range(60)])
    counts = np.random.default_rng(0).poisson(3.0, (60, 4)).astype(np.float32)
    raw = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=list("abcd")))
    try:
        made = from_anndata(raw, "label", control, separator=separator, guide_targets=targets)
    except DataError as error:
        assert str(error).endswith(".")
        return
    event("read")
    own = made.obs["perturbation"].astype(str).to_numpy()
    for label in np.unique(own):
        assert label == "control" or "+".join(schema.parts(label)) == label
        assert len(set(schema.parts(label))) == len(schema.parts(label)), "a part counts once"
    if control.strip() and control.strip() not in {guide.strip() for guide in targets}:
        assert (own[names == control] == "control").all()


@functools.cache
def screen():
    """Cells of two contexts and two doses, made once."""
    rng = np.random.default_rng(1)
    labels = np.array(["ctrl", "G0", "G1", "G0+G1", "G2", "drug"])[np.arange(180) % 6]
    obs = pd.DataFrame(
        {"label": labels, "type": np.arange(180) // 6 % 2, "uM": 1.0 + np.arange(180) % 4 // 2}
    )
    obs["plate"] = np.arange(180) // 24 % 2
    obs.index = [f"c{i}" for i in range(180)]
    counts = rng.poisson(rng.gamma(1, 3, 25), (180, 25)).astype(np.float32)
    raw = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{j}" for j in range(25)]))
    cells = from_anndata(raw, "label", "ctrl", "type", batch_key="plate", dose_key="uM")
    cells.obs["time"] = np.where(labels == "ctrl", 0.0, 1.0 + np.arange(180) // 12 % 2)
    return cells


#: What each split can hold out of the screen.
HELD_OUT = {
    "cells": [],
    "perturbations": ["G0", "G1", "G2"],
    "doubles": ["G0+G1"],
    "doses": [1.0, 2.0],
    "contexts": ["0", "1"],
    "time": [1.0, 2.0],
    "batches": ["0", "1"],
}
WRONG = {
    "n_top_genes": [0, -1, 2.5, "10", None, True],
    "split": ["halves", None],
    "fold": [0, 6, -1, 1.5, float("nan"), "1", None, True],
    "panel": ["", "plain", None, 3],
    "seed": [-1, 0.5, "0", None],
    "keep_genes": ["G5", ["nobody"], None, 3],
    "held_out": ["G0", ["nobody"], ["drug"], [3.0], None],
}


@st.composite
def requests(draw):
    """What `prepare` may be asked, right in all points or wrong in one."""
    split = draw(st.sampled_from(SPLITS))
    asked = {
        "n_top_genes": draw(st.integers(1, 40)),
        "split": split,
        "fold": draw(st.integers(1, 5)),
        "panel": draw(st.sampled_from(["variance", "seurat"])),
        "seed": draw(st.integers(0, 20)),
        "keep_genes": draw(st.lists(st.sampled_from(["G0", "G9", "G24"]), max_size=2)),
        "held_out": draw(st.lists(st.sampled_from(HELD_OUT[split]), max_size=1)) if HELD_OUT[split] else [],
    }
    if draw(st.booleans()):
        name = draw(st.sampled_from(sorted(WRONG)))
        asked[name] = draw(st.sampled_from(WRONG[name]))
        return asked, name
    return asked, ""


@SLOW
@given(requests())
def test_any_request_of_prepare_is_refused_or_a_partition(request_and_fault):
    asked, fault = request_and_fault
    cells = screen()
    try:
        prepared = prepare(cells, **asked)
    except DataError as error:
        assert "\n" not in str(error) and str(error).endswith("."), str(error)
        assert fault, f"a right request was refused: {error}"
        return
    assert not fault, f"{fault} was wrong and taken"
    event("prepared")
    rows = [prepared.rows(part) for part in ("train", "validation", "test")]
    assert sorted(np.concatenate(rows)) == list(range(prepared.cells.n_obs))
    left = cells.obs.loc[~cells.obs_names.isin(prepared.cells.obs_names), "perturbation"]
    out = set(prepared.held_out) if asked["split"] == "perturbations" else set()
    assert all(
        set(label.split("+")) & out and label not in out for label in left
    )  # pairs of what is held out
    test = rows[-1]
    assert set(asked["keep_genes"]) | {"G0", "G1", "G2"} <= set(prepared.genes)
    x = prepared.expression("train").astype(float)
    np.testing.assert_allclose(prepared.mean, x.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(prepared.unscale(prepared.scale(x)), x, atol=1e-4)
    columns = {"contexts": "cell_context", "doses": "dose", "time": "time", "batches": "batch"}
    column = columns.get(asked["split"], "perturbation")
    if asked["held_out"]:
        held = prepared.cells.obs[column].isin(asked["held_out"]).to_numpy()
        perturbed = (prepared.cells.obs["perturbation"] != "control").to_numpy()
        assert set(np.flatnonzero(held & perturbed)) == set(test) & set(np.flatnonzero(perturbed))

"""Properties that hold for any shape, type, form and label (hypothesis)."""

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import sparse

from twinlib.data import scale, schema
from twinlib.data.canonical import from_anndata
from twinlib.data.labels import Columns, own_labels
from twinlib.data.pairing import pair
from twinlib.data.preparation import PARTS, prepare
from twinlib.errors import DataError

FAST = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
FORMS = {
    "dense": np.asarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "fortran": np.asfortranarray,
}
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)


@st.composite
def raw_cells(draw):
    """Counts [n, G] of two to four groups of 0 to 25 cells, in any form and dtype, with any names."""
    seed = draw(st.integers(0, 10_000))
    sizes = draw(st.lists(st.integers(0, 25), min_size=2, max_size=4))
    n_genes = draw(st.integers(1, 12))
    labels = ["control", *draw(st.lists(NAMES, min_size=3, max_size=3, unique=True))]
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(1, 2, n_genes), (sum(sizes), n_genes))
    dtype = draw(st.sampled_from([np.int32, np.int64, np.float32, np.float64]))
    obs = pd.DataFrame(
        {"label": np.repeat(labels[: len(sizes)], sizes)}, index=[f"c{i}" for i in range(sum(sizes))]
    )
    form = FORMS[draw(st.sampled_from(sorted(FORMS)))]
    var = pd.DataFrame(index=[f"g{i}" for i in range(n_genes)])
    return anndata.AnnData(form(counts.astype(dtype)), obs=obs, var=var)


@FAST
@given(raw_cells())
def test_any_cells_become_canonical_or_are_refused_in_one_sentence(raw):
    before = raw.X.copy()
    try:
        made = from_anndata(raw, "label", "control")
    except DataError as error:
        assert "\n" not in str(error) and str(error).endswith(".")
        return
    assert schema.check(made) is made
    assert made.shape == raw.shape
    counts = np.asarray(before.toarray() if sparse.issparse(before) else before, dtype=float)
    np.testing.assert_allclose(made.layers["counts"].toarray(), counts)
    totals = counts.sum(axis=1)
    np.testing.assert_allclose(
        np.expm1(made.X.toarray().astype(float)).sum(axis=1), np.where(totals > 0, 1e4, 0), rtol=1e-4
    )


@FAST
@given(raw_cells(), st.integers(1, 5), st.integers(0, 5), st.integers(1, 20))
def test_a_split_is_a_partition_and_the_scaler_is_the_training_cells(raw, fold, seed, n_top_genes):
    try:
        cells = from_anndata(raw, "label", "control")
    except DataError:
        assume(False)
    assume(cells.n_vars > 1)
    try:
        prepared = prepare(cells, n_top_genes + 1, fold=fold, seed=seed)
    except DataError as error:
        assert "panel" in str(error) or "No gene" in str(error)
        return
    rows = [prepared.rows(part) for part in PARTS]
    assert sorted(np.concatenate(rows)) == list(range(cells.n_obs))
    train = rows[0]
    x = prepared.expression("train").astype(float)
    np.testing.assert_allclose(prepared.mean, x.mean(axis=0), atol=1e-4)
    assert (prepared.std > 0).all() and np.isfinite(prepared.scale(prepared.cells.X)).all()
    if len(prepared.rows("train", "control")):
        pairs = pair(prepared, "train", "random", seed)
        assert len(pairs) == len(train) - len(prepared.rows("train", "control"))


@FAST
@given(st.lists(NAMES, min_size=1, max_size=6), st.sampled_from(["+", "_", "|", None]))
def test_labels_become_parts_or_are_refused(names, separator):
    labels = np.asarray(["NT", *names])
    try:
        own = own_labels(labels, Columns("x", "NT", separator=separator))
    except DataError as error:
        assert "\n" not in str(error)
        return
    assert own[0] == "control"
    for label in own[1:]:
        assert label == "control" or schema.parts(label)
        assert label == "control" or "+".join(schema.parts(label)) == label


@FAST
@given(raw_cells())
def test_a_logarithm_is_recognised_or_left_unknown_and_never_mistaken(raw):
    counts = sparse.csr_matrix(raw.X, dtype=float)
    assume(counts.nnz > 0)
    x = scale.log_normalise(counts)
    assert scale.kind_of_values(counts) == "counts"
    assert scale.kind_of_values(x) in ("log1p", "unknown")
    assert scale.kind_of_values(x.log1p()) in ("log1p_twice", "unknown")


@pytest.mark.parametrize("n", [1, 9, 10])
def test_small_groups_are_a_column_and_a_hint(bring, make_raw, capsys, n):
    raw = make_raw(n_per_group=40)
    keep = (
        np.flatnonzero(raw.obs["label"] != "B").tolist()
        + np.flatnonzero(raw.obs["label"] == "B")[:n].tolist()
    )
    made = bring(raw[keep].copy())
    assert ("under 10 cells (B;" in capsys.readouterr().out) == (n < 10)
    assert made.obs["small_group"].tolist() == ((made.obs["perturbation"] == "B") & (n < 10)).tolist()
    assert prepare(made, 5).cells.obs["small_group"].sum() == (n if n < 10 else 0)

"""Doors that a user opens by name: another layer, total counts, fractional counts, doses in logarithms."""

from __future__ import annotations

import dask.array
import numpy as np
import pytest
from scipy import sparse

from twinlib.data import blocks, doses, scale
from twinlib.data.canonical import from_anndata
from twinlib.errors import DataError


def bring(raw, **more):
    return from_anndata(raw, "label", "control", context_key="context", batch_key="batch", **more)


def logged(counts, totals=None):
    totals = counts.sum(axis=1) if totals is None else totals
    return np.log1p(1e4 * counts / np.asarray(totals)[:, None])


def test_a_named_layer_is_read_in_place_of_x(raw):
    counts = raw.X.copy()
    raw.layers["umi"], raw.X = counts, counts * 0.0 + 1.0
    assert np.allclose(bring(raw, layer="umi").X.toarray(), logged(counts), atol=1e-5)
    with pytest.raises(DataError, match=r"no layer 'spliced': name one of \['umi'\]"):
        bring(raw, layer="spliced")


def test_raw_is_a_layer(raw):
    whole = raw.copy()
    raw.raw = whole
    cut = raw[:, :10].copy()
    cut.X = cut.X - cut.X.mean(axis=0)
    made = bring(cut, layer="raw")
    assert made.n_vars == whole.n_vars and np.array_equal(made.layers["counts"].toarray(), whole.X)


@pytest.mark.parametrize("lazy", [False, True])
def test_total_counts_scale_what_genes_were_left_out_of(raw, lazy):
    counts = raw.X.copy()
    raw.obs["total"] = 3.0 * counts.sum(axis=1) + np.arange(len(counts))
    if lazy:
        raw.X = dask.array.from_array(sparse.csr_matrix(counts), chunks=(64, counts.shape[1]))
    made = bring(raw, total_counts="total").X
    made = made.compute() if blocks.is_lazy(made) else made
    assert np.allclose(made.toarray(), logged(counts, raw.obs["total"]), atol=1e-5)


def test_totals_that_all_cells_share_are_no_other_scale(raw):
    raw.obs["total"] = 2.0 * raw.X.sum(axis=1)
    assert np.allclose(np.expm1(bring(raw, total_counts="total").X.toarray()).sum(axis=1), 5e3, rtol=1e-4)


@pytest.mark.parametrize(
    ("total", "words"),
    [
        (lambda x: x.sum(axis=1) - 1, "below the counts"),
        (lambda x: "many", "below the counts"),
        (None, "no column"),
    ],
)
def test_wrong_totals_are_one_sentence(raw, total, words):
    if total is not None:
        raw.obs["total"] = total(raw.X)
    with pytest.raises(DataError, match=words):
        bring(raw, total_counts="total")


def test_totals_need_counts(raw):
    rng = np.random.default_rng(0)
    raw.obs["total"] = 1e5
    raw.X = np.log1p(rng.gamma(1.0, 100.0, raw.shape)).astype(np.float32)
    with pytest.raises(DataError, match="needs counts, and there are none"):
        bring(raw, total_counts="total")


@pytest.mark.parametrize("depth", [1.0, 20.0])
def test_fractional_counts_are_never_taken_for_logarithms(raw, depth):
    """Corrected for ambient RNA, some counts stay whole: small ones look like no logarithm either."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(depth * raw.X)
    corrected = np.where(rng.random(counts.shape) < 0.3, counts, np.maximum(counts - 0.37, 0.0))
    raw.X = corrected.astype(np.float32)
    assert scale.kind_of_values(raw.X) == "fractional"
    with pytest.raises(DataError, match='fractional="round"'):
        bring(raw)
    given, rounded = bring(raw, fractional="given"), bring(raw, fractional="round")
    assert np.allclose(given.X.toarray(), logged(raw.X), atol=1e-4) and "counts" not in given.layers
    assert np.allclose(rounded.X.toarray(), logged(np.rint(raw.X)), atol=1e-4)
    assert np.array_equal(rounded.layers["counts"].toarray(), np.rint(raw.X))
    with pytest.raises(DataError, match="fractional='drop' is unknown"):
        bring(raw, fractional="drop")


def test_deep_counts_of_few_genes_are_not_mixed_logarithms(raw):
    """The smallest count of most cells is above 1, so that few cells show that their logarithm is one."""
    raw.X = np.random.default_rng(0).poisson(8.0, raw.shape).astype(np.float32)
    counts = raw.X.copy()
    made = bring(raw)
    assert np.array_equal(made.layers["counts"].toarray(), counts)
    assert scale.kind_of_values(made.X) in ("log1p", "unknown")


def test_doses_in_logarithms_count_steps(raw):
    made = bring(raw, dose_key="dose", log_dose=True)
    given = raw.obs["dose"].to_numpy()
    assert made.uns["twinlib"]["log_dose"] == 0.5
    assert np.allclose(made.obs["dose"], np.log2(1 + given / 0.5))
    assert np.allclose(doses.unlogged(made.obs["dose"], 0.5), given)
    assert bring(raw, dose_key="dose").uns["twinlib"]["log_dose"] == 0.0


def test_a_guide_column_is_kept_under_its_name(raw):
    raw.obs["sgRNA"] = [f"g{i % 7}" for i in range(raw.n_obs)]
    raw.obs["guide"] = "other"
    made = bring(raw, guide_key="sgRNA")
    assert list(made.obs["guide"]) == list(raw.obs["sgRNA"])
    assert set(made.obs["guide_given"]) == {"other"}

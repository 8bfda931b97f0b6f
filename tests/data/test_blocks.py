"""Cells on disk give the cells in memory, on threads and on a cluster of two processes."""

import warnings

import numpy as np
import pytest
from scipy import sparse

from twinlib.data import blocks, scale
from twinlib.data.canonical import from_anndata
from twinlib.data.pairing import pair
from twinlib.data.preparation import prepare
from twinlib.errors import DataError

warnings.filterwarnings("ignore", message=".*zarr.*")
KEYS = {"context_key": "context", "batch_key": "batch", "dose_key": "dose"}


@pytest.fixture(params=["h5ad", "zarr"])
def path(request, raw, tmp_path):
    raw.X = sparse.csr_matrix(raw.X)
    where = tmp_path / f"cells.{request.param}"
    (raw.write_h5ad if request.param == "h5ad" else raw.write_zarr)(where)
    return where


def both(raw, path, n_top_genes=12, **named):
    memory = prepare(from_anndata(raw, "label", "control", **KEYS), n_top_genes, **named)
    cells = from_anndata(blocks.open_lazy(path, rows=37), "label", "control", **KEYS)
    assert blocks.is_lazy(cells.X) and blocks.is_lazy(cells.layers["counts"])
    return memory, prepare(cells, n_top_genes, **named)


def assert_equal(memory, disk):
    assert blocks.is_lazy(disk.cells.X)
    assert disk.genes == memory.genes and disk.measured == memory.measured
    np.testing.assert_allclose(disk.mean, memory.mean, atol=1e-5)
    np.testing.assert_allclose(disk.std, memory.std, atol=1e-5)
    assert disk.cells.obs["split"].tolist() == memory.cells.obs["split"].tolist()
    for split, label in (("train", "A"), ("test", "control"), ("test", None), ("train", "no such")):
        ours, theirs = disk.expression(split, label), memory.expression(split, label)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("split", ["cells", "perturbations", "contexts"])
def test_prepare_from_disk_is_prepare_in_memory(raw, path, split):
    memory, disk = both(raw, path, split=split)
    assert_equal(memory, disk)
    np.testing.assert_array_equal(pair(disk).control, pair(memory).control)


def test_log1p_on_disk_stays_log1p(raw, tmp_path):
    cells = from_anndata(raw, "label", "control", **KEYS)
    raw.X = cells.X
    raw.write_h5ad(tmp_path / "logged.h5ad")
    disk = from_anndata(blocks.open_lazy(tmp_path / "logged.h5ad", 50), "label", "control", **KEYS)
    assert_equal(prepare(cells, 10), prepare(disk, 10))
    assert "counts" not in disk.layers


def test_the_hash_of_cells_on_disk_knows_their_values(raw, path, tmp_path):
    def of(where):
        cells = from_anndata(blocks.open_lazy(where, 64), "label", "control", **KEYS)
        return cells.uns["twinlib"]["data_hash"]

    assert of(path) == of(path)
    raw.X[0, 0] += 1
    raw.write_h5ad(tmp_path / "other.h5ad")
    assert of(tmp_path / "other.h5ad") != of(path)


@pytest.mark.parametrize("value, word", [(np.nan, "NaN"), (-1.0, "negative")])
def test_bad_values_in_any_block_are_refused(raw, tmp_path, value, word):
    raw.X[-1, -1] = value
    raw.X = sparse.csr_matrix(raw.X)
    raw.write_h5ad(tmp_path / "bad.h5ad")
    with pytest.raises(DataError, match=word):
        from_anndata(blocks.open_lazy(tmp_path / "bad.h5ad", 30), "label", "control", **KEYS)


def test_twice_logged_and_rescaled_cells_on_disk_are_refused(raw, tmp_path):
    x = from_anndata(raw, "label", "control", **KEYS).X
    for wrong, word in ((x.log1p(), "twice"), ((x.expm1() * 100).log1p(), "another total")):
        raw.X = wrong
        raw.write_h5ad(tmp_path / "wrong.h5ad")
        with pytest.raises(DataError, match=word):
            from_anndata(blocks.open_lazy(tmp_path / "wrong.h5ad"), "label", "control", **KEYS)


def test_files_that_cannot_be_opened_are_one_sentence(raw, tmp_path):
    (tmp_path / "no.h5ad").write_bytes(b"nothing")
    with pytest.raises(DataError, match="could not be opened"):
        blocks.open_lazy(tmp_path / "no.h5ad")
    raw.X = sparse.csc_matrix(raw.X)
    raw.write_h5ad(tmp_path / "columns.h5ad")
    with pytest.raises(DataError, match="by columns"):
        blocks.open_lazy(tmp_path / "columns.h5ad")


def test_a_cluster_of_two_processes_gives_the_same(raw, tmp_path):
    distributed = pytest.importorskip("distributed")
    raw.X = sparse.csr_matrix(raw.X)
    raw.write_h5ad(tmp_path / "cells.h5ad")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster.scheduler_address) as client,
    ):
        assert len(client.scheduler_info()["workers"]) == 2
        assert_equal(*both(raw, tmp_path / "cells.h5ad"))
        done = client.run(lambda dask_worker: len(dask_worker.state.log))
        assert sum(done.values()) > 0, "the work was done elsewhere"


def test_cells_on_disk_are_judged_like_cells_in_memory(raw, path):
    assert scale.facts(blocks.open_lazy(path, 2000).X) == scale.facts(raw.X)
    assert scale.kind_of_values(blocks.open_lazy(path, 50).X) == "counts"

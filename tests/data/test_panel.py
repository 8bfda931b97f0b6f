"""The panel holds the response: variance within groups, detection, what is kept."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from twinlib.data.panel import kept_by_label, top_genes, variance_within
from twinlib.data.sources import load
from twinlib.errors import DataError

INTERFERON = ("ISG15", "IFI6", "IFIT1", "IFIT3", "ISG20", "CXCL10")


def test_variance_is_pooled_within_groups_and_equal_for_sparse_and_dense():
    rng = np.random.default_rng(0)
    group = np.array(["a"] * 30 + ["b"] * 70)
    x = rng.random((100, 4)) * (rng.random((100, 4)) < 0.5) + (group == "b")[:, None] * np.array(
        [5.0, 0, 0, 0]
    )
    expected = (30 * x[:30].var(0) + 70 * x[30:].var(0)) / 100
    np.testing.assert_allclose(variance_within(x, group), expected)
    np.testing.assert_allclose(variance_within(sparse.csr_matrix(x), group), expected)


def test_a_cell_type_marker_gives_way_to_a_response():
    rng = np.random.default_rng(0)
    kind, answered = np.repeat(["a", "b"], 100), np.tile([0, 1], 100)
    x = rng.normal(3, 0.1, (200, 3))
    x[:, 0] += 2.0 * (kind == "b")
    x[:, 1] += 1.0 * answered
    assert top_genes(x, kind, 1).tolist() == [1]
    assert top_genes(x, ["one"] * 200, 1).tolist() == [0]


def test_rare_genes_are_no_candidates_and_an_empty_matrix_is_refused():
    x = np.zeros((200, 3))
    x[0, 0], x[:100, 1] = 9.0, 1.0
    assert top_genes(x, ["a"] * 200, 3).tolist() == [1]
    with pytest.raises(DataError, match="No gene is detected"):
        top_genes(np.zeros((10, 3)), ["a"] * 10, 2)


def test_what_a_panel_keeps_lies_between_nothing_and_all():
    rng = np.random.default_rng(0)
    label = np.repeat(["control", "A"], 200)
    x = rng.normal(3, 0.5, (400, 20))
    x[200:, 0] += 2.0
    group = np.tile(["one", "two"], 200)
    tables = [
        kept_by_label(x, label, group, np.array(p), "control", rng).loc["A"] for p in ([0], [1], range(20))
    ]
    assert tables[0].share > 0.9 > 0.5 > tables[0].permuted and tables[0].visible
    assert tables[1].share < 0.05 and tables[2].share == pytest.approx(1.0)


def test_a_label_without_controls_in_its_group_keeps_nothing_that_is_known():
    x = np.random.default_rng(0).random((60, 4))
    label, group = np.repeat(["A", "B", "control"], 20), np.repeat(["one", "two", "two"], 20)
    table = kept_by_label(x, label, group, np.array([0]), "control", np.random.default_rng(1))
    assert np.isnan(table.loc["A", "share"]) and not table.loc["A", "visible"]
    assert 0 < table.loc["B", "share"] < 1


def test_interferon_genes_are_in_the_panel_of_kang_and_up_in_every_cell_type(real_data):
    cells = load("kang2018", data_dir=real_data)
    context = cells.obs["cell_context"].astype(str).to_numpy()
    names = np.asarray(cells.var_names)[top_genes(cells.X.tocsr(), context, 100)]
    present = [gene for gene in INTERFERON if gene in set(cells.var_names)]
    assert len(present) >= 4 and set(present) <= set(names)
    treated = (cells.obs["perturbation"].astype(str) != "control").to_numpy()
    for kind in np.unique(context):
        for gene in ("ISG15", "IFI6"):
            x = np.asarray(cells[:, gene].X.todense()).ravel()
            assert x[treated & (context == kind)].mean() > x[~treated & (context == kind)].mean()

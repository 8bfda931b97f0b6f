import numpy as np
import pytest

from twinlib.data.schema import DataError, check
from twinlib.data.simulate import GENES, Wiring, simulate_waddington


@pytest.fixture(scope="module")
def cells():
    return simulate_waddington()


def test_default_is_canonical_and_of_the_stated_size(cells):
    check(cells)
    assert cells.shape == (7400, 511)
    assert cells.obs["perturbation"].nunique() == 67
    assert cells.X.dtype == np.float32
    assert 0.35 < (cells.layers["counts"] == 0).mean() < 0.55


def test_x_is_log1p_of_counts_per_ten_thousand_once(cells):
    np.testing.assert_allclose(np.expm1(cells.X.astype(float)).sum(1), 1e4, rtol=1e-4)


def test_same_seed_same_cells_other_seed_other_cells():
    few = dict(n_cells=200, perturbations=["Gata1"])
    a, b, c = (simulate_waddington(seed=s, **few) for s in (0, 0, 1))
    assert (a.layers["counts"] == b.layers["counts"]).all()
    assert not (a.layers["counts"] == c.layers["counts"]).all()
    assert a.uns["twinlib"]["data_hash"] == b.uns["twinlib"]["data_hash"] != c.uns["twinlib"]["data_hash"]


def test_regulators_are_the_weights_that_made_the_cells(cells):
    edges = cells.uns["twinlib"]["regulators"]
    weights, _ = Wiring().weights()
    assert set(edges.columns) == {"regulator", "target", "weight"}
    assert (~edges["target"].isin(GENES)).sum() == (weights != 0).sum()
    edge = edges[edges["target"].str.startswith("gene")].iloc[0]
    assert weights[GENES.index(edge["regulator"]), int(edge["target"][4:])] == edge["weight"]


def test_an_unknown_gene_is_refused_in_one_sentence():
    with pytest.raises(DataError, match="'Nanog' is not a gene"):
        simulate_waddington(perturbations=["Gata1+Nanog"])

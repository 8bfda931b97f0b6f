"""The neighbour tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twinlib.embedding.gene_graph import edge_index, from_edges, knn_graph, padding
from twinlib.errors import DataError


def test_neighbours_are_the_strongest_correlations_self_first():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    x[:, 3] = -x[:, 0] + 0.1 * rng.normal(size=200)
    x[:, 4] = x[:, 1] + 0.1 * rng.normal(size=200)
    table = knn_graph(x, 2)
    assert table.shape == (5, 3) and table.dtype == torch.int64
    assert table[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert [table[i, 1].item() for i in (0, 1, 3, 4)] == [3, 4, 0, 1]
    expected = np.abs(np.corrcoef(x.T))
    np.fill_diagonal(expected, 2)
    assert (table.numpy() == np.argsort(-expected, axis=1)[:, :3]).all()


def test_a_constant_gene_keeps_its_place():
    x = np.random.default_rng(0).normal(size=(20, 4))
    x[:, 2] = 0.0
    assert knn_graph(x, 3)[2].tolist() == [2, 0, 1, 3]


@pytest.mark.parametrize("k", [0, 4, 9])
def test_impossible_k_is_refused(k):
    with pytest.raises(DataError, match="1 <= k < G"):
        knn_graph(np.zeros((5, 4)), k)


def test_known_edges_point_at_their_target():
    table = from_edges(
        [("b", "a"), ("c", "a"), ("c", "a"), ("x", "a"), ("a", "c"), ("a", "a")], ["a", "b", "c"]
    )
    assert table.tolist() == [[0, 1, 2], [1, 1, 1], [2, 0, 2]]
    assert padding(table).tolist() == [[False, False, False], [False, True, True], [False, False, True]]
    assert sorted(map(tuple, edge_index(table).T.tolist())) == [
        (0, 0),
        (0, 2),
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 2),
    ]
    with pytest.raises(DataError, match="no edge joins"):
        from_edges([("x", "y")], ["a", "b"])

"""The one gene graph that every cell shares, as a table of neighbours (Section 3.1 of the paper)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from twinlib.errors import DataError

Edge = tuple[str, str]


def knn_graph(x_controls_scaled: Tensor | np.ndarray, k: int = 8) -> Tensor:
    """Link every gene to the `k` genes whose expression over control cells correlates most with its own.

    x_controls_scaled: [n, G], z-scores of training controls. Returns a LongTensor [G, k + 1]: column 0 is the
    gene itself, the others follow by falling absolute Pearson correlation (ties: the lower index first).
    Raises DataError when `k` does not lie in 1 .. G - 1.
    """
    x = torch.as_tensor(np.asarray(x_controls_scaled), dtype=torch.float64)
    n_genes = x.shape[1]
    if not 1 <= k < n_genes:
        raise DataError(f"knn_graph: k={k} neighbours cannot be had among {n_genes} genes; pass 1 <= k < G.")
    strength = correlation(x).abs()
    strength.fill_diagonal_(2.0)  # above any correlation, so that a gene is its own first neighbour
    return strength.sort(dim=1, descending=True, stable=True).indices[:, : k + 1].contiguous()


def correlation(x: Tensor) -> Tensor:
    """Return the Pearson correlation of the columns of x [n, G] as [G, G]; a constant column gives zeros."""
    centred = x - x.mean(dim=0)
    unit = centred / centred.norm(dim=0).clamp_min(1e-12)
    return unit.T @ unit


def from_edges(edges: Iterable[Edge], genes: Sequence[str]) -> Tensor:
    """Make the neighbour table of a known directed network: a target listens to its regulators and to itself.

    edges: (regulator, target) pairs; pairs with a gene outside `genes` are left out. Returns a LongTensor
    [G, k + 1] with k the largest number of regulators; shorter rows are filled with the gene's own index,
    which the attention reads as 'no neighbour'. Raises DataError when no edge is left.
    """
    index = {gene: i for i, gene in enumerate(genes)}
    rows: list[list[int]] = [[i] for i in range(len(genes))]
    for regulator, target in edges:
        i, j = index.get(target), index.get(regulator)
        if i is not None and j is not None and j not in rows[i]:
            rows[i].append(j)
    width = max((len(row) for row in rows), default=0)
    if width < 2:
        raise DataError("from_edges: no edge joins two genes of the panel; name edges as the genes are.")
    return torch.tensor([row + [row[0]] * (width - len(row)) for row in rows])


def padding(neighbours: Tensor) -> Tensor:
    """Return a mask [G, k + 1] that is True where a row repeats its own gene to fill up the table."""
    mask = neighbours == neighbours[:, :1]
    mask[:, 0] = False
    return mask


def edge_index(neighbours: Tensor) -> Tensor:
    """Return the table [G, k + 1] as PyG's edge list [2, E], rows (source, target), self loops included."""
    keep = ~padding(neighbours)
    targets = torch.arange(len(neighbours)).unsqueeze(1).expand_as(neighbours)
    return torch.stack([neighbours[keep], targets[keep]])

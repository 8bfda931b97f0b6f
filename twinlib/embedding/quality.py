"""How good a code of cells is: reconstruction, recovery of perturbations, attention and the true network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from twinlib.embedding.attention import CLAMP
from twinlib.errors import DataError

if TYPE_CHECKING:
    from twinlib.data.preparation import Prepared
    from twinlib.embedding.attention import Embedding


def clamped(prepared: Prepared, split: str | None = None) -> np.ndarray:
    """Return z-scores [n, G] of a split of prepared cells, clamped to +-10 as the encoder sees them."""
    return np.clip(prepared.scale(prepared.expression(split)), -CLAMP, CLAMP)


def explained(x: np.ndarray, reconstruction: np.ndarray, centre: np.ndarray) -> float:
    """Return R2 = 1 - squared error / squared distance to `centre` [G] over all entries of x [n, G]."""
    return float(1.0 - np.square(x - reconstruction).sum() / np.square(x - centre).sum())


class PrincipalComponents:
    """The plain linear code: the first D principal components of training cells.

    x: [n, G] z-scores of training cells.
    """

    def __init__(self, x: np.ndarray, latent_dim: int = 32) -> None:
        self.centre = x.mean(axis=0)
        _, _, components = np.linalg.svd(x - self.centre, full_matrices=False)
        self.components = components[:latent_dim]

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Map z-scores [n, G] to scores [n, D]."""
        return np.asarray((x - self.centre) @ self.components.T)

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Map scores [n, D] to z-scores [n, G]."""
        return np.asarray(z @ self.components + self.centre)


def neighbour_recovery(
    codes: np.ndarray, prepared: Prepared, perturbation: str, k: int = 5, seed: int = 0
) -> float:
    """Return the balanced accuracy of telling a perturbation from control by the k nearest training cells.

    codes: [n, D], one row for each of `prepared.cells`. The vote is taken among all training cells of the
    perturbation and an equal number of training controls drawn with `seed`; test cells of both are scored.
    Chance is 0.5. Raises DataError where the perturbation has no training or no test cell.
    """
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(seed)
    seen, control = (prepared.rows("train", label) for label in (perturbation, "control"))
    asked = [prepared.rows("test", label) for label in (perturbation, "control")]
    if len(seen) == 0 or len(asked[0]) == 0:
        raise DataError(f"{perturbation!r} has no training or no test cell, so it cannot be recovered.")
    control = rng.choice(control, min(len(seen), len(control)), replace=False)
    votes = KNeighborsClassifier(k)
    votes.fit(codes[np.r_[seen, control]], np.r_[np.ones(len(seen)), np.zeros(len(control))])
    hits = [np.mean(votes.predict(codes[rows]) == truth) for rows, truth in zip(asked, (1, 0), strict=True)]
    return float(np.mean(hits))


def attention_matrix(embedding: Embedding, x_scaled: Tensor | np.ndarray) -> np.ndarray:
    """Return how much gene i listens to gene j, [G, G]: weights averaged over cells, heads and layers.

    x_scaled: [n, G] z-scores. Pairs outside the graph are zero; the diagonal is the gene itself.
    """
    x = torch.as_tensor(np.asarray(x_scaled)).to(embedding.gene_vectors.dtype)
    weights = embedding.attention_weights(x).mean(dim=(0, 3)).numpy()
    matrix = np.zeros((len(embedding.genes),) * 2)
    np.add.at(matrix, (np.arange(len(matrix))[:, None], embedding.neighbours.numpy()), weights)
    return matrix


def regulator_matrix(prepared: Prepared) -> np.ndarray:
    """Return the true network as booleans [G, G]: entry (i, j) says that gene j regulates gene i.

    Self-regulation is left out. Raises DataError when the data set carries no regulators.
    """
    known = prepared.cells.uns.get("twinlib", {}).get("regulators")
    if known is None:
        raise DataError(f"{prepared.dataset!r} carries no known regulators; the simulated 'waddington' does.")
    index = {gene: i for i, gene in enumerate(prepared.genes)}
    matrix = np.zeros((len(index), len(index)), dtype=bool)
    for regulator, target in zip(known["regulator"], known["target"], strict=True):
        if regulator in index and target in index and regulator != target:
            matrix[index[target], index[regulator]] = True
    return matrix

"""The plain linear code of cells, in the form that both twins take an embedding in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, from_numpy

from twinlib.embedding.quality import PrincipalComponents

if TYPE_CHECKING:
    from twinlib.data.preparation import Prepared


class Components:
    """The first D principal components of the training cells; no training, so that each fold has its own.

    A gene's vector is its row of the loadings.
    """

    def __init__(self, prepared: Prepared, latent_dim: int = 32) -> None:
        plain = PrincipalComponents(prepared.scale(prepared.expression("train")), latent_dim)
        self.genes = prepared.genes
        self.centre, self.axes = (from_numpy(values).float() for values in (plain.centre, plain.components))
        self.latent_dim = len(self.axes)
        self.gene_vectors = self.axes.T

    def encode(self, x_scaled: Tensor, /) -> Tensor:
        """Map z-scores [..., G] to scores [..., D]."""
        return (x_scaled - self.centre) @ self.axes.T

    def decode(self, z: Tensor, /) -> Tensor:
        """Map scores [..., D] to z-scores [..., G]."""
        return z @ self.axes + self.centre

"""Perturbation labels as numbers: target gene vector, a flag whether there is one, a one-hot of the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from twinlib.data.schema import parts
from twinlib.errors import DataError

if TYPE_CHECKING:
    from twinlib.data.preparation import Prepared


class Coder(Protocol):
    """A code of cells: the embedding, or anything with its encoder and decoder."""

    @property
    def latent_dim(self) -> int:
        """D."""
        ...

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the panel [G]."""
        ...

    @property
    def gene_vectors(self) -> Tensor:
        """Vector of each gene [G, d]."""
        ...

    def encode(self, x_scaled: Tensor, /) -> Tensor:
        """Map z-scores [..., G] to latent cells [..., D]."""
        ...

    def decode(self, z: Tensor, /) -> Tensor:
        """Map latent cells [..., D] to z-scores [..., G]."""
        ...


#: From so many perturbed genes on whose vector is known, a gene that nobody perturbed is lent an effect.
LENDERS = 3


class PerturbationTable:
    """The features of perturbation labels, shared by both twins.

    A part (`A` of `A+B`) becomes [gene vector of its target or zeros, flag `target_measured`, one-hot of
    training parts]; a combination is the sum of its parts; a dose scales it; `control` is zero. A linear
    layer on the one-hot is the learned label vector. With `LENDERS` single genes among the training labels
    every gene of the panel has a target vector, perturbed or not. prepared: a `Prepared`; embedding: its
    `Embedding`.
    """

    def __init__(self, prepared: Prepared, embedding: Coder) -> None:
        labels = prepared.train_perturbations
        self.parts: tuple[str, ...] = tuple(sorted({part for label in labels for part in parts(label)}))
        self.measured: tuple[str, ...] = self._reachable(prepared, embedding.genes)
        vectors = embedding.gene_vectors.detach()
        self._d = vectors.shape[1]
        self._vector = {gene: vectors[i] for i, gene in enumerate(embedding.genes)}
        self._column = {part: self._d + 1 + i for i, part in enumerate(self.parts)}
        self._dtype = vectors.dtype

    def _reachable(self, prepared: Prepared, genes: Sequence[str]) -> tuple[str, ...]:
        """Return the measured targets, and the genes that nobody perturbed where others lend to them."""
        lenders = set(prepared.measured) & set(prepared.train_perturbations) & set(genes)
        others = set(genes) - set(self.parts) if len(lenders) >= LENDERS else set()
        return tuple(sorted({*prepared.measured, *others}))

    @property
    def dim(self) -> int:
        """Length of a label's features: d + 1 + number of training parts."""
        return self._d + 1 + len(self.parts)

    def features(self, labels: Sequence[str], dose: Sequence[float] | np.ndarray | None = None) -> Tensor:
        """Return the features [n, dim] of n labels, each scaled by its dose (1 if none is given).

        Raises DataError for a part that no training cell carries and whose target gene is not measured.
        """
        kinds, rows = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        table = torch.stack([self._row(str(label)) for label in kinds]) if len(kinds) else self._empty()
        features = table[torch.as_tensor(rows.reshape(-1), dtype=torch.long)]
        if dose is None:
            return features
        return features * torch.as_tensor(np.asarray(dose), dtype=self._dtype).reshape(-1, 1)

    def _empty(self) -> Tensor:
        return torch.zeros(0, self.dim, dtype=self._dtype)

    def _row(self, label: str) -> Tensor:
        row = torch.zeros(self.dim, dtype=self._dtype)
        for part in parts(label):
            self._add(row, part)
        return row

    def _add(self, row: Tensor, part: str) -> None:
        measured = part in self.measured and part in self._vector
        if not measured and part not in self._column:
            never = (
                f"was never perturbed, though measured, as fewer than {LENDERS} measured genes were"
                if part in self._vector
                else "is not measured"
            )
            raise DataError(
                f"Perturbation {part!r} occurs in no training cell and its target gene {never}, so nothing "
                "is known about it: ask for a training perturbation, or a held-out one that is measured."
            )
        if measured:
            row[: self._d] += self._vector[part]
            row[self._d] += 1.0
        if part in self._column:
            row[self._column[part]] += 1.0

"""What is fitted on one fold: the plain rows and the twin, on one embedding and one set of pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from twinlib.data.pairing import Pairs, pair
from twinlib.errors import DataError
from twinlib.experimental.baselines import BASELINES, Baseline, encode_rows
from twinlib.experimental.perturbation_model import (
    PerturbationModel,
    PerturbationModelConfig,
    fit_perturbation_model,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from twinlib.data.preparation import Prepared
    from twinlib.embedding.attention import Embedding

#: Rows without training of networks, `no_change` aside, which the judge adds.
PLAIN = tuple(name for name in BASELINES if name != "no_change")
#: Training cells that an embedding is fitted on, drawn once.
EMBEDDED = 2000


class RememberedCoder:
    """An embedding that encodes the same cells once, however many predictors ask."""

    def __init__(self, embedding: Embedding) -> None:
        self.embedding = embedding
        self.genes, self.latent_dim = embedding.genes, embedding.latent_dim
        self.gene_vectors: Tensor = embedding.gene_vectors
        self.require, self.decode = embedding.require, embedding.decode
        self._codes: dict[bytes, Tensor] = {}

    def encode(self, x: torch.Tensor, /) -> Tensor:
        """Return latent cells [n, D] of z-scores [n, G]."""
        key = hashlib.blake2b(x.numpy().tobytes()).digest()
        if key not in self._codes:
            self._codes[key] = self.embedding.encode(x)
        return self._codes[key]


@dataclass(frozen=True)
class FoldRows:
    """One prepared split with the code of its cells: what all rows of it share."""

    prepared: Prepared
    embedding: RememberedCoder

    @cached_property
    def latent(self) -> np.ndarray:
        """Codes [n, D] of all cells."""
        cells = np.asarray(self.prepared.cells.X)
        return np.asarray(encode_rows(self.prepared, self.embedding, cells).numpy())

    @cached_property
    def pairs(self) -> Pairs:
        """Matched training pairs."""
        return pair(self.prepared)

    def fit(self, seed: int, config: PerturbationModelConfig | None = None) -> PerturbationModel:
        """Fit the twin with one seed."""
        config = config or PerturbationModelConfig()
        pairs = self.pairs if config.cell_network else None
        return fit_perturbation_model(self.prepared, self.embedding, pairs, config, seed, latent=self.latent)

    def plain_models(self) -> Iterator[tuple[str, Baseline]]:
        """Fit the baselines that these data can give."""
        return plain_models(self.prepared, PLAIN, self.embedding)


def plain_models(
    prepared: Prepared, names: Sequence[str], embedding: RememberedCoder | None = None
) -> Iterator[tuple[str, Baseline]]:
    """Fit baselines by name; `linear` is left out where the data cannot give it."""
    for name in names:
        try:
            yield name, BASELINES[name](prepared, embedding)
        except DataError:
            if name != "linear":
                raise


def fewer_training_cells(prepared: Prepared, number: int) -> Prepared:
    """Return the same preparation with some of its training cells, drawn once; all others and the scaler
    stay.
    """
    train = prepared.rows("train")
    keep = np.random.default_rng(0).permutation(train)[:number]
    rows = np.sort(np.concatenate([keep, prepared.rows("validation"), prepared.rows("test")]))
    return replace(prepared, cells=prepared.cells[rows].copy())


def embedding_of(prepared: Prepared, epochs: int) -> tuple[RememberedCoder, str]:
    """Return the packaged embedding where it fits these training cells, else a short one; and which it is."""
    from twinlib.embedding.attention import EmbeddingConfig
    from twinlib.embedding.train import pretrained, train_embedding

    try:
        embedding = pretrained(prepared.dataset)
        embedding.require(prepared)
    except DataError:
        few = fewer_training_cells(prepared, EMBEDDED)
        embedding = train_embedding(few, EmbeddingConfig(epochs=epochs), seed=0)[0]
        return RememberedCoder(embedding), f"trained, passes: {epochs}"
    return RememberedCoder(embedding), "packaged"

"""A small simulated dataset, and an embedding without training: principal components of training cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twinlib.data.pairing import Pairs, pair
from twinlib.data.preparation import Prepared, prepare
from twinlib.data.simulated import simulate_waddington
from twinlib.experimental.perturbation_model import (
    PerturbationModel,
    PerturbationModelConfig,
    fit_perturbation_model,
)
from twinlib.landscapes.gene_network import Wiring

SINGLES = ("Gata1", "Pu1", "Cebpa", "Fli1")
DOUBLES = ("Gata1+Pu1", "Cebpa+Gata1", "Cebpa+Pu1", "Fli1+Pu1", "Fli1+Gata1")


class PrincipalEmbedding:
    """Linear encoder and decoder [G, D] with the interface of the trained one."""

    def __init__(self, prepared: Prepared, latent: int = 8) -> None:
        z = prepared.scale(prepared.expression("train"))
        self.axes = torch.from_numpy(np.linalg.svd(z - z.mean(0), full_matrices=False)[2][:latent].copy())
        self.genes, self.latent_dim = prepared.genes, latent
        self.gene_vectors = self.axes.T.contiguous()

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(-10, 10) @ self.axes.T

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z @ self.axes


@pytest.fixture(scope="session")
def cells():
    return simulate_waddington(1500, perturbations=SINGLES + DOUBLES, wiring=Wiring(n_genes=60))


@pytest.fixture(scope="session")
def prepared(cells) -> Prepared:
    return prepare(cells, 40)


@pytest.fixture(scope="session")
def embedding(prepared: Prepared) -> PrincipalEmbedding:
    return PrincipalEmbedding(prepared)


@pytest.fixture(scope="session")
def pairs(prepared: Prepared) -> Pairs:
    return pair(prepared)


QUICK = PerturbationModelConfig(hidden=32, label_steps=400, epochs=3)


@pytest.fixture(scope="session")
def model(prepared: Prepared, embedding: PrincipalEmbedding, pairs: Pairs) -> PerturbationModel:
    return fit_perturbation_model(prepared, embedding, pairs, QUICK, seed=0)

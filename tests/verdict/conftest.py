"""A small twin of a gene screen and one of a drug screen, fitted once."""

from __future__ import annotations

import pytest
from defect_files import donors_and_types, drug_screen

from twinlib.data.preparation import prepare
from twinlib.data.simulated import simulate_waddington
from twinlib.embedding.attention import EmbeddingConfig
from twinlib.embedding.train import train_embedding
from twinlib.experimental.perturbation_model import PerturbationModelConfig, fit_perturbation_model
from twinlib.landscapes.gene_network import Wiring
from twinlib.verdict.inspection import inspect
from twinlib.verdict.keys import Keys
from twinlib.verdict.twin import Twin

SMALL = EmbeddingConfig(epochs=1, latent_dim=8, layers=1, heads=1, channels=4, hidden=16)
QUICK = PerturbationModelConfig(hidden=16, label_steps=100, epochs=1)


def fitted(cells, keys: Keys | None = None, genes: int = 30, unseen: str = "") -> Twin:
    """A twin of cells, small and quick."""
    inspection = inspect(cells, keys)
    prepared = prepare(inspection.cells(), genes)
    embedding, _ = train_embedding(prepared, SMALL)
    return Twin.of(fit_perturbation_model(prepared, embedding, config=QUICK), inspection.keys, unseen)


@pytest.fixture(scope="session")
def screen():
    singles = ("Gata1", "Pu1", "Cebpa", "Fli1")
    return simulate_waddington(700, seed=3, perturbations=(*singles, "Gata1+Pu1"), wiring=Wiring(n_genes=60))


@pytest.fixture(scope="session")
def twin(screen) -> Twin:
    return fitted(screen)


@pytest.fixture(scope="session")
def drugs() -> Twin:
    return fitted(drug_screen(), Keys(log_dose=True))


@pytest.fixture(scope="session")
def cytokine() -> Twin:
    return fitted(donors_and_types())

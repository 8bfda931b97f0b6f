"""Twins that are fitted in a second."""

from __future__ import annotations

from twinlib.data.preparation import prepare
from twinlib.embedding.attention import EmbeddingConfig
from twinlib.embedding.train import train_embedding
from twinlib.experimental.perturbation_model import PerturbationModelConfig, fit_perturbation_model
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

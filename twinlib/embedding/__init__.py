"""The embedding room: a gene graph, graph attention over it, and latent cells."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinlib.embedding.attention import Embedding, EmbeddingConfig
    from twinlib.embedding.effects import gene_effects
    from twinlib.embedding.gene_graph import from_edges, knn_graph
    from twinlib.embedding.perturbations import PerturbationTable
    from twinlib.embedding.train import load_embedding, pretrained, save_embedding, train_embedding

_WHERE = {
    "knn_graph": "gene_graph",
    "from_edges": "gene_graph",
    "Embedding": "attention",
    "EmbeddingConfig": "attention",
    "load_embedding": "train",
    "pretrained": "train",
    "save_embedding": "train",
    "train_embedding": "train",
    "gene_effects": "effects",
    "PerturbationTable": "perturbations",
}

__all__ = [
    "Embedding",
    "EmbeddingConfig",
    "PerturbationTable",
    "from_edges",
    "gene_effects",
    "knn_graph",
    "load_embedding",
    "pretrained",
    "save_embedding",
    "train_embedding",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name when the name is first asked for."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

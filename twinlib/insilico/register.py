"""Registers the environments with gymnasium; imports neither torch nor the rest of the room."""

from __future__ import annotations

import gymnasium

_ENVIRONMENTS = {"twinlib/GeneScreen-v0": ("GeneScreenEnv", "GeneScreenVectorEnv")}


def register_environments() -> None:
    """Give gymnasium the ids `twinlib/...`; called by gymnasium itself through the package's entry point."""
    module = "twinlib.insilico.environment"
    for name, (single, vector) in _ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name, entry_point=f"{module}:{single}", vector_entry_point=f"{module}:{vector}"
            )

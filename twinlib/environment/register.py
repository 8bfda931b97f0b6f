"""Registers the environments with gymnasium; imports neither torch nor the rest of the room."""

from __future__ import annotations

import gymnasium

#: Id: the module of its classes, and the first part of their names.
_ENVIRONMENTS = {
    "twinlib/GeneScreen-v0": ("dynamics", "GeneScreen"),
    "twinlib/Cytokine-v0": ("dynamics", "Cytokine"),
    "twinlib/Combination-v0": ("dynamics", "Combination"),
    "twinlib/ToggleSwitch-v0": ("known_answers", "ToggleSwitch"),
    "twinlib/Myeloid-v0": ("known_answers", "Myeloid"),
}


def register_environments() -> None:
    """Give gymnasium the ids `twinlib/...`; called by gymnasium itself through the package's entry point."""
    for name, (module, title) in _ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            where = f"twinlib.environment.{module}:{title}"
            gymnasium.register(name, entry_point=f"{where}Env", vector_entry_point=f"{where}VectorEnv")

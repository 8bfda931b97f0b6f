"""The worlds that come with the package: `python -m twinlib.environment.packaged` makes their files again."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from twinlib.environment.assembly import make_world
from twinlib.environment.world import World, load_world, save_world

if TYPE_CHECKING:
    from twinlib.data.preparation import Prepared

WORLDS = pathlib.Path(__file__).parent / "worlds"


def packaged_world(name: str = "waddington") -> World:
    """The world that comes with the package: simulated cells, no network, no simulation at import."""
    from twinlib.embedding.train import pretrained

    return load_world(WORLDS / f"{name}.npz", pretrained("waddington"))


def thinned(world: World, n: int, seed: int = 0) -> World:
    """A world with at most n of the matched cells, drawn without replacement."""
    generator = torch.Generator().manual_seed(seed)
    return world.rows(torch.randperm(len(world), generator=generator)[:n].sort().values)


def with_cytokines(prepared: Prepared, seed: int = 0) -> Prepared:
    """The waddington preparation with cells under cytokines beside: same genes, same scaler, more cells.

    Controls, the eleven single knock-downs, four cytokines and their pairs, 100 cells a treatment.
    """
    from twinlib.data.simulated import simulate_waddington
    from twinlib.landscapes.myeloid import CYTOKINES, GENES

    pairs = ("+".join(pair) for pair in itertools.combinations(CYTOKINES, 2))
    cells = simulate_waddington(seed=seed + 1, perturbations=GENES, cytokines=(*CYTOKINES, *pairs))
    cells = cells[:, list(prepared.genes)].copy()
    cells.X = np.asarray(cells.X.todense() if hasattr(cells.X, "todense") else cells.X, dtype=np.float32)
    cells.obs["split"] = "train"
    labels = tuple(sorted(set(cells.obs["perturbation"].astype(str)) - {"control"}))
    return dataclasses.replace(prepared, cells=cells, perturbations=labels, train_perturbations=labels)


def build_packaged_worlds(n_pairs: int = 1000, seed: int = 0) -> dict[str, World]:
    """Make the packaged world files again from the simulator and the packaged checkpoint."""
    from twinlib.data.preparation import standard
    from twinlib.embedding.train import pretrained

    prepared, embedding = standard("waddington"), pretrained("waddington")
    treated = with_cytokines(prepared, seed)
    worlds = {
        "waddington": make_world(prepared, embedding, density=True),
        "cytokine": make_world(treated, embedding, actions="cytokines"),
        "combination": make_world(treated, embedding, actions="both"),
    }
    for name, world in worlds.items():
        save_world(thinned(world, n_pairs, seed), WORLDS / f"{name}.npz")
    return worlds


if __name__ == "__main__":
    for title, built in build_packaged_worlds().items():
        print(f"{title}: {len(built.labels)} labels, {len(built.action_names)} actions.")

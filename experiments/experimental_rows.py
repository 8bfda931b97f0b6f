"""The rows of the experimental twin's tables: baselines, the twin, and the twin without each of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from twinlib.data.schema import CONTROL, parts
from twinlib.evaluation.judge import Supervised, supervised
from twinlib.experimental.fold_rows import FoldRows
from twinlib.experimental.perturbation_model import (
    PerturbationModel,
    PerturbationModelConfig,
    earns_its_place,
    without_departures,
)

if TYPE_CHECKING:
    from twinlib.data.preparation import Prepared

#: Parts of the twin that are left out by a fit of its own: fields of its configuration.
ABLATIONS = ("trust", "label_network", "borrow")
#: The twin without its cell network, which is the costly part.
MEAN_ONLY = PerturbationModelConfig(cell_network=False)


@dataclass(frozen=True)
class Fold(FoldRows):
    """One prepared split with the rows of the experiment."""

    def twin(self, name: str, seeds: int, config: PerturbationModelConfig) -> Supervised:
        """Fit the twin with seeds 0, 1, ..., one replica each."""
        return supervised(name, [self.fit(seed, config) for seed in range(seeds)])

    def twins(self, seeds: int) -> list[Supervised]:
        """Fit the twin with seeds 0, 1, ...: as it is, with every cell network kept, and without any.

        The three are one fit: the cell network is trained last, and kept or silenced after that.
        """
        kept = [self.fit(seed, PerturbationModelConfig(earns_its_place=False)) for seed in range(seeds)]
        silent = [without_departures(model) for model in kept]
        chosen = [k if self.earns(k) else s for k, s in zip(kept, silent, strict=True)]
        rows = {"": chosen, "_no_earns_its_place": kept, "_no_cell_network": silent}
        return [supervised(f"experimental{name}", models) for name, models in rows.items()]

    def earns(self, model: PerturbationModel) -> bool:
        """Tell whether the cell network of a twin brings validation cells nearer."""
        parts = (model.cell_network, model.label_network, model.lent, model.table)
        return earns_its_place(self.prepared, self.embedding, *parts, self.latent)

    def shuffled(self, seeds: int) -> Supervised:
        """Fit the twin on shuffled labels, one shuffle a seed."""
        models = [
            replace(self, prepared=shuffled(self.prepared, seed)).fit(seed, MEAN_ONLY)
            for seed in range(seeds)
        ]
        return supervised("experimental_shuffled", models)

    def plain(self) -> list[Supervised]:
        """Fit the baselines that these data can give."""
        return [supervised(name, [model]) for name, model in self.plain_models()]


def ablated(prepared: Prepared) -> Iterator[tuple[str, PerturbationModelConfig]]:
    """Yield name and configuration of the twin without each part of its means that these test cells ask for.

    The label network speaks of parts that training cells carry, borrowing of all others.
    """
    known = {part for label in prepared.train_perturbations for part in parts(label)}
    obs = prepared.cells.obs
    asked = {
        part for label in obs.loc[obs["split"] == "test", "perturbation"].unique() for part in parts(label)
    }
    silent = {"borrow"} if asked <= known else set()
    silent |= {"label_network"} if not asked & known else set()
    for part in ABLATIONS:
        if part not in silent:
            yield f"experimental_no_{part}", PerturbationModelConfig(**{part: False})


def shuffled(prepared: Prepared, seed: int) -> Prepared:
    """Return the dataset with labels shuffled among the perturbed training cells of each context."""
    cells, rng = prepared.cells.copy(), np.random.default_rng(seed)
    labels = cells.obs["perturbation"].astype(str).to_numpy()
    context = cells.obs["cell_context"].astype(str).to_numpy()
    perturbed = ((cells.obs["split"] == "train") & (labels != CONTROL)).to_numpy()
    for place in np.unique(context):
        rows = np.flatnonzero(perturbed & (context == place))
        labels[rows] = rng.permutation(labels[rows])
    cells.obs["perturbation"] = labels
    return replace(prepared, cells=cells)

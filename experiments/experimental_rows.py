"""The rows of the experimental twin's tables: baselines, the twin, and the twin without each of its parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from experiments.part import Row
from twinlib.data.pairing import Pairs, pair
from twinlib.data.schema import CONTROL, parts
from twinlib.errors import DataError
from twinlib.evaluation.calibration import Arms, arms, observed_change
from twinlib.evaluation.judge import Group, Supervised, supervised
from twinlib.experimental.baselines import BASELINES, encode_rows
from twinlib.experimental.perturbation_model import (
    PerturbationModel,
    PerturbationModelConfig,
    earns_its_place,
    fit_perturbation_model,
    without_departures,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from twinlib.data.preparation import Prepared
    from twinlib.embedding.attention import Embedding

#: Rows without training of networks, `no_change` aside, which the judge adds.
PLAIN = tuple(name for name in BASELINES if name != "no_change")
#: Parts of the twin that are left out by a fit of its own: fields of its configuration.
ABLATIONS = ("trust", "label_network", "borrow")
#: The twin without its cell network, which is the costly part.
MEAN_ONLY = PerturbationModelConfig(cell_network=False)


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
class Fold:
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

    def fit(self, seed: int, config: PerturbationModelConfig) -> PerturbationModel:
        """Fit the twin with one seed."""
        pairs = self.pairs if config.cell_network else None
        return fit_perturbation_model(self.prepared, self.embedding, pairs, config, seed, latent=self.latent)

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

    def plain(self, names: Sequence[str] = PLAIN) -> Iterator[Supervised]:
        """Fit baselines; `linear` is left out where the data cannot give it."""
        for name in names:
            try:
                yield supervised(name, [BASELINES[name](self.prepared, self.embedding)])
            except DataError:
                if name != "linear":
                    raise


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


def gene_rows(prepared: Prepared, models: Sequence[Supervised]) -> Iterator[Row]:
    """Yield the measured and the predicted change of every gene, for every test perturbation and dose."""
    obs = prepared.cells.obs
    test, values = (obs["split"] == "test").to_numpy(), np.asarray(prepared.cells.X)
    label, context = (obs[name].to_numpy(dtype=str) for name in ("perturbation", "cell_context"))
    dose = obs["dose"].to_numpy(dtype=float)
    for name, level in sorted(set(zip(label[test], dose[test], strict=True))):
        here = test & (label == name) & (dose == level)
        cells = arms(values, here, test & (label == CONTROL), context)
        if name == CONTROL or cells is None:
            continue
        columns = {"measured": observed_change(cells)}
        columns |= {model.name: _change(model, cells, str(name), float(level)) for model in models}
        for i, gene in enumerate(prepared.genes):
            yield {"perturbation": name, "dose": level, "gene": gene} | {k: v[i] for k, v in columns.items()}


def _change(model: Supervised, cells: Arms, label: str, dose: float) -> np.ndarray:
    """Return the change [G] that the first replica predicts for one label, its contexts weighted."""
    pairs = zip(cells.contexts, cells.controls, strict=True)
    shifts = [(model.predict(Group(label, dose, name, ""), x)[0] - x).mean(axis=0) for name, x in pairs]
    return np.asarray(cells.weights @ np.stack(shifts))

"""What attention adds to the embedding: seeds of it and of its ablations, beside a PCA and the expression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from experiments.experiment import Experiment, Scratch, at_least_one, option
from experiments.part import Part, Row
from twinlib.data.sources import DATASETS
from twinlib.embedding import quality
from twinlib.errors import InputError

if TYPE_CHECKING:
    from experiments.folder import Parts
    from twinlib.data.preparation import Prepared
    from twinlib.embedding.attention import Embedding

#: Name of a row -> what differs from the default configuration.
MODELS: dict[str, Row] = {
    "learned": {},
    "uniform": {"attention": "uniform"},
    "none": {"attention": "none"},
    "random": {"attention": "random"},
    "known": {"network": "known"},
}
#: Datasets whose strong perturbations are known.
STRONG = tuple(name for name, entry in DATASETS.items() if entry.strong)
#: Training cells of a run, so that five seeds of five networks end within an hour of one processor.
TRAINING_CELLS = 4000
#: A gene is common when this share of the training cells shows it.
COMMON = 0.2
#: Test cells that are reconstructed.
ASKED = 1500
#: Maps cells [n, G] to codes [n, D], or back.
Code = Callable[[np.ndarray], np.ndarray]


class Scores:
    """The scores of codes on the test cells of one prepared dataset.

    Only the cells that a score asks for are encoded: controls, strong perturbations, and some test cells for
    the reconstruction.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.strong = prepared, DATASETS[prepared.dataset].strong
        self.x = quality.clamped(prepared)
        self.centre = quality.clamped(prepared, "train").mean(axis=0)
        test = np.random.default_rng(0).permutation(prepared.rows("test"))
        self.asked = np.sort(test[:ASKED])
        groups = [prepared.rows(None, name) for name in ("control", *self.strong)]
        self.needed = np.unique(np.concatenate([self.asked, *groups]))
        self.common = (prepared.expression("train") > 0).mean(axis=0) >= COMMON

    def row(self, model: str, seed: int, encode: Code, decode: Code) -> Row:
        """Return the scores of one code."""
        codes = encode(self.x[self.needed])
        every = np.full((len(self.x), codes.shape[1]), np.nan, dtype=np.float32)
        every[self.needed] = codes
        x, back = self.x[self.asked], decode(every[self.asked])
        row: Row = {"model": model, "seed": seed, "test_r2": quality.explained(x, back, self.centre)}
        common = (values[..., self.common] for values in (x, back, self.centre))
        row["test_r2_common"] = quality.explained(*common)
        row["change_kept"] = np.mean([self.change_kept(every, decode, name) for name in self.strong])
        for name in self.strong:
            row[f"recovery_{name}"] = quality.neighbour_recovery(every, self.prepared, name, seed=seed)
        return row

    def change_kept(self, codes: np.ndarray, decode: Code, name: str) -> float:
        """Return the correlation over genes of the mean change with the same change, encoded and decoded."""
        p, c = self.prepared.rows("test", name), self.prepared.rows("test", "control")
        true = self.x[p].mean(axis=0) - self.x[c].mean(axis=0)
        return float(np.corrcoef(true, decode(codes[p]).mean(axis=0) - decode(codes[c]).mean(axis=0))[0, 1])


def fewer_cells(prepared: Prepared, n: int) -> Prepared:
    """Return the same preparation with n of its training cells, drawn once; the scaler stays."""
    rows = prepared.rows("train")
    if len(rows) <= n:
        return prepared
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:n])
    return replace(prepared, cells=prepared.cells[rows].copy())


def regulator_rows(embedding: Embedding, prepared: Prepared, seed: int) -> list[Row]:
    """Return the average precision of three scores for the true regulators, over the pairs of the graph."""
    import torch
    from sklearn.metrics import average_precision_score

    from twinlib.embedding.gene_graph import correlation

    controls = np.clip(prepared.scale(prepared.expression("train", "control")), -10, 10)
    truth, weights = quality.regulator_matrix(prepared), quality.attention_matrix(embedding, controls[:512])
    strength = correlation(torch.as_tensor(controls)).abs().numpy()
    table = embedding.neighbours.numpy()[:, 1:]
    pairs = np.repeat(np.arange(len(table)), table.shape[1]), table.ravel()
    scores = {"attention": weights[pairs], "correlation": strength[pairs]}
    precision = {name: average_precision_score(truth[pairs], score) for name, score in scores.items()}
    precision["chance"] = truth[pairs].mean()
    return [{"seed": seed, "score": name, "average_precision": value} for name, value in precision.items()]


@dataclass(frozen=True)
class EmbeddingQuality(Experiment):
    """The learned embedding, four ablations, a PCA and the expression itself, scored on test cells."""

    name = "embedding"

    dataset: str = option("waddington", f"one of {', '.join(STRONG)}; several: DIR/NAME each")
    seeds: int = option(5, "seeds of each network")
    epochs: int = option(4, "passes over the training cells")

    def __post_init__(self) -> None:
        at_least_one(self, "seeds", "epochs")
        if self.dataset not in STRONG:
            known = ", ".join(STRONG)
            raise InputError(f"Strong perturbations of {self.dataset!r} are not known; choose from {known}.")

    def parts(self, finished: Parts) -> Sequence[str]:
        """One part a seed and model."""
        from twinlib.data.sources import dataset

        models = [m for m in MODELS if m != "known" or not dataset(self.dataset).files]  # only simulated
        return [f"{model}~{seed}" for seed in range(self.seeds) for model in ("pca", "expression", *models)]

    @cached_property
    def scores(self) -> Scores:
        """The questions."""
        from twinlib.data.preparation import standard

        return Scores(standard(self.dataset))

    @cached_property
    def fitted(self) -> Prepared:
        """The cells that the networks see."""
        return fewer_cells(self.scores.prepared, TRAINING_CELLS)

    def compute(self, part: str, scratch: Scratch) -> Part:
        """Score one model with one seed."""
        model, _, number = part.partition("~")
        if model == "pca":
            pca = quality.PrincipalComponents(quality.clamped(self.fitted, "train"))
            tables = {"quality": [self.scores.row(model, int(number), pca.encode, pca.decode)]}
        elif model == "expression":
            tables = {"quality": [self.scores.row(model, int(number), np.asarray, np.asarray)]}
        else:
            tables = self._network(model, int(number), scratch)
        p = self.scores.prepared
        return Part({**tables}, run={"fingerprint": p.fingerprint, "data_hash": p.data_hash})

    def _network(self, model: str, seed: int, scratch: Scratch) -> dict[str, list[Row]]:
        """Train and score a network; where the true network is known, score the learned attention, too."""
        import torch

        from twinlib.embedding.attention import EmbeddingConfig
        from twinlib.embedding.train import train_embedding

        config = replace(EmbeddingConfig(epochs=self.epochs, batch_size=64), **MODELS[model])
        embedding, history = train_embedding(self.fitted, config, seed, progress=scratch.progress)
        with torch.no_grad():
            row = self.scores.row(
                model,
                seed,
                lambda x: embedding.encode(torch.as_tensor(x)).numpy(),
                lambda z: embedding.decode(torch.as_tensor(z)).numpy(),
            )
        row |= {"training_cells": self.fitted.cells.n_obs, "epochs": len(history)}
        row["validation_mse"] = history["validation_mse"].min()
        known = model == "learned" and "regulators" in self.scores.prepared.cells.uns["twinlib"]
        regulators = regulator_rows(embedding, self.scores.prepared, seed) if known else []
        return {"quality": [row], "regulators": regulators}

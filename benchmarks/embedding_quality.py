"""What attention adds to the embedding: five seeds of it and of its ablations, beside a PCA.

`python benchmarks/embedding_quality.py` shows a shortened run (one seed, one pass) and writes nothing.
With `--dataset D --seeds 5 --out results/embedding/D` it writes the recorded tables
quality.csv and, where the network is known, regulators.csv; rows that are there already are not run again.
Prints one JSON line a figure.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score

from twinlib.data.preparation import standard
from twinlib.data.sources import DATASETS, choose
from twinlib.embedding.attention import EmbeddingConfig
from twinlib.embedding.gene_graph import correlation
from twinlib.embedding.quality import (
    PrincipalComponents,
    attention_matrix,
    clamped,
    explained,
    neighbour_recovery,
    regulator_matrix,
)
from twinlib.embedding.train import train_embedding

#: name of a row -> what differs from the default configuration
MODELS = {
    "learned": {},
    "uniform": {"attention": "uniform"},
    "none": {"attention": "none"},
    "random": {"attention": "random"},
    "known": {"network": "known"},
}
EPOCHS = 4
#: training cells of a run, so that five seeds of five networks end within an hour of one processor
TRAINING_CELLS = 4000
#: a gene is common when this share of the training cells shows it
COMMON = 0.2


class Scores:
    """The scores of codes on the test cells of one prepared dataset.

    Only the cells that a score asks for are encoded: controls and strong perturbations, and up to 1,500 test
    cells for the reconstruction.
    """

    def __init__(self, prepared):
        self.prepared, self.strong = prepared, DATASETS[prepared.dataset].strong
        self.x, self.centre = clamped(prepared), clamped(prepared, "train").mean(axis=0)
        test = np.random.default_rng(0).permutation(prepared.rows("test"))
        self.asked = np.sort(test[:1500])
        groups = [prepared.rows(None, name) for name in ("control", *self.strong)]
        self.needed = np.unique(np.concatenate([self.asked, *groups]))
        self.common = (prepared.expression("train") > 0).mean(axis=0) >= COMMON

    def row(self, model, seed, encode, decode):
        found = encode(self.x[self.needed])
        codes = np.full((len(self.x), found.shape[1]), np.nan, dtype=np.float32)
        codes[self.needed] = found
        x, back = self.x[self.asked], decode(codes[self.asked])
        row = {"model": model, "seed": seed, "test_r2": explained(x, back, self.centre)}
        row["test_r2_common"] = explained(x[:, self.common], back[:, self.common], self.centre[self.common])
        row["change_kept"] = np.mean([self.change_kept(codes, decode, name) for name in self.strong])
        for name in self.strong:
            row[f"recovery_{name}"] = neighbour_recovery(codes, self.prepared, name, seed=seed)
        return row

    def change_kept(self, codes, decode, name):
        """Correlation over genes of the mean change and of the same change after encoding and decoding."""
        p, c = self.prepared.rows("test", name), self.prepared.rows("test", "control")
        true = self.x[p].mean(axis=0) - self.x[c].mean(axis=0)
        return np.corrcoef(true, decode(codes[p]).mean(axis=0) - decode(codes[c]).mean(axis=0))[0, 1]


def fewer_cells(prepared, n):
    """The same preparation with n of its training cells, drawn once; the scaler stays."""
    rows = prepared.rows("train")
    if len(rows) <= n:
        return prepared
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:n])
    return dataclasses.replace(prepared, cells=prepared.cells[rows].copy())


def regulator_rows(embedding, prepared, seed):
    """Average precision of three scores for the true regulators, over the pairs of the graph."""
    controls = np.clip(prepared.scale(prepared.expression("train", "control")), -10, 10)
    truth, weights = regulator_matrix(prepared), attention_matrix(embedding, controls[:512])
    strength = correlation(torch.as_tensor(controls)).abs().numpy()
    table = embedding.neighbours.numpy()[:, 1:]
    pairs = np.repeat(np.arange(len(table)), table.shape[1]), table.ravel()
    found = {"attention": weights[pairs], "correlation": strength[pairs]}
    rows = [
        {"score": k, "average_precision": average_precision_score(truth[pairs], v)} for k, v in found.items()
    ]
    rows.append({"score": "chance", "average_precision": truth[pairs].mean()})
    return [{"seed": seed} | row for row in rows]


def save(frame, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    frame.to_csv(beside, index=False, float_format="%.6g")
    os.replace(beside, path)


def read(path):
    return pd.read_csv(path) if path and path.exists() else pd.DataFrame()


def done(frame, **wanted):
    return len(frame) > 0 and (frame[list(wanted)] == pd.Series(wanted)).all(axis=1).any()


def manifest(out, dataset, epochs, prepared):
    """Write how the tables beside it were made."""
    packages = ("twinlib", "numpy", "torch", "scikit-learn")
    told = {
        "command": f"python benchmarks/embedding_quality.py --dataset {dataset} --seeds 5 --out {out}",
        "epochs": epochs,
        "training_cells": TRAINING_CELLS,
        "fingerprint": prepared.fingerprint,
        "data_hash": prepared.data_hash,
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").write_text(json.dumps(told, indent=2) + "\n")


def run(dataset, seeds, epochs, out):
    prepared = standard(dataset)
    scores = Scores(prepared)
    quality_file, regulator_file = (
        out / f"{name}.csv" if out else None for name in ("quality", "regulators")
    )
    quality, regulators = read(quality_file), read(regulator_file)
    known = "regulators" in prepared.cells.uns["twinlib"]
    fitted = fewer_cells(prepared, TRAINING_CELLS)
    pca = PrincipalComponents(clamped(fitted, "train"))
    for seed in range(seeds):
        for model in ("pca", "expression", *MODELS):
            if done(quality, model=model, seed=seed) or (model == "known" and not known):
                continue
            if model == "pca":
                row = scores.row(model, seed, pca.encode, pca.decode)
            elif model == "expression":
                row = scores.row(model, seed, np.asarray, np.asarray)
            else:
                config = EmbeddingConfig(epochs=epochs, batch_size=64, **MODELS[model])
                embedding, history = train_embedding(fitted, config, seed)
                with torch.no_grad():
                    row = scores.row(
                        model,
                        seed,
                        lambda x, e=embedding: e.encode(torch.as_tensor(x)).numpy(),
                        lambda z, e=embedding: e.decode(torch.as_tensor(z)).numpy(),
                    )
                row |= {
                    "training_cells": fitted.cells.n_obs,
                    "epochs": len(history),
                    "validation_mse": history["validation_mse"].min(),
                }
                if model == "learned" and known:
                    regulators = pd.concat(
                        [regulators, pd.DataFrame(regulator_rows(embedding, prepared, seed))]
                    )
            print(json.dumps({"name": f"embedding_quality/{dataset}"} | row), flush=True)
            quality = pd.concat([quality, pd.DataFrame([row])])
            if out:
                manifest(out, dataset, epochs, prepared)
                save(quality, quality_file)
                if len(regulators):
                    save(regulators, regulator_file)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    dataset = options.dataset or choose("papalexi2021", "waddington")
    epochs = options.epochs or (EPOCHS if options.out else 1)
    run(dataset, options.seeds, epochs, options.out)


if __name__ == "__main__":
    main()

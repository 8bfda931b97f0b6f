"""What attention adds to the embedding: five seeds of it and of its ablations, beside a PCA.

`python benchmarks/embedding_quality.py` shows a shortened run (one seed, one pass) and writes nothing.
With `--dataset D --seeds 5 --out results/embedding/D` it writes the recorded tables
quality.csv and, where the network is known, regulators.csv; rows that are there already are not run again.
Prints one JSON line a figure.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score

from twinlib.data import choose, standard
from twinlib.embedding import EmbeddingConfig, train_embedding
from twinlib.embedding.gene_graph import correlation
from twinlib.embedding.quality import (
    STRONG,
    PrincipalComponents,
    attention_matrix,
    clamped,
    explained,
    neighbour_recovery,
    regulator_matrix,
)

#: name of a row -> what differs from the default configuration
MODELS = {
    "learned": {},
    "uniform": {"attention": "uniform"},
    "none": {"attention": "none"},
    "random": {"attention": "random"},
    "known": {"network": "known"},
}
EPOCHS = {"papalexi2021": 2, "waddington": 4}


class Scores:
    """The scores of codes on the test cells of one prepared dataset."""

    def __init__(self, prepared):
        self.prepared = prepared
        self.train, self.test, self.all = (clamped(prepared, split) for split in ("train", "test", None))

    def row(self, model, seed, encode, decode):
        codes = encode(self.all)
        test = self.prepared.cells.obs["split"].to_numpy() == "test"
        row = {"model": model, "seed": seed}
        row["test_r2"] = explained(self.test, decode(codes[test]), self.train.mean(axis=0))
        for name in STRONG[self.prepared.dataset]:
            row[f"recovery_{name}"] = neighbour_recovery(codes, self.prepared, name, seed=seed)
        return row


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


def run(dataset, seeds, epochs, out):
    prepared = standard(dataset)
    scores = Scores(prepared)
    quality_file, regulator_file = (
        out / f"{name}.csv" if out else None for name in ("quality", "regulators")
    )
    quality, regulators = read(quality_file), read(regulator_file)
    known = "regulators" in prepared.cells.uns["twinlib"]
    pca = PrincipalComponents(scores.train)
    for seed in range(seeds):
        for model in ("pca", "expression", *MODELS):
            if done(quality, model=model, seed=seed) or (model == "known" and not known):
                continue
            if model == "pca":
                row = scores.row(model, seed, pca.encode, pca.decode)
            elif model == "expression":
                row = scores.row(model, seed, np.asarray, np.asarray)
            else:
                config = EmbeddingConfig(epochs=epochs, **MODELS[model])
                embedding, history = train_embedding(prepared, config, seed)
                with torch.no_grad():
                    row = scores.row(
                        model,
                        seed,
                        lambda x, e=embedding: e.encode(torch.as_tensor(x)).numpy(),
                        lambda z, e=embedding: e.decode(torch.as_tensor(z)).numpy(),
                    )
                row |= {"epochs": len(history), "validation_mse": history["validation_mse"].min()}
                if model == "learned" and known:
                    regulators = pd.concat(
                        [regulators, pd.DataFrame(regulator_rows(embedding, prepared, seed))]
                    )
            print(json.dumps({"name": f"embedding_quality/{dataset}"} | row), flush=True)
            quality = pd.concat([quality, pd.DataFrame([row])])
            if out:
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
    epochs = options.epochs or (EPOCHS[dataset] if options.out else 1)
    run(dataset, options.seeds, epochs, options.out)


if __name__ == "__main__":
    main()

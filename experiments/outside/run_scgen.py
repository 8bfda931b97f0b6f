"""scGen (pertpy's port): run_scgen.py FOLDER ANSWER SEED PASSES, in an environment with pertpy.

Trains on FOLDER/train.h5ad with a tenth of its cells for early stopping, and moves every question of
FOLDER/query.h5ad by the latent difference of its perturbation: row i answers control i.
"""

from __future__ import annotations

import os
import pathlib
import sys
from typing import Any

import anndata
import numpy as np
import pertpy
import scvi

#: Units of the hidden layers and of the latent code.
HIDDEN, LATENT = 256, 50


def trained(train: anndata.AnnData, seed: int, passes: int) -> Any:
    """Return scGen trained on cells [n, G]."""
    scvi.settings.seed = seed
    pertpy.tl.Scgen.setup_anndata(train, batch_key="perturbation", labels_key="cell_context")
    model = pertpy.tl.Scgen(train, n_hidden=HIDDEN, n_latent=LATENT)
    model.train(max_epochs=passes, batch_size=64, early_stopping=True, early_stopping_patience=25)
    return model


def answered(model: Any, train: anndata.AnnData, query: anndata.AnnData) -> anndata.AnnData:
    """Return the questions [n, G] with the predicted expression."""
    asked = query[query.obs["perturbation"] != "control"].copy()
    for label in asked.obs["perturbation"].unique():
        rows = np.flatnonzero(asked.obs["perturbation"] == label)
        cells = asked[rows].copy()
        # the model must have seen both columns; the context of the cells that are moved enters nowhere
        cells.obs["perturbation"] = "control"
        cells.obs["cell_context"] = str(train.obs["cell_context"].iloc[0])
        moved, _ = model.predict(ctrl_key="control", stim_key=label, adata_to_predict=cells)
        asked.X[rows] = np.clip(np.asarray(moved.X), 0, None)
    return asked


def main() -> None:
    """Train, answer, and put the answer in place in one step."""
    folder, answer, seed, passes = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    train, query = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("train", "query"))
    answered(trained(train, seed, passes), train, query).write_h5ad(answer + ".part")
    os.replace(answer + ".part", answer)


if __name__ == "__main__":
    main()
